// Package drill proves a snapshot by using it: it restores the snapshot into
// scratch space, every byte verified, compares what is on the disk with the list
// of files, starts services from the restored tree in a cell (package isolate),
// runs probes (package probe), and measures each phase.
//
// It promises that a result is passed only when all that was restored verified
// and no required probe failed, and that nothing is left of the scratch space, or
// that the next drill removes it. What is not tested is named and never passes.
//
// Three processes take part: the caller's, which holds the identity and restores;
// cells, which hold nothing and parse and run what is in the tree; and, once those
// have ended, the caller's again, which signs.
package drill

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"knowngood/configs"
	"knowngood/internal/scratch"
	"knowngood/restore"
	"knowngood/restore/isolate"
	"knowngood/restore/owners"
	"knowngood/restore/probe"
	"knowngood/snapshot"
	"knowngood/storage/attest"
	"knowngood/storage/history"
	"knowngood/storage/statement"
)

// Options of a drill.
type Options struct {
	Tree    *snapshot.Tree
	Base    *snapshot.Tree // of another environment, to lie beneath; nil for none or the host's
	Config  *configs.Drill
	Scratch string   // directory for scratch space; it must be one that only this user can change
	Cell    []string // the arguments by which this program serves in a cell
	Machine string   // that drills, by the name in the result
	Version string   // of the program
	Started time.Time
	Carried bool // switches leave data of the environment as it is, so that what is live is not proven
	// Progress of the restore; Step, when set, gets each phase as it begins.
	Progress *restore.Progress
	Step     func(phase string)
}

// Report is a result, and what of it concerns only people.
type Report struct {
	Result  attest.Result
	Answers []Answer // to services and probes, in the order of Result.Probes
	Notes   []string // more than Result.Unproven has: they may quote names of files
	Damage  []error  // that was found in the repository
	// Incomplete means that the snapshot, or this machine, lacks something of what
	// was captured.
	Incomplete bool
}

// Answer is what a service or a probe came to, in its own words.
type Answer struct {
	Name   string `json:"name"`
	Detail string `json:"detail,omitempty"`
	Output string `json:"output,omitempty"`
}

// ErrStopped is the end of a drill whose context ended.
var ErrStopped = errors.New("the drill was stopped: nothing is proven, and its scratch space is removed")

// Names of the phases.
const (
	phaseRestore  = "restore"
	phaseCompare  = "compare"
	phaseIsolate  = "isolate"
	phaseServices = "services"
	phaseProbes   = "probes"
)

// defaultDisk and defaultMemory are the limits of programs, in bytes; defaultNice is how
// far the machine takes precedence over them.
const (
	defaultDisk   = 1 << 30
	defaultMemory = 2 << 30
	defaultNice   = 10
)

// drill is one drill under way.
//
//	restore ──▶ compare ──▶ isolate ──▶ services ──▶ probes ──▶ level
//	  in this process         in cells, of which only answers come back
type drill struct {
	o       Options
	rep     *Report
	scratch *scratch.Space
	tree    string // where the snapshot is restored
	chosen  func(path string) bool
	cells   cells
	reserve uint64 // bytes that must be free beside the restored tree
	inexact uint64 // nodes that the restore reported as not restored exactly
	missing bool   // a service does not run
	failed  bool
}

// Begin is the result of a drill of a snapshot before anything was found out.
func Begin(s *history.Snapshot, o *Options) attest.Result {
	config, _ := json.Marshal(o.Config) // plain data
	return attest.Result{
		Subject: attest.Subject{Host: s.Host, Environment: s.Environment, Number: s.Number, ID: s.ID},
		Content: s.Body.Content, Of: s.Body.ContentBytes, Partial: s.Body.Status != statement.Complete,
		Machine: o.Machine, Version: o.Version, Config: sha256.Sum256(config), Started: o.Started,
		Isolation: attest.Isolation{Rung: isolate.Static, Base: "none"},
	}
}

// Unreadable is the report on a snapshot whose list of files is damaged.
func Unreadable(s *history.Snapshot, o *Options, damage error) *Report {
	rep := &Report{Result: Begin(s, o), Damage: []error{damage}}
	rep.Result.Unproven = []string{whyDamaged}
	rep.Result.Phases = []attest.Phase{{Name: phaseRestore, Took: time.Since(o.Started)}}
	return rep
}

