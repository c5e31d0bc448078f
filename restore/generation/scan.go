package generation

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"lukechampine.com/blake3"

	"knowngood/internal/durable"
	"knowngood/internal/inode"
	"knowngood/internal/posix"
	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

// Change is a path that is not as a record has it.
type Change struct {
	Path string `json:"path"`
	Kind string `json:"kind"` // added, changed or removed
	// Was and Is are nil where it does not exist. Content: type, content or target
	// differ; Owner: owner, mode or attributes.
	Was, Is        *posix.Stat `json:"-"`
	Content, Owner bool        `json:"-"`
}

// scan is a pass over a tree, beside the record of it.
type scan struct {
	top     string
	old     string   // path of a record; empty for none
	write   string   // path of the new record; empty for none
	without []string // paths below the top that do not count
	// light leaves out hashes of content: every file whose stat is another is changed.
	light   bool
	changed func(Change)
	all     bool // files are read whatever the record has of them
	moving  bool // the tree is in use: what goes meanwhile does not count
	skipped func(path string, why walk.Reason)
	link    func(path, target string) // when set, gets the links that are read
	// unread, when set, gets what cannot be read, such as a path that is too long, which anybody
	// can make who may write somewhere in the tree. It is left out; else it ends the pass.
	unread func(path string, err error)

	// In place: the top is that of the file system, a record has neither content nor
	// attributes, and node is called with each entry and what is recorded of it, or nil. What
	// vanishes meanwhile is not there.
	sources []walk.Source
	omit    []posix.DevIno
	node    func(n *walk.Node, e, was *entry) error

	digest string // of what was read
	count  uint64 // of its paths
}

// run reads the tree. A file that is as the record has it is not read again.
func (c *scan) run(ctx context.Context) (err error) {
	var records iter.Seq2[*entry, error] = func(func(*entry, error) bool) {}
	if c.old != "" {
		f, err := os.Open(c.old)
		if err != nil {
			return fmt.Errorf("record of a generation: %w", err)
		}
		defer f.Close()
		records = recordIn(f)
	}
	next, stop := iter.Pull2(records)
	defer stop()
	w := &recordWriter{digest: sha256.New()}
	if c.write != "" {
		if w.file, err = os.CreateTemp(filepath.Dir(c.write), ".record-*"); err != nil {
			return err
		}
		defer os.Remove(w.file.Name()) // where it has not got its name
		defer w.file.Close()
		w.out = bufio.NewWriterSize(w.file, 256<<10)
		w.out.WriteString(recordMagic) // the flush has the error
	}

	old, err, more := next()
	removedTo := func(path string) error { // what the record has before a path is gone
		for more && err == nil && (path == "" || manifest.Compare(old.path, path) < 0) {
			c.report(old, nil)
			old, err, more = next()
		}
		return err
	}
	prefix := manifest.EntryPath(c.top)
	options := walk.Options{Sources: c.sources, Omit: c.omit, Skipped: c.skipped}
	if c.sources == nil {
		options.Sources = []walk.Source{{Path: c.top}}
	}
	walkErr := walk.Walk(ctx, options, func(n *walk.Node) error {
		defer n.Dir.Release()
		if n.Implied || !manifest.Within(n.Path, prefix) || c.sources != nil && (n.Gone || n.Mount == walk.SkippedMount) {
			return nil
		}
		rel := "." + n.Path[len(prefix):] // the top itself is ".", which sorts first
		if c.sources != nil && n.Path != "" {
			rel = "./" + n.Path
		}
		if n.Gone && c.moving {
			return nil
		}
		if c.leavesOut(rel) {
			return nil
		}
		if err := removedTo(rel); err != nil {
			return err
		}
		var was *entry
		if more && old.path == rel {
			was = old
		}
		e, err := &entry{path: rel, st: n.Stat}, n.Err
		if err == nil && c.sources == nil {
			e, err = c.read(ctx, n, rel, was)
		} else if err == nil {
			if err = c.node(n, e, was); errors.Is(err, fs.ErrNotExist) {
				return nil
			}
		}
		if c.moving && (errors.Is(err, unix.ENOENT) || errors.Is(err, walk.ErrReplaced)) {
			return nil
		}
		if err != nil && c.unread != nil && rel != "." && ctx.Err() == nil {
			c.unread(strings.TrimPrefix(rel, "./"), err)
			err = nil
			if was != nil {
				old, err, more = next()
			}
			return err
		}
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(c.top, rel), err)
		}
		if was == nil || !slices.Equal(was.fixed(nil), e.fixed(nil)) || c.light && e.st.Type != inode.Dir && !was.same(&e.st) {
			c.report(was, e)
		}
		if was != nil {
			old, err, more = next()
		}
		c.count++
		return errors.Join(err, w.add(e))
	})
	if err := cmp.Or(walkErr, removedTo("")); err != nil {
		return err
	}
	c.digest = hex.EncodeToString(w.digest.Sum(nil))
	return w.finish(c.write)
}

