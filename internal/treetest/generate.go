package treetest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Shape of a tree. The zero value is a tree of about a hundred nodes with a
// few MiB, and a directory of 150 more.
type Shape struct {
	Nodes    int    // random nodes beside one of each part; 0 means 80, less than 0 none
	MaxFile  int64  // bytes of the largest file; 0 means 3 MiB
	LargeDir int    // entries of a large directory; 0 means 150
	Without  []Part // what not to make
}

// Report is what was made and what was refused.
type Report struct {
	Made    map[string]int // by type of node, "hard link" for further names
	Refused map[Part]int   // by the file system, or for lack of rights
}

func (r *Report) String() string {
	var s []string
	for _, k := range slices.Sorted(maps.Keys(r.Made)) {
		s = append(s, fmt.Sprintf("%d × %s", r.Made[k], k))
	}
	for _, k := range slices.Sorted(maps.Keys(r.Refused)) {
		s = append(s, fmt.Sprintf("%d × %s refused", r.Refused[k], k))
	}
	return strings.Join(s, ", ")
}

// Generate fills dir, which must exist and be empty, with a random tree. Every
// part is there, where the choices keep it and the machine allows it. The tree
// is removed after the test.
func Generate(t T, dir string, choices Choices, shape Shape) *Report {
	t.Helper()
	b, err := newBuilder(dir, choices, shape)
	if err != nil {
		t.Fatalf("generating a tree: %v", err)
	}
	defer b.root.close()
	t.Cleanup(func() {
		if err := Empty(dir); err != nil {
			t.Errorf("removing a generated tree: %v", err)
		}
	})
	if err := b.generate(); err != nil {
		t.Fatalf("generating a tree in %s: %v", dir, err)
	}
	return b.report
}

// made is a node that has been created, and what it is.
type made struct {
	path string
	typ  Type
}

// builder makes nodes and keeps account of them.
type builder struct {
	root       root
	choices    Choices
	shape      Shape
	without    map[Part]bool
	privileged bool
	report     *Report

	dirs     []string // all directories; "" first
	files    []made   // all else
	fresh    []made   // what has no metadata yet
	contents [][]byte // to be used again
}

func newBuilder(dir string, choices Choices, shape Shape) (*builder, error) {
	r, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	if shape.Nodes == 0 {
		shape.Nodes = 80
	}
	if shape.MaxFile == 0 {
		shape.MaxFile = 3 << 20
	}
	if shape.LargeDir == 0 {
		shape.LargeDir = 150
	}
	b := &builder{
		root:       r,
		choices:    choices,
		shape:      shape,
		without:    make(map[Part]bool),
		privileged: os.Geteuid() == 0,
		report:     &Report{Made: make(map[string]int), Refused: make(map[Part]int)},
		dirs:       []string{""},
	}
	for _, p := range shape.Without {
		b.without[p] = true
	}
	return b, nil
}

// recipe makes one node, or several. part is "" when it is always wanted.
type recipe struct {
	part Part
	cook func(*builder) error
}

// recipes are in an order in which each finds what it needs.
func recipes() []recipe {
	node := func(typ Type) func(*builder) error {
		return func(b *builder) error { return b.add(typ) }
	}
	return []recipe{
		{"", node(unix.S_IFDIR)},
		{"", node(unix.S_IFREG)},
		{"", node(unix.S_IFREG)},
		{Symlinks, node(unix.S_IFLNK)},
		{Fifos, node(unix.S_IFIFO)},
		{Sockets, node(unix.S_IFSOCK)},
		{CharDevices, node(unix.S_IFCHR)},
		{BlockDevices, node(unix.S_IFBLK)},
		{SparseFiles, (*builder).addSparse},
		{HardLinks, (*builder).addLink},
	}
}

func (b *builder) generate() error {
	all := append(recipes(),
		recipe{LargeDirs, (*builder).addLargeDir},
		recipe{DeepPaths, (*builder).addDeepPath},
	)
	for _, r := range all {
		if b.without[r.part] || !b.choices.Keep() {
			continue
		}
		if err := r.cook(b); err != nil {
			return err
		}
	}
	for range b.shape.Nodes {
		if !b.choices.Keep() {
			continue
		}
		if err := b.addAny(); err != nil {
			return err
		}
	}
	// Metadata last: every new node would change its directory's time.
	if err := b.dress(made{"", unix.S_IFDIR}); err != nil {
		return err
	}
	return b.dressFresh()
}

// addAny makes a random node: half of them plain files.
func (b *builder) addAny() error {
	list := recipes()
	r := list[1]
	if b.choices.IntN(2) == 1 {
		r = list[b.choices.IntN(len(list))]
	}
	if b.without[r.part] {
		r = list[1]
	}
	return r.cook(b)
}

// refused reports whether an error means that the machine does not allow
// something; then it is counted.
func (b *builder) refused(part Part, err error) bool {
	for _, e := range []error{unix.EPERM, unix.EACCES, unix.ENOTSUP, unix.ENOSYS, unix.EINVAL, unix.EILSEQ, unix.ENAMETOOLONG, unix.EOVERFLOW} {
		if errors.Is(err, e) {
			b.report.Refused[part]++
			return true
		}
	}
	return false
}

