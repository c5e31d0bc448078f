package findgood

import (
	"context"
	"fmt"
	"strings"

	"knowngood/cmd/knowngood/drills"
	"knowngood/cmd/knowngood/session"
	"knowngood/configs"
	"knowngood/restore/drill"
	"knowngood/snapshot/bisect"
	"knowngood/storage/attest"
	"knowngood/storage/history"
)

// driller drills each snapshot. Nothing is signed: the answer of a search is no
// proof.
type driller struct {
	sess    *session.Session
	drill   *configs.DrillEntry
	scratch string
}

func (d *driller) Judge(ctx context.Context, s *history.Snapshot) (Answer, error) {
	rep, err := drills.Unsigned(ctx, d.sess, s, d.drill, d.scratch)
	if err != nil {
		return untested(d.sess, s, err)
	}
	for _, damage := range rep.Damage {
		d.sess.Damage.Add(damage)
	}
	missing := drill.Untested(&rep.Result)
	switch {
	case len(rep.Damage) > 0:
		return Answer{bisect.Untestable, "damaged: " + rep.Damage[0].Error()}, nil
	case !rep.Result.Passed:
		return Answer{bisect.Bad, why(rep)}, nil
	case len(missing) > 0:
		return Answer{bisect.Untestable, "not tested: " + strings.Join(missing, ", ")}, nil
	}
	return Answer{bisect.Good, strings.Join(rep.Notes, "; ")}, nil
}

// why is why a drill failed.
func why(rep *drill.Report) string {
	out := rep.Notes
	for i, p := range rep.Result.Probes {
		if p.Required && p.Status == attest.Failed {
			out = append(out, fmt.Sprintf("%s: %s", p.Name, rep.Answers[i].Detail))
		}
	}
	return strings.Join(out, "; ")
}
