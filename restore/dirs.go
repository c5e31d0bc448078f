package restore

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
)

// dirLog remembers the directories of a restore, compressed: their metadata
// comes last, those below before those above.
type dirLog struct {
	entries []*manifest.Entry
	blocks  [][]byte
	enc     manifest.Encoder
	zenc    *zstd.Encoder
	buf     []byte
}

const dirBlock = 1024

func (l *dirLog) add(e *manifest.Entry) {
	c := *e
	c.Path, c.Xattrs = strings.Clone(e.Path), slices.Clone(e.Xattrs)
	if l.entries = append(l.entries, &c); len(l.entries) < dirBlock {
		return
	}
	if l.zenc == nil {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
		if err != nil {
			panic(err) // the options are constants, and valid
		}
		l.zenc = enc
	}
	l.buf = l.enc.Append(l.buf[:0], l.entries)
	l.blocks = append(l.blocks, l.zenc.EncodeAll(l.buf, nil))
	l.entries = l.entries[:0]
}

// apply gives all directories their metadata.
func (l *dirLog) apply(r *restorer) {
	for _, e := range slices.Backward(l.entries) {
		r.finishDir(e)
	}
	if len(l.blocks) == 0 {
		return
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		panic(err) // the options are constants, and valid
	}
	defer dec.Close()
	for _, b := range slices.Backward(l.blocks) {
		content, err := dec.DecodeAll(b, nil)
		if err != nil {
			panic(err) // made above, in memory
		}
		entries, err := manifest.ParseSegment(content)
		if err != nil {
			panic(err) // likewise
		}
		for i := range slices.Backward(entries) {
			r.finishDir(&entries[i])
		}
	}
}

func (r *restorer) finishDir(e *manifest.Entry) {
	h, err := r.dirs.Get(r.rel(e.Path))
	if err != nil {
		r.problem(e.Path, err)
		return
	}
	defer h.Release()
	r.attributes(e.Path, r.applier.Apply(h.FD(), e))
}

// level is a directory whose names are compared with the snapshot's.
type level struct {
	path  string
	names []string // what is there, sorted
	next  int
	// mounted is a mount that the snapshot has nothing of, as far as seen.
	mounted bool
}

// deleteExtra removes what the snapshot does not have from the directories
// that it has. It runs last, when all else is in place.
func (r *restorer) deleteExtra(ctx context.Context) error {
	if r.Extra != nil {
		err := r.Extra(ctx, func(path string, within bool) error {
			if !within {
				return nil
			}
			dir, name := split(path)
			return r.deleteNames(dir, []string{name})
		}, r.problem)
		var se *snapshot.SegmentError
		if errors.As(err, &se) {
			r.problem(se.First, errors.New("from here on nothing was deleted: the list of files is damaged"))
			return nil
		}
		return err
	}
	var stack []*level
	pop := func() error {
		l := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if l.mounted {
			return nil
		}
		return r.deleteNames(l.path, l.names[l.next:])
	}
	for e, err := range r.Tree.Entries(ctx, r.Under) {
		if err != nil {
			var se *snapshot.SegmentError
			if errors.As(err, &se) {
				// Without the whole list nothing can be called extra.
				r.problem(se.First, errors.New("nothing was deleted: the list of files is damaged"))
				return nil
			}
			return err
		}
		for len(stack) > 0 && !manifest.Within(e.Path, stack[len(stack)-1].path) {
			if err := pop(); err != nil {
				return err
			}
		}
		if n := len(stack); n > 0 {
			l := stack[n-1]
			if dir, name := split(e.Path); dir == l.path {
				l.mounted = false
				i, _ := slices.BinarySearch(l.names[l.next:], name)
				if err := r.deleteNames(l.path, l.names[l.next:l.next+i]); err != nil {
					return err
				}
				if l.next += i; l.next < len(l.names) && l.names[l.next] == name {
					l.next++
				}
			}
		}
		if e.Type != manifest.Dir || e.Flags&manifest.Implied != 0 || r.Select != nil && !r.Select(e.Path, true) {
			continue
		}
		l := &level{path: strings.Clone(e.Path)}
		h, err := r.dirs.Get(r.rel(e.Path))
		if err != nil {
			continue // a dry run: it would be created
		}
		err = posix.ReadDir(h.FD(), make([]byte, posix.DirBuffer), func(name []byte, _ manifest.Type) error {
			l.names = append(l.names, string(name))
			return nil
		})
		h.Release()
		if err == nil {
			l.mounted, err = r.mounted(e.Path)
		}
		if err != nil {
			r.problem(e.Path, err)
			continue
		}
		slices.Sort(l.names)
		stack = append(stack, l)
	}
	for len(stack) > 0 {
		if err := pop(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// mounted tells whether something is mounted on a directory below the target.
func (r *restorer) mounted(path string) (bool, error) {
	if r.rel(path) == "" {
		return false, nil
	}
	dir, name := split(path)
	h, err := r.dirs.Get(r.rel(dir))
	if err != nil {
		return false, err
	}
	defer h.Release()
	return posix.Mounted(h.FD(), name)
}

// deleteNames removes nodes of a directory.
func (r *restorer) deleteNames(dir string, names []string) error {
	for _, name := range names {
		path := name
		if dir != "" {
			path = dir + "/" + name
		}
		h, err := r.dirs.Get(r.rel(dir))
		if err != nil {
			return err
		}
		st, err := posix.StatAt(h.FD(), name)
		if err == nil && (r.Select == nil || r.Select(path, st.Type == manifest.Dir)) && r.rel(path) != markerName && !r.spared(path) {
			r.change("delete", path)
			if !r.DryRun {
				err = posix.RemoveAll(h.FD(), name)
			}
		}
		h.Release()
		if err != nil && !errors.Is(err, unix.ENOENT) {
			if err := r.fatal(path, err); err != nil {
				return err
			}
		}
	}
	return nil
}
