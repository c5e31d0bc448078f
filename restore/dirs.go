package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/restore/owners"
	"knowngood/restore/target"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
)

// directories makes directories when something below them is made, or when they
// are wanted themselves. They get their metadata last, those below before those
// above.
type directories struct {
	target   *target.Target
	report   *report
	metadata *metadata
	dryRun   bool
	exact    bool // also those above the sources, as the snapshot has them

	chain []*pendingDir // above the present entry, which may be the last one
	log   dirLog        // those that get their metadata
}

// pendingDir is a directory on the way to the present entry.
type pendingDir struct {
	entry manifest.Entry
	made  bool
}

// leave leaves the directories that an entry does not lie in.
func (d *directories) leave(path string) {
	for n := len(d.chain); n > 0 && !manifest.Within(path, d.chain[n-1].entry.Path); n-- {
		d.chain = d.chain[:n-1]
	}
}

// enter enters a directory, without making it.
func (d *directories) enter(e *manifest.Entry) {
	d.chain = append(d.chain, &pendingDir{entry: *e})
}

// make makes the directories of the chain that are missing.
func (d *directories) make() error {
	for _, c := range d.chain {
		if c.made {
			continue
		}
		c.made = true
		rel := d.target.Rel(c.entry.Path)
		if rel == "" {
			// The target itself gets the metadata that was captured, not what was implied.
			if c.entry.Flags&manifest.Implied == 0 && !unknown(&c.entry) {
				d.log.add(&c.entry)
			}
			continue
		}
		action := ""
		err := d.target.With(c.entry.Path, func() (err error) {
			action, err = d.makeOne(rel, &c.entry)
			return err
		})
		if err != nil {
			return err
		}
		d.report.did(action, c.entry.Path)
		if (d.exact || action != "unchanged" || c.entry.Flags&manifest.Implied == 0) && !unknown(&c.entry) {
			d.log.add(&c.entry)
		}
	}
	return nil
}

// makeOne makes a directory, or finds it there, and returns which.
func (d *directories) makeOne(rel string, e *manifest.Entry) (action string, err error) {
	if !d.target.Exists() {
		return "create", nil
	}
	h, name, err := d.target.Above(e.Path)
	if err != nil && d.dryRun {
		return "create", nil
	}
	if err != nil {
		return "", err
	}
	defer h.Release()

	action = "create"
	if d.target.MayHold(rel) {
		st, err := posix.StatAt(h.FD(), name)
		switch {
		case err == nil && (st.Type == manifest.Dir || d.target.LeadsToSource(e.Path)):
			return "unchanged", nil
		case err == nil && d.exact:
			action = "change"
		case err == nil && e.Flags&manifest.Implied != 0:
			return "", fmt.Errorf("a %v is in the way to what was captured, and is left alone: restore REF:PATH with --target and the directory that you mean", st.Type)
		case err == nil && e.Flags&manifest.ListingUnread != 0:
			return "", fmt.Errorf("a %v is in the way, and what the directory held is not in the snapshot", st.Type)
		case err == nil:
			action = "change"
		case !errors.Is(err, unix.ENOENT):
			return "", err
		}
	}
	if d.dryRun {
		return action, nil
	}
	if action == "change" {
		if err := unix.Unlinkat(h.FD(), name, 0); err != nil {
			return "", err
		}
	}
	if err := unix.Mkdirat(h.FD(), name, 0o700); err != nil {
		return "", err
	}
	if e.InodeFlags&posix.EmptyFlags != 0 {
		if fd, err := posix.OpenDir(h.FD(), name); err == nil {
			posix.SetEmptyFlags(fd, e.InodeFlags)
			unix.Close(fd)
		}
	}
	return action, nil
}

// finish gives all directories their metadata.
func (d *directories) finish() { d.log.each(d.finishOne) }

// finishOne gives a directory its metadata.
func (d *directories) finishOne(e *manifest.Entry) {
	rel := d.target.Rel(e.Path)
	problems, err := d.apply(rel, e)
	if err != nil {
		d.report.problem(e.Path, err)
		return
	}
	noMode := slices.ContainsFunc(problems, func(p *posix.Problem) bool { return p.Attr == "mode" })
	d.target.Settle(rel, !noMode, e.Flags&manifest.MetadataIncomplete == 0)
	d.target.ProtectLater(e)
}

// apply applies the metadata of a directory, which this process may not be allowed
// to open. It returns what it could not apply, and has reported.
func (d *directories) apply(rel string, e *manifest.Entry) ([]*posix.Problem, error) {
	h, err := d.target.Dir(rel)
	if err != nil {
		return nil, err
	}
	defer h.Release()
	if h.Readable {
		return d.metadata.apply(h.FD(), e), nil
	}

	in, name, err := d.target.Above(e.Path)
	if err != nil {
		return nil, err
	}
	defer in.Release()
	return d.metadata.applyAt(in.FD(), name, e), nil
}

// finishAbove gives the directories above the target that this restore made the
// metadata that the snapshot has of them.
func (d *directories) finishAbove(ctx context.Context, tree *snapshot.Tree, o *owners.Map) {
	for path, fd := range d.target.Made() {
		e, err := tree.Find(ctx, path[1:])
		switch {
		case err != nil:
			d.report.problem(path[1:], err)
		case e != nil && e.Type == manifest.Dir:
			o.Apply(ctx, e, false)
			d.metadata.apply(fd, e)
		}
	}
}

// dirLog remembers entries of directories, compressed.
type dirLog struct {
	entries []*manifest.Entry // the last ones
	weight  int               // of entries
	full    target.Blocks
	enc     manifest.Encoder
	buf     []byte
}

// Where a block ends: well within what a segment may hold.
const (
	dirBlock       = 1024    // entries
	dirBlockWeight = 1 << 20 // bytes
)

func (l *dirLog) add(e *manifest.Entry) {
	c := *e
	c.Path, c.Xattrs = strings.Clone(e.Path), slices.Clone(e.Xattrs)
	l.entries, l.weight = append(l.entries, &c), l.weight+manifest.Weight(&c)
	if len(l.entries) >= dirBlock || l.weight >= dirBlockWeight {
		l.buf = l.enc.Append(l.buf[:0], l.entries, nil)
		l.full.Add(l.buf)
		l.entries, l.weight = l.entries[:0], 0
	}
}

// each calls do with each entry, the last one first.
func (l *dirLog) each(do func(*manifest.Entry)) {
	for _, e := range slices.Backward(l.entries) {
		do(e)
	}
	for b := range l.full.Backward() {
		entries, err := manifest.ParseSegment(b, nil)
		if err != nil {
			panic(err) // made above, in memory
		}
		for i := range slices.Backward(entries) {
			do(&entries[i])
		}
	}
}
