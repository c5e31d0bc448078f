package treetest

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Mutate makes n random edits in dir, a tree of any origin, and returns what
// it did, in words. New nodes are as the shape defines. Edits that the machine
// refuses leave the tree as it was and are reported as refused.
//
// One kind of edit changes a file's content and keeps its size and mtime, as
// some programs do: only the ctime shows it.
func Mutate(t T, dir string, choices Choices, n int, shape Shape) []string {
	t.Helper()
	b, err := newBuilder(dir, choices, shape)
	if err != nil {
		t.Fatalf("mutating a tree: %v", err)
	}
	defer b.root.close()
	if err := b.survey(); err != nil {
		t.Fatalf("mutating %s: %v", dir, err)
	}
	var done []string
	for range n {
		what, err := b.edit()
		if err != nil {
			t.Fatalf("mutating %s: %v; edits before: %q", dir, err, done)
		}
		done = append(done, what)
	}
	return done
}

// survey finds what is in the tree now, in an order that does not depend on
// the file system.
func (b *builder) survey() error {
	b.dirs, b.files = nil, nil
	err := b.root.walk(func(path string, _ int, _ string, st *unix.Stat_t) error {
		if typ := Type(st.Mode & unix.S_IFMT); typ == unix.S_IFDIR {
			b.dirs = append(b.dirs, path)
		} else {
			b.files = append(b.files, made{path, typ})
		}
		return nil
	})
	slices.Sort(b.dirs)
	slices.SortFunc(b.files, func(x, y made) int { return strings.Compare(x.path, y.path) })
	return err
}

// MutateAt makes one random edit of the node at path in dir, or of a random one
// when there is none, and returns what it did, in words. Besides the edits of
// Mutate a node may change places with another one.
func MutateAt(t T, dir, path string, choices Choices, shape Shape) string {
	t.Helper()
	b, err := newBuilder(dir, choices, shape)
	if err != nil {
		t.Fatalf("mutating a tree: %v", err)
	}
	defer b.root.close()
	if err := b.survey(); err != nil {
		t.Fatalf("mutating %s: %v", dir, err)
	}
	candidates := slices.DeleteFunc(b.nodes(), func(m made) bool { return m.path != path })
	if len(candidates) == 0 {
		candidates = b.nodes()
	}

	edits := append(b.changes(), change{"exchange with another", func(m made) bool { return m.path != "" }, b.exchange})
	c := one(b, slices.DeleteFunc(edits, func(c change) bool { return !slices.ContainsFunc(candidates, c.fits) })...)
	candidates = slices.DeleteFunc(candidates, func(m made) bool { return !c.fits(m) })
	m := candidates[b.choices.IntN(len(candidates))]
	what, err := b.apply(c, m)
	if err != nil {
		t.Fatalf("mutating %s: %v", dir, err)
	}
	return what
}

// change is a kind of edit, and which nodes it fits.
type change struct {
	what string
	fits func(made) bool
	do   func(made) error
}

func (b *builder) changes() []change {
	file := func(m made) bool { return m.typ == unix.S_IFREG }
	below := func(m made) bool { return m.path != "" }
	xattrs := func(m made) bool { return file(m) || m.typ == unix.S_IFDIR }
	modes := func(m made) bool { return below(m) && m.typ != unix.S_IFLNK }
	every := func(made) bool { return true }
	return []change{
		{"append to", file, b.appendTo},
		{"overwrite in", file, b.overwrite},
		{"overwrite, keeping size and mtime, in", file, b.overwriteQuietly},
		{"truncate", file, b.truncate},
		{"extend with a hole", file, b.extend},
		{"punch a hole into", file, b.punch},
		{"replace by a new file", file, b.replace},
		{"delete", below, b.remove},
		{"rename", below, b.rename},
		{"change the type of", below, b.retype},
		{"chmod", modes, func(m made) error { return b.setMode(m, uint32(b.choices.IntN(0o10000))) }},
		{"change xattrs of", xattrs, b.changeXattrs},
		{"touch", every, b.dressTime},
		{"change all metadata of", every, b.dress},
		{"link to", func(m made) bool { return m.typ != unix.S_IFDIR }, b.linkTo},
		{"create beside", every, func(made) error { return b.addAny() }},
	}
}

// nodes are all that there are.
func (b *builder) nodes() []made {
	var all []made
	for _, dir := range b.dirs {
		all = append(all, made{dir, unix.S_IFDIR})
	}
	return append(all, b.files...)
}

// edit makes one random edit of a random node that it fits. Where none fits it
// makes a new node.
func (b *builder) edit() (string, error) {
	c := one(b, b.changes()...)
	candidates := slices.DeleteFunc(b.nodes(), func(m made) bool { return !c.fits(m) })
	if len(candidates) == 0 {
		candidates = []made{{"", unix.S_IFDIR}}
		c.what, c.do = "create in", func(made) error { return b.addAny() }
	}
	return b.apply(c, candidates[b.choices.IntN(len(candidates))])
}

func (b *builder) apply(c change, m made) (string, error) {
	what := fmt.Sprintf("%s %q", c.what, m.path)
	before := maps.Clone(b.report.Refused)
	if err := c.do(m); err != nil {
		return what, fmt.Errorf("%s: %w", what, err)
	}
	if !maps.Equal(before, b.report.Refused) {
		what += " (refused, or in part)"
	}
	return what, b.dressFresh()
}

