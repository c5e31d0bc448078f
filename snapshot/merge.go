package snapshot

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"

	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/signs"
	"knowngood/snapshot/walk"
	"knowngood/storage/objects"
)

const (
	batchItems  = 512
	batchWeight = 512 << 10 // bytes of memory, roughly
	maxBatches  = 36
	jobBytes    = 1 << 20 // of neighbouring small files read by one worker
	jobFiles    = 256
)

// item is a node on its way from the merge to the emitter.
type item struct {
	entry *manifest.Entry
	seg   *localSegment   // of the parent, where the path stood; may be nil
	pos   int             // position there
	same  bool            // entry is that of the parent, unchanged
	moved bool            // the parent's entry has chunks in packs that are gone
	file  *file           // being read; nil when entry is complete
	job   *job            // that reads the file
	was   *manifest.Entry // of the parent: what a new file seems to have taken the place of
}

// file is a regular file, or another node whose metadata must be read.
type file struct {
	node   *walk.Node
	stat   posix.Stat // as the walk saw it
	volume *posix.Volume
	entry  *manifest.Entry
	refs   []objects.ChunkRef
	stored bool             // some of its content was new to the repository
	lost   []manifest.Chunk // of the parent's entry, those in packs that the store lost
	gone   bool             // vanished: the entry is left out

	first *file         // an earlier name of the same inode, whose content may be taken over
	read  chan struct{} // of a first name: closed when it was read
	got   posix.Stat    // of a first name: what was read, whole; the zero value when nothing was
	kept  bool          // a first name made again by links: it was read, and has no refs
}

// job is what one worker reads in one go.
type job struct {
	files []*file
	bytes uint64
	done  chan struct{}
}

// cursor follows a local manifest in path order.
type cursor struct {
	next    func() (*localSegment, bool)
	seg     *localSegment
	pos     int
	started int64
	losses  signs.Losses // what was passed over
}

// seek finds the entry of path; paths must be sought in order.
func (c *cursor) seek(path string) (*localSegment, int) {
	for c.next != nil {
		for c.seg == nil || c.pos >= len(c.seg.entries) {
			seg, ok := c.next()
			if !ok {
				c.next, c.seg = nil, nil
				return nil, 0
			}
			c.seg, c.pos = seg, 0
		}
		switch d := manifest.Compare(c.seg.entries[c.pos].Path, path); {
		case d == 0:
			c.pos++
			return c.seg, c.pos - 1
		case d > 0:
			return nil, 0
		}
		c.losses.Add(&c.seg.entries[c.pos])
		c.pos++
	}
	return nil, 0
}

// entry is the one after the last that was sought; nil where its segment ends.
func (c *cursor) entry() *manifest.Entry {
	if c.seg == nil || c.pos >= len(c.seg.entries) {
		return nil
	}
	return &c.seg.entries[c.pos]
}

// follow decodes the segments of m ahead of the merge.
func (c *capture) follow(ctx context.Context, m *localManifest) *cursor {
	out := make(chan *localSegment, 2)
	go func() {
		defer close(out)
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			panic(err) // the options are constants, and valid
		}
		defer dec.Close()
		for {
			s, err := m.next()
			if err == nil {
				err = s.decode(dec)
			}
			if err == io.EOF {
				return
			}
			if err != nil {
				c.Progress.warn("the host's copy of the last manifest is damaged; more files than changed are read: " + err.Error())
				return
			}
			select {
			case out <- s:
			case <-ctx.Done():
				return
			}
		}
	}()
	return &cursor{started: m.started, next: func() (*localSegment, bool) { s, ok := <-out; return s, ok }}
}

// merger matches the walk with the parents and hands on.
type merger struct {
	*capture
	ctx     context.Context
	parent  *cursor
	partial []*cursor
	batch   []*item
	weight  int
	job     *job
}

func (c *capture) merge(ctx context.Context, commands []*item) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &merger{capture: c, ctx: ctx}
	if p := c.parents.last; p != nil {
		m.parent = c.follow(ctx, p)
	}
	for _, p := range c.parents.partials {
		m.partial = append(m.partial, c.follow(ctx, p))
	}
	err := walk.Walk(ctx, walk.Options{Sources: c.Sources, Omit: c.Omit, Skipped: c.Skipped, Resolved: c.resolved, KeptLink: c.keptLink}, func(n *walk.Node) error {
		for len(commands) > 0 && manifest.Compare(commands[0].entry.Path, n.Path) <= 0 {
			// A captured directory stands for the one a command's output implies.
			e := commands[0].entry
			if e.Path == n.Path && (e.Type != manifest.Dir || n.Stat.Type != manifest.Dir) {
				return fmt.Errorf("%q is captured as a %v, and is to take the output of a command: give the command another path", "/"+n.Path, n.Stat.Type)
			}
			if e.Path != n.Path {
				if err := m.add(commands[0]); err != nil {
					return err
				}
			}
			commands = commands[1:]
		}
		return m.node(n)
	})
	if err != nil {
		return err
	}
	for _, it := range commands {
		if err := m.add(it); err != nil {
			return err
		}
	}
	if m.parent != nil {
		m.parent.seek("\xff") // what is gone from the end
		m.losses = m.parent.losses
	}
	return m.send()
}