func (c *scan) leavesOut(rel string) bool {
	return slices.ContainsFunc(c.without, func(p string) bool { return manifest.Within(rel, "./"+p) })
}

// report reports what was or is at a path; nil where it does not exist.
func (c *scan) report(was, is *entry) {
	rel := cmp.Or(is, was).path
	if c.changed == nil || rel == "." || c.leavesOut(rel) {
		return
	}
	x := Change{Path: strings.TrimPrefix(rel, "./"), Kind: "changed"}
	switch {
	case was == nil:
		x.Kind, x.Is = "added", &is.st
	case is == nil:
		x.Kind, x.Was = "removed", &was.st
	default:
		a, b := &was.st, &is.st
		x.Was, x.Is = a, b
		x.Content = a.Type != b.Type || a.Rdev != b.Rdev || was.target != is.target || was.sum != is.sum
		x.Owner = a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || was.attrs != is.attrs
	}
	c.changed(x)
}

// read describes a node, by the record of it where nothing was changed.
func (c *scan) read(ctx context.Context, n *walk.Node, rel string, was *entry) (*entry, error) {
	e := &entry{path: rel, st: n.Stat}
	if was != nil && !c.all && was.same(&n.Stat) {
		e.target, e.attrs, e.sum = was.target, was.attrs, was.sum
		return e, nil
	}
	dirfd, err := n.Dir.Open()
	if err != nil {
		return nil, err
	}
	fd, st, err := posix.OpenNode(dirfd, n.Name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	e.st = st
	attrs, err := posix.NodeXattrs(fd)
	if err != nil {
		return nil, err
	}
	if len(attrs) > 0 {
		h := sha256.New()
		for _, x := range attrs {
			h.Write(wire.AppendBytes(wire.AppendBytes(nil, x.Name), x.Value))
		}
		e.attrs = [32]byte(h.Sum(nil))
	}
	switch st.Type {
	case inode.Symlink:
		if e.target, err = posix.Readlink(fd, ""); c.link != nil {
			c.link(strings.TrimPrefix(rel, "./"), e.target)
		}
	case inode.File:
		if !c.light {
			e.sum, err = sum(ctx, fd)
		}
	}
	return e, err
}

// zeroBlock is of how many zeros a hash has nothing: whoever may write a file can make it a
// hole of any size, which nobody could read to its end.
const zeroBlock = 1 << 20

// sum is the hash of the content of a file that posix.OpenNode opened, as long as it is now: of
// each block that is not all zeros, with its place before it, and of the size.
func sum(ctx context.Context, node int) (out [32]byte, err error) {
	fd, err := posix.OpenAgain(node)
	if err != nil {
		return out, err
	}
	f := os.NewFile(uintptr(fd), "content")
	defer f.Close()
	st, err := posix.StatFd(fd)
	if err != nil {
		return out, err
	}
	h, block, at := blake3.New(32, nil), make([]byte, min(zeroBlock, st.Size)), uint64(0)
	for at < st.Size {
		if err := ctx.Err(); err != nil {
			return out, context.Cause(ctx)
		}
		if skip := (holeFrom(f, at, st.Size) - at) / zeroBlock * zeroBlock; skip > 0 {
			at += skip
			continue
		}
		b := block[:min(zeroBlock, st.Size-at)]
		n, err := f.ReadAt(b, int64(at))
		if err != nil && err != io.EOF {
			return out, err
		}
		if n < zeroBlock || b[0] != 0 || !bytes.Equal(b[1:], b[:n-1]) {
			h.Write(binary.LittleEndian.AppendUint64(nil, at))
			h.Write(b[:n])
		}
		if at += uint64(n); n < len(b) {
			break // it was made shorter
		}
	}
	h.Write(binary.LittleEndian.AppendUint64(nil, at))
	return [32]byte(h.Sum(nil)), nil
}

// holeFrom is where a hole ends that begins at an offset, or before it.
func holeFrom(f *os.File, at, size uint64) uint64 {
	next, err := unix.Seek(int(f.Fd()), int64(at), unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // no data to the end
		return size
	case err != nil: // the file system knows of none
		return at
	}
	return min(uint64(next), size)
}

// Changes counts changes, and remembers the first of them.
type Changes struct {
	Count int
	first []string // in words, with names from a tree
}

// maxNamed is how many changes are remembered.
const maxNamed = 10

func (c *Changes) add(path, kind string) {
	if c.Count++; c.Count <= maxNamed {
		c.first = append(c.first, fmt.Sprintf("%s %q", kind, durable.Text(path, durable.MaxText)))
	}
}

func (c *Changes) String() string {
	text := strings.Join(c.first, ", ")
	if more := c.Count - len(c.first); more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return text
}

// ChangedError: a tree is not as it was recorded.
type ChangedError struct {
	Name string // such as generation 42-3f9a1c2b
	Changes
}

func (e *ChangedError) Error() string {
	return e.Name + " is not as it was recorded: " + e.String()
}

// verify compares the tree of a generation with its record, and that with the digest.
func (j *journal) verify(ctx context.Context, g *Generation) error {
	if j.InPlace != nil {
		return nil // it is not there yet
	}
	return verifyTree(ctx, "generation "+g.Name, cmp.Or(g.Left, g.Digest), &scan{top: j.topOf(g.Name), old: j.path(g.Name + recordName)})
}

// record writes the record of a generation again, and returns the digest. Of one that is moving
// programs may still have files open, and remove some.
func (j *journal) record(ctx context.Context, top, name string, moving bool) (digest string, count uint64, err error) {
	c := &scan{top: top, write: j.path(name + recordName), moving: moving}
	if moving {
		c.unread = func(path string, err error) {
			j.Note("generation %s has %q, which cannot be recorded: %v", name, durable.Text(path, durable.MaxText), err)
		}
	}
	if exists(c.write) {
		c.old = c.write
	}
	out := ""
	c.link = func(path, target string) {
		if out == "" && j.state.Method == "link" && leadsOut(path, target) {
			out = path
		}
	}
	err = c.run(ctx)
	if unreadable := (*unreadableError)(nil); errors.As(err, &unreadable) {
		j.Note("%v: it is made anew, for which every file of generation %s is read", err, name)
		c.old, c.count = "", 0
		err = c.run(ctx)
	}
	if out != "" {
		j.Note("generation %s has links that lead out of it by \"..\", which is %s there, not %s; the first is %q", name, j.dir, filepath.Dir(j.root), durable.Text(out, durable.MaxText))
	}
	return c.digest, c.count, err
}

// ErrRecordedAgain is about a generation that was live before, and was changed then: its
// record has what it was when it was left.
var ErrRecordedAgain = errors.New("it was changed while it was live before, and its record has that")

// Drift calls each with what of the live generation is not as its record has it, and with
// where its tree is, which it returns, too, and unread with what cannot be read. It reads files
// whose stat shows a difference; with content all. It changes nothing, and takes no lock: the error is ErrBusy when another generation went live
// meanwhile. The generation is returned with ErrRecordedAgain, too.
func Drift(ctx context.Context, o *Options, content bool, each func(top string, c Change), unread func(path string, err error)) (*Generation, string, error) {
	s, err := unlocked(o)
	if err == nil && !s.state.adopted() {
		err = s.notAdopted()
	}
	if err != nil {
		return nil, "", err
	}
	g, err := s.Live()
	if err != nil {
		return nil, "", err
	}
	top := s.topOf(g.Name)
	c := &scan{top: top, old: s.path(g.Name + recordName), all: content, moving: true, unread: unread, changed: func(x Change) { each(top, x) }}
	c.skipped = func(path string, why walk.Reason) { // anybody can give a file such a name
		rel := strings.TrimPrefix(strings.TrimPrefix(path, manifest.EntryPath(top)), "/")
		if st, err := posix.StatAt(unix.AT_FDCWD, filepath.Join(top, rel)); err == nil && why == walk.Unfinished {
			each(top, Change{Path: rel, Kind: "added", Is: &st})
		}
	}
	err = c.run(ctx)
	if s.liveName() != g.Name {
		return nil, "", fmt.Errorf("%s: %w by another process, which made another one live: compare again", o.Config.Root, ErrBusy)
	}
	if err != nil {
		return nil, "", err
	}
	digest, err := recordDigest(c.old)
	if err == nil && digest != g.Digest {
		err = fmt.Errorf("generation %s: %w", g.Name, ErrRecordedAgain)
	}
	return g, top, err
}
