package findgood

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/session"
	"knowngood/internal/command"
	"knowngood/restore"
	"knowngood/restore/owners"
	"knowngood/snapshot"
	"knowngood/snapshot/bisect"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/trust"
)

// Answer is what a test of a snapshot gave.
type Answer struct {
	bisect.Answer
	Why string // for people; "" where there is nothing to add
}

// Judge tests snapshots, one after the other. An error ends the search; that a
// snapshot cannot be tested is none.
type Judge interface {
	Judge(ctx context.Context, s *history.Snapshot) (Answer, error)
}

// Exit codes of a probe with a meaning of their own, as git bisect has them.
const (
	undecided     = 125
	notExecutable = 126
	notFound      = 127
)

// prober restores each snapshot into the same directory, in place, and runs a command
// there.
type prober struct {
	sess    *session.Session
	probe   []string
	timeout time.Duration
	dir     string // absolute
	begun   bool   // something was restored
}

func (p *prober) Judge(ctx context.Context, s *history.Snapshot) (Answer, error) {
	why, err := p.restore(ctx, s)
	if err != nil {
		return untested(p.sess, s, err)
	}
	a, err := p.run(ctx, s)
	if why != "" {
		a.Why = cmp.Or(a.Why, "exit status 0") + "; " + why
	}
	return a, err
}

// untested is what an error before the test means.
func untested(sess *session.Session, s *history.Snapshot, err error) (Answer, error) {
	identity := (*trust.IdentityError)(nil)
	switch {
	case authentic.Damaged(err):
		sess.Damage.Add(err)
		return Answer{bisect.Untestable, "damaged: " + err.Error()}, nil
	case errors.As(err, &identity):
		return Answer{bisect.Untestable, err.Error()}, nil
	}
	return Answer{}, fmt.Errorf("%s: %w", s.Ref(), err)
}

// restore makes the directory hold a snapshot and nothing else. It returns what of it
// is not as it was captured; what is damaged is an error.
func (p *prober) restore(ctx context.Context, s *history.Snapshot) (why string, err error) {
	tree, err := snapshot.OpenTree(ctx, p.sess.Repo, s)
	if err != nil {
		return "", err
	}
	defer tree.Reader.Close()
	o := restore.Options{Tree: tree, Target: p.dir, InPlace: true, Delete: true, Exact: true, Progress: &restore.Progress{}}
	o.Owners = owners.Options{Keep: os.Geteuid() != 0} // setting them takes root
	if !p.begun {
		if err := o.CheckSpace(ctx, p.dir); err != nil {
			return "", fmt.Errorf("%w; --scratch DIR names a directory with more room", err)
		}
	}
	p.begun = true
	bar := p.sess.Out.Progress(func() console.State {
		return console.State{Files: o.Progress.Files.Load(), Bytes: o.Progress.Bytes.Load(), Found: o.Progress.Found.Load(), Total: s.Body.ContentBytes, Note: "restoring " + s.Ref()}
	})
	result, err := restore.Run(ctx, o)
	bar.End()
	if err != nil {
		return "", err
	}

	for _, problem := range result.Problems {
		p.sess.Damage.Add(problem.Err)
		if result.Damaged && authentic.Damaged(problem.Err) {
			return "", fmt.Errorf("/%s: %w", problem.Path, problem.Err)
		}
	}
	if result.Damaged {
		return "", &authentic.DamageError{Key: "content of " + s.Ref(), What: "files", Err: errors.New("they cannot be restored")}
	}
	if result.Count > 0 {
		first := result.Problems[0]
		why = fmt.Sprintf("%s, the first /%s: %v", human.Counted(result.Count, "path")+" not as captured", first.Path, first.Err)
	}
	return why, nil
}

// run runs the probe in the directory.
func (p *prober) run(ctx context.Context, s *history.Snapshot) (Answer, error) {
	c := command.Command{Argv: p.probe, Dir: p.dir, Timeout: p.timeout, Env: []string{"KNOWNGOOD_TREE=" + p.dir, "KNOWNGOOD_SNAPSHOT=" + s.Ref()}}
	if !p.sess.Out.Quiet && !p.sess.Out.JSON {
		c.Line = func(_, line string) { fmt.Fprintf(p.sess.Out.Stderr, "  | %s\n", line) }
	}
	err := endingLeft(func() error { return c.Run(ctx) })
	var failed *command.Error
	switch {
	case err == nil:
		return Answer{bisect.Good, ""}, nil
	case ctx.Err() != nil:
		return Answer{}, ctx.Err()
	case !errors.As(err, &failed):
		return Answer{}, err
	case failed.TimedOut:
		return Answer{bisect.Untestable, fmt.Sprintf("the probe took longer than %v (--timeout)", p.timeout)}, nil
	case failed.Signal != 0:
		return Answer{bisect.Bad, fmt.Sprintf("the probe was ended by a signal: %v", failed.Signal)}, nil
	case failed.ExitCode == undecided:
		return Answer{bisect.Untestable, fmt.Sprintf("the probe is undecided (exit status %d)", undecided)}, nil
	case failed.ExitCode < 0, failed.ExitCode == notExecutable, failed.ExitCode == notFound:
		return Answer{}, fmt.Errorf("the probe cannot be run with %s: %w (where its program belongs to the tree and is missing there, let it exit with %d)", s.Ref(), err, undecided)
	}
	return Answer{bisect.Bad, fmt.Sprintf("exit status %d", failed.ExitCode)}, nil
}
