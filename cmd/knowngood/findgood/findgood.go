// Package findgood finds the newest good snapshot of an environment: it restores one
// after the other into the same directory, as few as possible, and has a probe judge
// each. It prints each step and the answer.
//
// What it reports as good was restored whole, every byte verified, and passed the probe.
// The probe runs as the caller, with all rights that the caller has.
package findgood

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"knowngood/cmd/knowngood/catalog"
	"knowngood/cmd/knowngood/drills"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/internal/scratch"
	"knowngood/snapshot/bisect"
	"knowngood/storage/history"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// Options are the flags of the command.
type Options struct {
	Probe          string        // a line for the shell
	Command        []string      // or a program with its arguments
	Drill          bool          // or a drill
	Timeout        time.Duration // of one probe; 0 is none
	Since, Until   string
	Leave, Scratch string // directories
}

// Run searches an environment.
func Run(ctx context.Context, sess *session.Session, o *Options, environment string) (err error) {
	p := &prober{sess: sess, probe: o.Command, timeout: o.Timeout}
	if n := btoi(o.Probe != "") + btoi(len(o.Command) > 0) + btoi(o.Drill); n != 1 {
		return usage.Errorf("how is a good snapshot recognized? Give --probe 'COMMAND LINE', or a program with its arguments after --, or --drill")
	}
	if o.Drill && o.Timeout != 0 {
		return usage.Errorf("--timeout is for a probe: a drill has its max_duration")
	}
	if o.Probe != "" {
		p.probe = []string{"/bin/sh", "-c", o.Probe}
	}
	s, err := newSearch(ctx, sess, o, environment)
	if err != nil {
		return err
	}
	below := cmp.Or(o.Scratch, os.TempDir())
	if o.Leave != "" {
		// Beside it: at the end the tree only gets its name.
		if names, err := os.ReadDir(o.Leave); len(names) > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
			return usage.Errorf("--leave: %s is no empty directory: name a new one", o.Leave)
		}
		below = filepath.Dir(filepath.Clean(o.Leave))
	}
	if below, err = filepath.Abs(below); err != nil {
		return err
	}
	space, err := scratch.New(below, "knowngood-find-good-")
	if err != nil {
		return fmt.Errorf("no directory for the trees: %w (--scratch DIR names another place)", err)
	}
	defer func() {
		if rerr := space.Remove(); rerr != nil {
			err = errors.Join(err, fmt.Errorf("%s is left behind, with files of a snapshot: %w", space.Dir, rerr))
		}
	}()

	p.dir = filepath.Join(space.Dir, "tree")
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return err
	}
	judge := Judge(p)
	if o.Drill {
		d := drills.EntryOf(sess, s.snapshots[0].Host, environment)
		if len(d.Probes) == 0 {
			return usage.Errorf("--drill: the configuration of this machine has no drill with probes for %s: configure one, or give --probe", environment)
		}
		judge = &driller{sess, d, o.Scratch}
	}
	if err := s.run(ctx, judge); err != nil {
		return err
	}
	if newest := s.Newest(); o.Leave != "" && newest >= 0 {
		// The probe may have changed the tree, and another one may have been tested last.
		if _, err := p.restore(ctx, s.snapshots[newest].Snapshot); err != nil {
			return err
		}
		if err := os.Rename(p.dir, o.Leave); err != nil {
			return err
		}
		s.tree = o.Leave
	}
	return s.print()
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// search is a search under way.
type search struct {
	*bisect.Search
	sess      *session.Session
	snapshots []catalog.Snapshot
	suspect   map[*history.Snapshot]bool
	mark      func(*history.Snapshot) string // that it is bad
	unlisted  bool                           // some snapshots do not verify, and are not among them
	tested    int                            // how many were
	tree      string                         // where that of the answer is left; "" for nowhere
}

// newSearch gathers the snapshots that the flags name.
func newSearch(ctx context.Context, sess *session.Session, o *Options, environment string) (*search, error) {
	now := time.Now()
	from, until := time.Time{}, now.Add(100*365*24*time.Hour) // whatever the clock of the host was
	var err error
	if o.Since != "" {
		from, _, err = usage.Moment("--since", o.Since, now)
	}
	if o.Until != "" && err == nil {
		_, until, err = usage.Moment("--until", o.Until, now)
	}
	if err != nil {
		return nil, err
	}
	unusable := sess.Out.Problems()
	all, damaged, err := catalog.Named(ctx, sess, environment, unusable.AddError)
	unusable.End()
	if err != nil || len(all) == 0 {
		return nil, cmp.Or(err, damaged)
	}
	s := &search{sess: sess, unlisted: damaged != nil}
	// Those of the same domain and digest have the same content. What is sealed is like no other.
	type content struct {
		domain seal.DomainID
		digest [32]byte
		sealed uint64
	}
	var contents []content
	for _, x := range all {
		if x.At.Before(from) || !x.At.Before(until) {
			continue
		}
		c := content{sealed: x.Number}
		if x.Body != nil && x.Domain != nil {
			c = content{domain: x.Domain.ID, digest: x.Body.Content}
		}
		s.snapshots, contents = append(s.snapshots, x), append(contents, c)
	}
	if len(contents) == 0 {
		return nil, usage.Errorf("%s has no snapshot between --since and --until, of %d that there are", environment, len(all))
	}
	s.Search = bisect.New(contents)
	s.mark = present.Marks(ctx, sess.Out, sess.Repo, s.snapshots[0].Host, s.snapshots[0].Environment)
	s.suspect, err = catalog.Suspects(ctx, sess.Repo, s.snapshots)
	return s, err
}