// place calls f to create a node at a random place, with other names as long
// as they exist, and returns its path; "" when it was refused.
func (b *builder) place(part Part, f func(dirfd int, name string) error) (string, error) {
	dir := b.dirs[b.choices.IntN(len(b.dirs))]
	for attempt := range 20 {
		name := b.name()
		if attempt > 10 {
			name = fmt.Sprintf("another-%d-%x", attempt, b.choices.Uint64())
		}
		path := name
		if dir != "" {
			path = dir + "/" + name
		}
		err := b.root.at(path, f)
		switch {
		case err == nil:
			return path, nil
		case errors.Is(err, unix.EEXIST):
			continue
		case b.refused(part, err):
			return "", nil
		}
		return "", fmt.Errorf("making %q: %w", path, err)
	}
	return "", fmt.Errorf("no free name in %q", dir)
}

// add makes a node at a random place.
func (b *builder) add(typ Type) error {
	part, create := b.creator(typ)
	path, err := b.place(part, create)
	if err != nil || path == "" {
		return err
	}
	b.enter(made{path, typ})
	return nil
}

// enter takes a node that has been created into the account.
func (b *builder) enter(m made) {
	b.report.Made[m.typ.String()]++
	b.fresh = append(b.fresh, m)
	if m.typ == unix.S_IFDIR {
		b.dirs = append(b.dirs, m.path)
	} else {
		b.files = append(b.files, m)
	}
}

// creator chooses what a new node of a type holds, and returns how to create
// it.
func (b *builder) creator(typ Type) (Part, func(dirfd int, name string) error) {
	mknod := func(rdev uint64) func(int, string) error {
		return func(dirfd int, name string) error {
			return unix.Mknodat(dirfd, name, uint32(typ)|0o600, int(rdev))
		}
	}
	switch typ {
	case unix.S_IFDIR:
		return OddNames, func(dirfd int, name string) error { return unix.Mkdirat(dirfd, name, 0o700) }
	case unix.S_IFLNK:
		target := b.target()
		return Symlinks, func(dirfd int, name string) error { return unix.Symlinkat(target, dirfd, name) }
	case unix.S_IFIFO:
		return Fifos, mknod(0)
	case unix.S_IFSOCK:
		return Sockets, mknod(0)
	case unix.S_IFCHR:
		return CharDevices, mknod(unix.Mkdev(uint32(b.choices.IntN(1<<12)), uint32(b.choices.IntN(1<<20))))
	case unix.S_IFBLK:
		return BlockDevices, mknod(unix.Mkdev(uint32(b.choices.IntN(1<<12)), uint32(b.choices.IntN(1<<20))))
	}
	data := b.content()
	return OddNames, func(dirfd int, name string) error {
		return root{dirfd}.withFile(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, func(f *os.File) error {
			_, err := f.Write(data)
			return err
		})
	}
}

func (b *builder) addSparse() error {
	path, err := b.place(SparseFiles, func(dirfd int, name string) error {
		return root{dirfd}.withFile(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, b.writeSparse)
	})
	if err != nil || path == "" {
		return err
	}
	b.enter(made{path, unix.S_IFREG})
	return nil
}

// addLink gives a node that is no directory one more name anywhere.
func (b *builder) addLink() error {
	if len(b.files) == 0 {
		return nil
	}
	return b.addLinkTo(b.files[b.choices.IntN(len(b.files))])
}

func (b *builder) addLinkTo(source made) error {
	path, err := b.place(HardLinks, func(dirfd int, name string) error {
		return b.root.at(source.path, func(sourcefd int, sourceName string) error {
			return unix.Linkat(sourcefd, sourceName, dirfd, name, 0)
		})
	})
	if err != nil || path == "" {
		return err
	}
	b.report.Made["hard link"]++
	b.files = append(b.files, made{path, source.typ})
	return nil
}

func (b *builder) addLargeDir() error {
	path, err := b.place(OddNames, func(dirfd int, name string) error { return unix.Mkdirat(dirfd, name, 0o700) })
	if err != nil || path == "" {
		return err
	}
	b.enter(made{path, unix.S_IFDIR})
	for i := range b.shape.LargeDir {
		m := made{fmt.Sprintf("%s/entry-%d", path, i), unix.S_IFREG}
		err := b.root.withFile(m.path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, func(f *os.File) error {
			_, err := fmt.Fprintf(f, "entry %d\n", i/2)
			return err
		})
		if err != nil {
			return err
		}
		// One in sixteen gets odd metadata; choosing it for all would take
		// most of the time of all of the tree.
		if b.report.Made[m.typ.String()]++; i%16 == 0 {
			b.fresh = append(b.fresh, m)
		} else if err := b.setTime(m, 1_700_000_000+int64(i), int64(i)); err != nil {
			return err
		}
	}
	return nil
}

// addDeepPath makes a chain of directories longer than PATH_MAX, with a file
// at its end. Other nodes may come to lie there later.
func (b *builder) addDeepPath() error {
	mkdir := func(dirfd int, name string) error { return unix.Mkdirat(dirfd, name, 0o700) }
	path, err := b.place(DeepPaths, mkdir)
	for err == nil && path != "" && len(path) < unix.PathMax+200 {
		b.report.Made[Type(unix.S_IFDIR).String()]++
		b.fresh = append(b.fresh, made{path, unix.S_IFDIR})
		path += "/" + strings.Repeat("d", 200+b.choices.IntN(56))
		err = b.root.at(path, mkdir)
	}
	if path == "" || b.refused(DeepPaths, err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("making a deep path: %w", err)
	}
	b.enter(made{path, unix.S_IFDIR})
	path += "/at the end"
	_, create := b.creator(unix.S_IFREG)
	err = b.root.at(path, create)
	if err != nil {
		return fmt.Errorf("making a file at the end of a deep path: %w", err)
	}
	b.enter(made{path, unix.S_IFREG})
	return nil
}
