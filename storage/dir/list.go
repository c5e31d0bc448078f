package dir

import (
	"context"
	"iter"
	"slices"
	"strings"

	"knowngood/storage"
)

// List implements storage.Store. It reads one directory at a time and only
// those that can hold a key that is asked for.
func (s *Store) List(ctx context.Context, o storage.ListOptions) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		l := listing{ctx: ctx, s: s, o: o, yield: yield}
		err := s.present()
		if err == nil {
			err = l.walk("")
		}
		if err != nil && !l.done {
			yield(storage.Object{}, s.fail("list", o.Prefix, err))
		}
	}
}

type listing struct {
	ctx   context.Context
	s     *Store
	o     storage.ListOptions
	yield func(storage.Object, error) bool
	n     int  // objects yielded
	done  bool // yield must not be called again
}

// walk visits what lies in dir, which is "" or ends in a slash.
func (l *listing) walk(dir string) error {
	paths, err := l.s.readDir(l.ctx, dir, l.foreign)
	if err != nil {
		return err
	}
	for _, p := range paths {
		if !l.reaches(p) {
			continue
		}
		switch {
		case !strings.HasSuffix(p, "/"):
			err = l.object(p)
		case l.o.Delimiter && strings.HasPrefix(p, l.o.Prefix) && len(p) > len(l.o.Prefix):
			err = l.fold(p)
		default:
			err = l.walk(p)
		}
		if err != nil || l.done {
			return err
		}
	}
	return nil
}

// reaches reports whether p, or something below the directory p, is asked for.
func (l *listing) reaches(p string) bool {
	isDir := strings.HasSuffix(p, "/")
	if !strings.HasPrefix(p, l.o.Prefix) && !(isDir && strings.HasPrefix(l.o.Prefix, p)) {
		return false
	}
	return p > l.o.After || isDir && strings.HasPrefix(l.o.After, p)
}

// foreign reports what is no part of a key.
func (l *listing) foreign(name string) {
	if l.o.Foreign != nil && strings.HasPrefix(name, l.o.Prefix) && name != scratch+"/" {
		l.o.Foreign(name)
	}
}

func (l *listing) object(key string) error {
	info, err := l.s.root.Lstat(key)
	if absent(err) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	switch {
	case info.Mode().IsRegular():
		l.emit(storage.Object{Key: key, Size: info.Size(), Modified: info.ModTime()})
	case !info.IsDir():
		l.emit(storage.Object{Key: key, Modified: info.ModTime()})
	}
	return nil
}

// fold yields dir itself when there is an object somewhere below.
func (l *listing) fold(dir string) error {
	if dir <= l.o.After {
		return nil
	}
	some, err := l.s.inhabited(l.ctx, dir)
	if some {
		l.emit(storage.Object{Key: dir, Folded: true})
	}
	return err
}

func (l *listing) emit(o storage.Object) {
	l.n++
	l.done = !l.yield(o, nil) || l.n == l.o.Limit
}

// inhabited reports whether an object lies below dir.
func (s *Store) inhabited(ctx context.Context, dir string) (bool, error) {
	paths, err := s.readDir(ctx, dir, func(string) {})
	if err != nil {
		return false, err
	}
	for _, p := range paths {
		if !strings.HasSuffix(p, "/") {
			return true, nil
		}
		if some, err := s.inhabited(ctx, p); some || err != nil {
			return some, err
		}
	}
	return false, nil
}

// readDir returns the paths of the files and directories in dir that are
// parts of keys, directories with a slash behind, and reports the others. In that form they sort as
// the keys below them do: "a-b" before "a/b".
func (s *Store) readDir(ctx context.Context, dir string, foreign func(name string)) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := s.root.Open("./" + dir)
	if absent(err) {
		return nil, nil // removed meanwhile
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	paths := make([]string, 0, len(entries))
	for _, e := range entries {
		name := dir + e.Name()
		if e.IsDir() {
			name += "/"
		}
		if storage.ValidSegment(e.Name()) {
			paths = append(paths, name)
		} else {
			foreign(name)
		}
	}
	slices.Sort(paths)
	return paths, nil
}