// run tests until the answer is known, and prints each step.
func (s *search) run(ctx context.Context, judge Judge) error {
	s.sess.Out.Notef("%s: at most %s, the newest first", s.span(), human.Counted(s.AtMost(), "test"))
	scanning := false
	for i := s.Next(); i >= 0; i = s.Next() {
		if s.Scanning() && !scanning {
			scanning = true
			why := s.name(0) + ", the oldest, is bad already"
			if s.Newest() >= 0 {
				why = "a snapshot is good after a bad one"
			}
			s.sess.Out.Notef("%s: now each is tested, from the newest on; at most %s", why, human.Counted(s.AtMost(), "test"))
		}
		began := time.Now()
		a, err := judge.Judge(ctx, s.snapshots[i].Snapshot)
		if err != nil {
			return err
		}
		s.Set(i, a.Answer)
		s.tested++
		if err := s.step(i, a, time.Since(began)); err != nil {
			return err
		}
	}
	return nil
}

// step prints a test.
func (s *search) step(i int, a Answer, took time.Duration) error {
	x, why := s.snapshots[i], ""
	if a.Why != "" {
		why = ": " + printable.Line(a.Why)
	}
	width := len(s.name(len(s.snapshots) - 1))
	s.sess.Out.Printf("%-*s  %s  %-10s %8s%s%s\n", width, s.name(i), x.At.Local().Format("2006-01-02 15:04:05"), a.Answer, human.Duration(took), s.marked(i), why)
	return s.sess.Out.Result(map[string]any{"type": "step", "ref": x.Ref(), "host": x.Host, "time": x.At.UTC(), "answer": a.Answer, "reason": a.Why, "marks": s.marks(i), "seconds": took.Seconds()})
}

// marks are what else a person should know of a snapshot.
func (s *search) marks(i int) (out []string) {
	x := s.snapshots[i]
	if s.suspect[x.Snapshot] {
		out = append(out, "suspect")
	}
	if x.Body != nil && x.Body.Status == statement.Partial {
		out = append(out, "partial")
	}
	if mark := s.mark(x.Snapshot); mark != "" {
		out = append(out, printable.Line(mark))
	}
	return out
}

func (s *search) marked(i int) string {
	if marks := s.marks(i); len(marks) > 0 {
		return " (" + strings.Join(marks, ", ") + ")"
	}
	return ""
}

// name is how a user of this machine names a snapshot.
func (s *search) name(i int) string {
	x := s.snapshots[i]
	if x.Host != s.sess.Host {
		return x.Host + "/" + x.Ref()
	}
	return x.Ref()
}

// span is which snapshots are searched.
func (s *search) span() string {
	n := len(s.snapshots)
	return fmt.Sprintf("%s, from %s to %s", human.Counted(n, "snapshot"), s.name(0), s.name(n-1))
}

// named are the snapshots with an answer, from a position on.
func (s *search) named(from int, a bisect.Answer) []string {
	out := []string{}
	for i := from; i < len(s.snapshots); i++ {
		if s.Known(i) == a {
			out = append(out, s.name(i))
		}
	}
	return out
}

// print prints the answer, and what to do next.
func (s *search) print() error {
	out, newest := s.sess.Out, s.Newest()
	bad, untestable := s.named(newest+1, bisect.Bad), s.named(0, bisect.Untestable)
	result := map[string]any{"type": "result", "found": newest >= 0, "untestable": untestable, "snapshots": len(s.snapshots), "tested": s.tested, "scanned": s.Scanning()}
	switch {
	case newest >= 0:
		result["snapshot"] = present.Snapshot(s.sess.Repo, s.snapshots[newest].Snapshot)
		out.Printf("The newest good snapshot is %s of %s%s.\n", s.name(newest), human.Time(s.snapshots[newest].At), s.marked(newest))
		if len(bad) > 0 {
			result["first_bad"] = bad[0]
			out.Printf("What changed after it:  knowngood diff %s %s\n", s.name(newest), bad[0])
		} else {
			out.Printf("No later one is bad: what is wrong came later, or the probe does not see it.\n")
		}
		if s.tree != "" {
			result["tree"] = s.tree
			out.Printf("Its tree is in:         %s\n", printable.Name(s.tree))
		} else {
			out.Printf("Take it back:           knowngood restore %s --target DIR\n", s.name(newest))
		}
	case len(bad) > 0:
		out.Code = exit.ProbeFailed
		out.Printf("No good snapshot was found, of %s. If the probe fails for a reason of its own, look at what it sees: knowngood restore %s --target DIR\n", s.span(), bad[len(bad)-1])
	default:
		out.Printf("No snapshot could be tested, of %s.\n", s.span())
	}
	if len(untestable) > 0 || s.unlisted {
		out.Code = exit.Incomplete
		out.Messagef("%s could not be tested: see above. Nothing is known of what was not; knowngood check shows damage", human.Counted(len(untestable), "snapshot"))
	}
	return out.Result(result)
}