// Run drills. An error means that nothing was found out about the snapshot.
func Run(ctx context.Context, o Options) (rep *Report, err error) {
	if d := time.Duration(o.Config.MaxDuration); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, o.Started.Add(d), fmt.Errorf("the drill took longer than its max_duration of %v: nothing is proven", o.Config.MaxDuration))
		defer cancel()
	}
	d := &drill{o: o, rep: &Report{Result: Begin(o.Tree.Snapshot, &o)}}
	if d.scratch, err = newScratch(o.Scratch); err != nil {
		return nil, err
	}
	defer func() {
		if rerr := d.scratch.Remove(); rerr != nil {
			err = errors.Join(err, fmt.Errorf("the scratch space of the drill is not removed: %w", rerr))
		}
	}()
	d.cells = cells{drill: d}
	defer func() { err = errors.Join(err, d.cells.close()) }()

	if err = d.run(ctx); err != nil {
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, context.Canceled):
			err = fmt.Errorf("%w (%w)", ErrStopped, cause)
		case cause != nil:
			err = cause
		}
		return nil, err
	}
	return d.rep, nil
}

func (d *drill) run(ctx context.Context) error {
	if err := d.prepare(ctx); err != nil {
		return err
	}
	if err := d.phase(phaseRestore, d.o.Started, func() error { return d.restore(ctx) }); err != nil {
		return err
	}
	if !d.failed {
		if err := d.phase(phaseCompare, time.Now(), func() error { return d.compare(ctx) }); err != nil {
			return err
		}
	}
	if !d.failed {
		if err := d.ask(ctx); err != nil {
			return err
		}
	} else {
		d.skipAll()
	}
	return d.judge(ctx)
}

// phase measures what is done, from a time on.
func (d *drill) phase(name string, from time.Time, do func() error) error {
	if d.o.Step != nil {
		d.o.Step(name)
	}
	err := do()
	d.rep.Result.Phases = append(d.rep.Result.Phases, attest.Phase{Name: name, Took: time.Since(from)})
	return err
}

// unproven adds a reason in fixed words, and what it is in detail.
func (d *drill) unproven(why, detail string) {
	d.rep.Result.Unproven = append(d.rep.Result.Unproven, why)
	if detail != "" {
		why += ": " + detail
	}
	d.rep.Notes = append(d.rep.Notes, why)
}

// fail is unproven, and ends the chance of a pass.
func (d *drill) fail(why, detail string) {
	d.failed = true
	d.unproven(why, detail)
}

func (d *drill) share() configs.Percent {
	if d.o.Config.Sample == nil {
		return 100
	}
	return *d.o.Config.Sample
}

// prepare chooses the sample, and finds out what must stay free beside it.
func (d *drill) prepare(ctx context.Context) error {
	whole, err := named(ctx, d.o.Tree, d.o.Config)
	if err != nil {
		return err
	}
	d.chosen = chooser(d.share(), d.o.Tree.Snapshot.ID, d.o.Started, whole)
	d.reserve = uint64(cmp.Or(d.o.Config.Limits.Disk, defaultDisk))
	if d.o.Base != nil {
		base, err := d.options(d.o.Base, "").Size(ctx)
		if err != nil {
			return err
		}
		d.reserve += base
	}
	// The scanner sees the tree below a root of its own.
	outer, err := d.scratchDir("outer")
	if err != nil {
		return err
	}
	d.tree = filepath.Join(outer, probe.TreeInScan)
	return errors.Join(os.Chmod(outer, 0o755), os.Mkdir(d.tree, 0o755))
}

// options of a restore into a directory of the scratch space.
func (d *drill) options(tree *snapshot.Tree, target string) *restore.Options {
	return &restore.Options{Tree: tree, Target: target, Owners: owners.Options{Keep: os.Geteuid() != 0}}
}

