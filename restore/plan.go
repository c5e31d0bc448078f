package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/restore/fetch"
	"knowngood/restore/owners"
	"knowngood/restore/target"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
)

// Options of a restore.
type Options struct {
	Tree  *snapshot.Tree
	Under string // manifest path of what to restore; "" is all
	// Target is the directory that the content of Under comes to lie in. When
	// Under is not a directory, it is the path that the node gets, or, when
	// that is a directory or ends with a slash, the directory that it is put into
	// under its own name.
	Target string
	// InPlace compares with what is there: unchanged files stay, changed
	// ones are replaced.
	InPlace bool
	// Delete removes what the snapshot does not have from the directories that
	// were captured, in place only. What the capture left out, by the rules
	// that the snapshot records, stays, and what is mounted there.
	Delete bool
	// Exact makes Delete remove everything else, whatever rules leave out: the target
	// comes to hold what the snapshot has, and nothing from before. What could not be
	// captured is removed too. It is for a directory that belongs to the caller.
	Exact bool
	// Today, when set, is what a capture would mean now: what its rules leave
	// out is not deleted either.
	Today *snapshot.Scope
	// Spare are absolute paths, free of links, that Delete does not touch, nor what
	// is below and above them: the repository itself, for example.
	Spare []string
	// Select decides which entries are wanted; nil wants all.
	Select *snapshot.Scope
	// Sample, when set, decides which of these are wanted that are no directories.
	Sample func(path string) bool
	// Only, when set, decides which entries are wanted, and what Delete may remove: it gets
	// directories, too, and with below whether anything below one is meant.
	Only func(path string, below bool) bool
	// WithIncomplete writes what was read of a file that could not be read
	// completely as NAME.incomplete, or NAME.incomplete-2 and so on where something
	// has that name; otherwise nothing is written in its name.
	WithIncomplete bool
	Owners         owners.Options
	// Reserve is how many bytes must be free besides what is restored.
	Reserve uint64
	// DryRun changes nothing.
	DryRun bool
	// Verify makes a dry run find out whether the packs that it would read are
	// there: see Result.Lacking.
	Verify bool

	Progress *Progress
}

// Errors that callers branch on.
var (
	ErrNotEmpty  = target.ErrNotEmpty
	ErrExists    = target.ErrExists
	ErrAmbiguous = target.ErrAmbiguous
	ErrNoSpace   = errors.New("not enough free space in the target")
	ErrNoPath    = errors.New("the snapshot has no such path")
)