// exchange makes two nodes change places.
func (b *builder) exchange(m made) error {
	others := slices.DeleteFunc(b.nodes(), func(o made) bool {
		return o.path == "" || o.path == m.path || strings.HasPrefix(o.path, m.path+"/") || strings.HasPrefix(m.path, o.path+"/")
	})
	if len(others) == 0 {
		return b.rename(m)
	}
	other := others[b.choices.IntN(len(others))]
	err := b.root.at(m.path, func(dirfd int, name string) error {
		return b.root.at(other.path, func(otherfd int, otherName string) error {
			return unix.Renameat2(dirfd, name, otherfd, otherName, unix.RENAME_EXCHANGE)
		})
	})
	if err != nil {
		return err
	}
	return b.survey()
}

func (b *builder) appendTo(m made) error {
	data := append([]byte("appended "), b.content()...)
	return b.root.withFile(m.path, unix.O_WRONLY|unix.O_APPEND, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

func (b *builder) overwrite(m made) error {
	return b.root.withFile(m.path, unix.O_WRONLY, func(f *os.File) error {
		size, err := sizeOf(f)
		if err != nil || size == 0 {
			return err
		}
		at := b.choices.IntN(size)
		_, err = f.WriteAt(randomBytes(b.choices.Uint64(), 1+b.choices.IntN(min(size-at, 5000))), int64(at))
		return err
	})
}

func (b *builder) overwriteQuietly(m made) error {
	st, err := b.root.lstat(m.path)
	if err != nil {
		return err
	}
	if err := b.overwrite(m); err != nil {
		return err
	}
	return b.setTime(m, st.Mtim.Sec, st.Mtim.Nsec)
}

func (b *builder) truncate(m made) error {
	return b.root.withFile(m.path, unix.O_WRONLY, func(f *os.File) error {
		size, err := sizeOf(f)
		if err != nil {
			return err
		}
		return f.Truncate(int64(b.choices.IntN(size + 1)))
	})
}

func (b *builder) extend(m made) error {
	return b.root.withFile(m.path, unix.O_WRONLY, func(f *os.File) error {
		size, err := sizeOf(f)
		if err != nil {
			return err
		}
		return f.Truncate(int64(size + 1 + b.choices.IntN(1<<20)))
	})
}

func (b *builder) punch(m made) error {
	return b.root.withFile(m.path, unix.O_RDWR, func(f *os.File) error {
		size, err := sizeOf(f)
		if err != nil || size == 0 {
			return err
		}
		at := b.choices.IntN(size)
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(at), int64(1+b.choices.IntN(size-at)))
		if b.refused(SparseFiles, err) {
			return nil
		}
		return err
	})
}

func sizeOf(f *os.File) (int, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return int(info.Size()), nil
}

// replace writes a file as careful programs do: beside it, then over it.
func (b *builder) replace(m made) error {
	b.fresh = append(b.fresh, m)
	_, create := b.creator(unix.S_IFREG)
	return b.root.at(m.path, func(dirfd int, name string) error {
		const temporary = ".treetest-replace"
		if err := create(dirfd, temporary); err != nil {
			return err
		}
		return unix.Renameat(dirfd, temporary, dirfd, name)
	})
}

func (b *builder) remove(m made) error {
	if err := b.root.at(m.path, removeAt); err != nil {
		return err
	}
	return b.survey()
}

func (b *builder) rename(m made) error {
	b.dirs = slices.DeleteFunc(b.dirs, func(dir string) bool {
		return dir == m.path || strings.HasPrefix(dir, m.path+"/")
	})
	_, err := b.place(OddNames, func(dirfd int, name string) error {
		return b.root.at(m.path, func(oldfd int, oldName string) error {
			return unix.Renameat2(oldfd, oldName, dirfd, name, unix.RENAME_NOREPLACE)
		})
	})
	if err != nil {
		return err
	}
	return b.survey()
}

func (b *builder) retype(m made) error {
	types := []Type{unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFIFO}
	types = slices.DeleteFunc(types, func(t Type) bool {
		return t == m.typ || t == unix.S_IFLNK && b.without[Symlinks] || t == unix.S_IFIFO && b.without[Fifos]
	})
	typ := one(b, types...)
	_, create := b.creator(typ)
	if err := b.root.at(m.path, removeAt); err != nil {
		return err
	}
	if err := b.root.at(m.path, create); err != nil {
		return err
	}
	b.fresh = append(b.fresh, made{m.path, typ})
	return b.survey()
}

// changeXattrs removes one, if there is one, or sets one.
func (b *builder) changeXattrs(m made) error {
	if b.without[UserXattrs] || b.choices.IntN(2) == 0 {
		return b.dressXattrs(m)
	}
	return b.root.at(m.path, func(dirfd int, name string) error {
		path := procPath(dirfd, name)
		xattrs, err := readXattrs(path)
		if err != nil || len(xattrs) == 0 {
			return err
		}
		err = unix.Lremovexattr(path, one(b, slices.Sorted(maps.Keys(xattrs))...))
		if b.refused(UserXattrs, err) {
			return nil
		}
		return err
	})
}

func (b *builder) linkTo(m made) error {
	if b.without[HardLinks] {
		return b.dressTime(m)
	}
	return b.addLinkTo(m)
}