// restore restores the snapshot, every chunk verified.
func (d *drill) restore(ctx context.Context) error {
	o := d.options(d.o.Tree, d.tree)
	o.Progress, o.Reserve = d.o.Progress, d.reserve
	if d.share() < 100 {
		o.Sample = d.chosen
	}
	got, err := restore.Run(ctx, *o)
	if errors.Is(err, restore.ErrNoSpace) {
		err = fmt.Errorf("%w; a drill takes another directory with --scratch, and less room as a sample or with lower limits.disk", err)
	}
	if err != nil {
		return err
	}
	r := &d.rep.Result
	r.Files, r.Bytes, r.Store = got.Restored.Files, got.Restored.Bytes, o.Progress.Waited.Total()
	d.inexact = got.Count
	if got.Damaged {
		for _, p := range got.Problems {
			d.rep.Damage = append(d.rep.Damage, p.Err)
		}
	}
	switch missing := got.Planned.Files - got.Restored.Files; {
	case got.Damaged || got.Unlisted > 0:
		d.fail(whyDamaged, first(got.Problems))
	case missing > got.Incomplete:
		d.fail(whyFailed, fmt.Sprintf("%d files of %d are missing: %s", missing, got.Planned.Files, first(got.Problems)))
	case got.Count > got.Incomplete:
		d.rep.Incomplete = true
		d.unproven(whyNodes, first(got.Problems))
	}
	if r.Partial || got.Incomplete > 0 {
		r.Partial, d.rep.Incomplete = true, true
		d.unproven(whyPartial, "")
	}
	if d.share() < 100 {
		d.unproven(whySample, "")
	}
	if d.o.Carried {
		d.unproven(whyCarried, "")
	}
	return nil
}

func first(problems []restore.Problem) string {
	if len(problems) == 0 {
		return ""
	}
	return fmt.Sprintf("/%s: %v", problems[0].Path, problems[0].Err)
}

// compared is how many bytes are read once more from the disk, at most.
const compared = 1 << 30

// compare reads what lies on the disk once more, of large trees a part, and
// compares it with the list of files.
func (d *drill) compare(ctx context.Context) error {
	share := configs.Percent(100)
	if r := &d.rep.Result; r.Bytes > compared {
		share = max(1, configs.Percent(compared*100/r.Bytes))
	}
	different, where, err := d.differences(ctx, "", share)
	if err == nil && different > 0 {
		d.fail(whyDiffers, where)
	}
	return err
}

// differences counts what of a share of the files below a path is not as the
// snapshot has it, except what the restore reported already, and names the first.
func (d *drill) differences(ctx context.Context, under string, share configs.Percent) (n uint64, where string, err error) {
	part := chooser(share, d.o.Tree.Snapshot.ID, d.o.Started.Add(1), nil)
	o := d.options(d.o.Tree, filepath.Join(d.tree, under))
	o.Under, o.InPlace, o.DryRun = under, true, true
	o.Sample = func(path string) bool { return d.chosen(path) && part(path) }
	var once sync.Once // many compare at the same time
	o.Progress = &restore.Progress{Change: func(action, path string) {
		if action != "unchanged" {
			once.Do(func() { where = fmt.Sprintf("/%s (%s)", path, action) })
		}
	}}
	got, err := restore.Run(ctx, *o)
	if err != nil {
		return 0, "", err
	}
	n = got.Created + got.Changed + got.Metadata
	return n - min(n, d.inexact), where, nil
}

// judge decides on the result when everything has been asked.
func (d *drill) judge(ctx context.Context) error {
	r := &d.rep.Result
	r.Passed = !d.failed && probesPass(r.Probes)
	why, changing, err := d.changing(ctx)
	if err != nil && !d.failed {
		return err
	}
	if changing != "" {
		d.unproven(why, changing)
	}
	r.Level = level(r, d.share() < 100, changing != "")
	if r.Passed && r.Level == attest.Restored && changing == "" && d.share() == 100 && len(Untested(r)) == 0 {
		d.unproven(whyNoProof, "")
	}
	r.Evidence, err = evidence(d.rep.Answers)
	return err
}

// evidence is what was answered, within the limit of an attestation: of too much
// only the details are kept, and of still too much the first ones.
func evidence(answers []Answer) ([]byte, error) {
	answers = slices.Clone(answers)
	for {
		b, err := json.Marshal(answers)
		if err != nil || len(b) <= attest.MaxEvidence {
			return b, err
		}
		if slices.ContainsFunc(answers, func(a Answer) bool { return a.Output != "" }) {
			for i := range answers {
				answers[i].Output = ""
			}
		} else {
			answers = answers[:len(answers)/2]
		}
	}
}