// plan finds what is to be restored, opens the target for it, and puts together
// those who do it.
func plan(ctx context.Context, o *Options) (*restorer, error) {
	if err := posix.CheckProc(); err != nil {
		return nil, err
	}
	o.Progress = cmp.Or(o.Progress, &Progress{})
	first, err := o.find(ctx)
	if err != nil {
		return nil, err
	}
	scopes, err := newScopes(o)
	if err != nil {
		return nil, err
	}

	report := &report{progress: o.Progress, unread: map[string]bool{}}
	t, err := o.openTarget(ctx, first, report)
	if err != nil {
		return nil, err
	}
	r := &restorer{Options: o, target: t, report: report}
	r.assemble(scopes)
	r.owners, err = owners.NewMap(ctx, o.Owners, o.Tree, o.Under, first, o.wanted)
	if err == nil && o.DryRun && o.Verify {
		r.files.packs, err = fetch.ListPacks(ctx, o.Tree)
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return r, nil
}

// assemble makes those who restore entries.
func (r *restorer) assemble(scopes []*snapshot.Scope) {
	t, report := r.target, r.report
	m := &metadata{applier: posix.NewApplier(posix.ApplyOptions{KeepOwner: r.Owners.Keep, Exact: t.Compares()}), report: report}
	r.parts = &parts{tree: r.Tree, target: t, report: report, paths: map[string]bool{}}
	r.rules = &rules{target: t, parts: r.parts, selected: r.Select, only: r.Only, scopes: scopes, exact: r.Exact}
	replacer := &replacer{target: t, rules: r.rules, inPlace: r.InPlace, delete: r.Delete}
	r.links = &links{target: t, report: report, replacer: replacer, dryRun: r.DryRun, settle: !r.DryRun && !t.Compares(), groups: map[uint64]*linkGroup{}, claims: map[posix.DevIno]*linkGroup{}}
	r.dirs = &directories{target: t, report: report, metadata: m, dryRun: r.DryRun, exact: r.Exact}
	r.nodes = &nodes{target: t, report: report, metadata: m, replacer: replacer, links: r.links, dryRun: r.DryRun}
	r.files = &files{target: t, report: report, metadata: m, uid: os.Geteuid(), gid: os.Getegid()}
	r.files.commit = committer{target: t, report: report, replacer: replacer}
}

// find returns the entry that the restore starts from.
func (o *Options) find(ctx context.Context) (*manifest.Entry, error) {
	if o.Under == "" {
		return &manifest.Entry{Type: manifest.Dir}, nil
	}
	e, err := o.Tree.Find(ctx, o.Under)
	if err == nil && e == nil {
		err = fmt.Errorf("%w: %q in %s (knowngood ls %s shows what it has)", ErrNoPath, "/"+o.Under, o.Tree.Snapshot.Ref(), o.Tree.Snapshot.Ref())
	}
	return e, err
}

// openTarget opens the target, and begins a restore there, unless one continues.
func (o *Options) openTarget(ctx context.Context, first *manifest.Entry, report *report) (*target.Target, error) {
	s := o.Tree.Snapshot
	t, err := target.Open(&target.Options{
		Target: o.Target, InPlace: o.InPlace, DryRun: o.DryRun, Spare: o.Spare, Problem: report.problem,
		Snapshot: s.Ref(), ID: s.ID, Sources: o.Tree.Table.Sources, Under: o.Under, IsDir: first.Type == manifest.Dir,
	})
	if err != nil || o.InPlace || t.Marked() {
		return t, err
	}
	err = o.CheckSpace(ctx, t.Near())
	if err == nil && t.Single() == "" && !o.DryRun {
		err = t.Mark()
	}
	if err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// wanted reports whether an entry is to be restored.
func (o *Options) wanted(path string, isDir bool) bool {
	if !isDir && o.Sample != nil && !o.Sample(path) {
		return false
	}
	if o.Only != nil && !o.Only(path, false) {
		return false
	}
	return o.Select == nil || o.Select.Decide(path, isDir) == filter.Include
}

// CheckSpace compares the content to be written with the room there is at a
// directory: ErrNoSpace when it is too little. A restore that is not in place does it
// itself.
func (o *Options) CheckSpace(ctx context.Context, near string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(near, &st); err != nil {
		return fmt.Errorf("target %s: %w", o.Target, err)
	}
	free := st.Bavail * uint64(st.Bsize)
	if o.Under == "" && o.Select == nil && o.Reserve+o.Tree.Snapshot.Body.ContentBytes <= free {
		return nil
	}
	need, err := o.Size(ctx) // the snapshot's own figure counts holes and hard links
	if need += o.Reserve; err == nil && need > free {
		err = fmt.Errorf("%w: %s has %s free, the restore takes %s (make room, or restore a part: NAME:/path)", ErrNoSpace, o.Target, humanize.IBytes(free), humanize.IBytes(need))
	}
	return err
}

// Size is how many bytes the content takes that is to be restored.
func (o *Options) Size(ctx context.Context) (need uint64, err error) {
	seen := map[uint64]bool{}
	for e, err := range o.Tree.Entries(ctx, o.Under) {
		if err != nil || e.Type != manifest.File || !o.wanted(e.Path, false) || e.Link != 0 && seen[e.Link] {
			continue // an error is named by the restore itself
		}
		if e.Link != 0 {
			seen[e.Link] = true
		}
		need += e.ContentSize()
	}
	return need, ctx.Err()
}