// node merges one node of the walk.
func (m *merger) node(n *walk.Node) error {
	if n.Err != nil {
		m.problems.add(n.Path, n.Err.Error())
	}
	if !n.Listed {
		return m.unlisted(n)
	}
	if n.Mount != walk.NoMount {
		m.mounts = append(m.mounts, mountPoint{strings.Clone(n.Path), n.Mount == walk.EnteredMount})
	}

	it := &item{}
	if m.parent != nil {
		it.seg, it.pos = m.parent.seek(n.Path)
		it.moved = it.seg != nil && m.parents.displaced(&it.seg.entries[it.pos])
		if it.seg == nil && n.Stat.Type == manifest.File {
			it.was = m.parent.losses.Predecessor(n.Path, m.parent.entry())
		}
	}
	group, member := m.group(n)
	if !member || group.first == nil {
		m.takeOver(it, n, group)
	}
	if it.entry != nil {
		return m.unchanged(it, n, group)
	}

	it.entry = &manifest.Entry{Path: n.Path}
	describe(m.users, it.entry, &n.Stat)
	if group != nil {
		it.entry.Link = group.name
	}
	if n.Implied {
		it.entry.Flags |= manifest.Implied
		m.keepTime(it)
	}
	if n.Err != nil {
		it.entry.Flags |= manifest.ListingUnread
	}
	it.file = &file{node: n, stat: n.Stat, volume: n.Volume, entry: it.entry}
	if it.moved {
		it.file.lost = m.parents.lostOf(&it.seg.entries[it.pos])
	}
	m.join(it.file, group, member)
	if err := m.queue(it); err != nil {
		return err
	}
	return m.add(it)
}

// unlisted merges a node of which nothing but its name is known. It has an
// entry, so that a restore does not touch what has its name.
func (m *merger) unlisted(n *walk.Node) error {
	if n.Gone {
		return nil
	}
	e := &manifest.Entry{Path: n.Path, Type: n.Stat.Type, Flags: manifest.ContentUnread | manifest.MetadataIncomplete, Stat: &manifest.Stat{}}
	switch e.Type {
	case manifest.Dir:
		e.Flags = manifest.ListingUnread | manifest.MetadataIncomplete
	case 0:
		e.Type = manifest.File
	}
	if n.Implied {
		e.Flags |= manifest.Implied
	}
	return m.add(&item{entry: e})
}

// takeOver gives the item the entry that the last manifest, or a run that
// died, has of a node that did not change since.
func (m *merger) takeOver(it *item, n *walk.Node, group *linkGroup) {
	if it.seg != nil && m.stillHolds(n, group, &it.seg.entries[it.pos], m.parent.started) {
		e := &it.seg.entries[it.pos]
		if it.moved {
			it.entry = m.parents.relocated(e)
		} else {
			it.entry, it.same = e, true
		}
	}
	for _, p := range m.partial {
		seg, pos := p.seek(n.Path)
		if seg != nil && it.entry == nil && m.stillHolds(n, group, &seg.entries[pos], p.started) && m.parents.stored(&seg.entries[pos]) {
			it.entry = &seg.entries[pos]
		}
	}
}

// unchanged hands on a node whose entry was taken over.
func (m *merger) unchanged(it *item, n *walk.Node, group *linkGroup) error {
	n.Dir.Release()
	link := uint64(0)
	if group != nil {
		link = group.name
	}
	if it.entry.Link != link {
		e := *it.entry
		e.Link = link
		it.entry, it.same = &e, false
	}
	if it.entry.Type == manifest.File {
		m.Progress.Unchanged.Add(1)
		m.Progress.Files.Add(1)
		m.Progress.Bytes.Add(it.entry.Size)
	}
	return m.add(it)
}

// queue gives a node to the readers, with its neighbours.
func (m *merger) queue(it *item) error {
	if m.job == nil {
		m.job = &job{done: make(chan struct{})}
	}
	it.job = m.job
	m.job.files = append(m.job.files, it.file)
	if it.file.first == nil {
		m.job.bytes += it.entry.Size
	}
	if m.job.bytes >= jobBytes || len(m.job.files) >= jobFiles {
		return m.dispatch()
	}
	return nil
}

// keepTime leaves a directory above the sources the mtime that it had in the
// parent: what comes and goes beside the sources is no change of theirs.
func (m *merger) keepTime(it *item) {
	if it.seg == nil {
		return
	}
	if old := &it.seg.entries[it.pos]; old.Type == it.entry.Type && old.Flags&manifest.Implied != 0 {
		it.entry.Mtime = old.Mtime
	}
}

func (m *merger) dispatch() error {
	if m.job == nil {
		return nil
	}
	j := m.job
	m.job = nil
	select {
	case m.jobs <- j:
		return nil
	case <-m.ctx.Done():
		return context.Cause(m.ctx)
	}
}

// add hands an item on, in a batch.
func (m *merger) add(it *item) error {
	m.batch = append(m.batch, it)
	m.weight += 400 + 2*len(it.entry.Path)
	if it.file == nil { // else a reader has the entry
		m.weight += 80 * len(it.entry.Chunks)
	}
	if len(m.batch) < batchItems && m.weight < batchWeight {
		return nil
	}
	return m.pass()
}

// pass sends the batch. When the emitter is far behind it waits for chunks
// that still lie in a frame or pack being filled; it is pressed to have them
// sent on their way.
func (m *merger) pass() error {
	batch := m.batch
	m.batch, m.weight = make([]*item, 0, batchItems), 0
	select {
	case m.batches <- batch:
		return nil
	default:
	}
	if err := m.dispatch(); err != nil {
		return err
	}
	for {
		select {
		case m.batches <- batch:
			return nil
		case m.pressed <- struct{}{}:
		case <-m.ctx.Done():
			return context.Cause(m.ctx)
		}
	}
}

// send hands the last items on.
func (m *merger) send() error {
	if err := m.dispatch(); err != nil {
		return err
	}
	return m.pass()
}
