package index

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/userdir"
)

// ErrCache means that the cache cannot be used.
var ErrCache = errors.New("index cache")

const (
	runSuffix    = ".run"
	newSuffix    = ".new" // of what is not published yet
	finderSuffix = ".ids"
	tempPrefix   = "tmp-"
)

// Cache is a directory of runs, for one domain. Several processes may use it
// at once: files appear whole, are never changed, and one that is removed
// stays usable to those who have it open.
type Cache struct {
	// Note, when set, is called with what was in the place of a file, and with what
	// became of it.
	Note func(error)

	dir userdir.Dir
}

// OpenCache opens the cache in dir, which it makes when needed, and clears
// away what processes that died left unfinished.
func OpenCache(dir userdir.Dir) (*Cache, error) {
	c := &Cache{dir: dir}
	if err := dir.Make(); err != nil {
		return nil, c.fail(err)
	}
	names, err := c.names()
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if strings.HasPrefix(n, tempPrefix) {
			if err := c.removeIfDead(n); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// fail puts an error into words for the operator.
func (c *Cache) fail(err error) error { return fmt.Errorf("%w: %w", ErrCache, c.dir.Failed(err)) }

func (c *Cache) names() ([]string, error) {
	names, err := c.dir.Names()
	if err != nil {
		return nil, c.fail(err)
	}
	return names, nil
}

// removeIfDead removes a temporary file unless a living process holds it.
func (c *Cache) removeIfDead(name string) error {
	f, err := c.dir.Open(name)
	if err != nil {
		return nil // it is gone, or none of ours
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	return c.remove(name)
}

// temp makes a temporary file and locks it, so that it is known to be alive.
// Another process may take it for dead in the moment before the lock; then it
// is gone, and the next one is tried. Where files cannot be locked none is
// ever taken for dead.
func (c *Cache) temp() (*os.File, error) {
	for {
		f, err := c.dir.CreateTemp(tempPrefix)
		if err != nil {
			return nil, c.fail(err)
		}
		locked := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			f.Close()
			return nil, c.fail(err)
		}
		if locked != unix.EWOULDBLOCK && st.Nlink > 0 {
			return f, nil
		}
		f.Close()
	}
}

func runName(hash [32]byte) string { return hex.EncodeToString(hash[:]) + runSuffix }

// Runs lists the hashes of the runs that are here, in no order.
func (c *Cache) Runs() ([][32]byte, error) {
	names, err := c.names()
	if err != nil {
		return nil, err
	}
	var runs [][32]byte
	for _, n := range names {
		b, err := hex.DecodeString(strings.TrimSuffix(n, runSuffix))
		if err == nil && len(b) == 32 && strings.HasSuffix(n, runSuffix) {
			runs = append(runs, [32]byte(b))
		}
	}
	return runs, nil
}

// Open maps a run. The error matches os.ErrNotExist when it is not here, and
// ErrDamaged when it must be removed and fetched again.
func (c *Cache) Open(hash [32]byte) (*File, error) {
	f, err := c.dir.Open(runName(hash))
	if err != nil {
		return nil, c.fail(err)
	}
	defer f.Close()
	x, err := mapFile(f)
	if err != nil {
		return nil, c.fail(err)
	}
	if x.info.Hash != hash {
		x.Close()
		return nil, c.fail(fmt.Errorf("%s: %w: it holds another run", f.Name(), ErrDamaged))
	}
	return x, nil
}

// Adopt stores a run under info.Hash and maps it. The counts in info are
// taken from body.
func (c *Cache) Adopt(info Info, body *Body) (*File, error) {
	return store(c, runName(info.Hash), mapFile, func(w io.Writer) error { return writeFile(w, info, body) })
}

// spill maps a run that only this process needs.
func (c *Cache) spill(body *Body) (*File, error) {
	return store(c, "", mapFile, func(w io.Writer) error { return writeFile(w, Info{}, body) })
}

func randomName() string {
	var random [16]byte
	_, _ = rand.Read(random[:])
	return hex.EncodeToString(random[:])
}

// hold stores what is to be published later.
func (c *Cache) hold(body *Body) (*File, error) {
	name := randomName() + newSuffix
	f, err := store(c, name, mapFile, func(w io.Writer) error { return writeFile(w, Info{}, body) })
	if err == nil {
		f.held = name
	}
	return f, err
}

// held maps what is to be published later, except what skip returns true for, and
// removes what is damaged of it: its packs are in the store.
func (c *Cache) held(skip func(name string) bool) (all []*File, err error) {
	names, err := c.names()
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if !strings.HasSuffix(n, newSuffix) || skip(n) {
			continue
		}
		f, err := c.dir.Open(n)
		var x *File
		if err == nil {
			if x, err = mapFile(f); err == nil && !x.Whole() {
				x.Close()
				err = ErrDamaged
			}
			f.Close()
		}
		switch {
		case err == nil:
			x.held = n
			all = append(all, x)
		case !errors.Is(err, os.ErrNotExist): // else another process has published it
			err = c.remove(n)
		default:
			err = nil
		}
		if err != nil {
			return nil, c.fail(err)
		}
	}
	return all, nil
}

// finder makes a finder of files and maps it; keep leaves it in the cache. Files that
// it cannot cover it sets to nil.
func (c *Cache) finder(files []*File, keep bool) (*finder, error) {
	name := ""
	if keep {
		name = randomName() + finderSuffix
	}
	d, err := store(c, name, mapFinder, func(w io.Writer) error { return writeFinder(w, files) })
	if err == nil {
		d.name = name
	}
	return d, err
}

// finders maps the finders that are here, and removes those that cannot be used.
func (c *Cache) finders() (all []*finder, err error) {
	names, err := c.names()
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if !strings.HasSuffix(n, finderSuffix) {
			continue
		}
		f, err := c.dir.Open(n)
		if err == nil {
			var d *finder
			if d, err = mapFinder(f); err == nil {
				d.name = n
				all = append(all, d)
			}
			f.Close()
		}
		if err != nil {
			if err := c.remove(n); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// store writes a file and maps it. Without a name it is gone with the process.
func store[T any](c *Cache, name string, open func(*os.File) (T, error), write func(io.Writer) error) (x T, err error) {
	f, err := c.temp()
	if err != nil {
		return x, err
	}
	defer f.Close()
	if err = write(f); err == nil && name != "" {
		err = c.dir.Rename(filepath.Base(f.Name()), name)
	}
	if err != nil || name == "" {
		err = cmp.Or(err, c.discard(f))
	}
	if err == nil {
		x, err = open(f)
	}
	if err != nil {
		return x, c.fail(err)
	}
	return x, nil
}

// discard removes a temporary file, which stays open.
func (c *Cache) discard(f *os.File) error { return c.dir.Remove(filepath.Base(f.Name())) }

// Remove removes a run, or what has its name; one that is not here is no error.
func (c *Cache) Remove(hash [32]byte) error { return c.remove(runName(hash)) }

// remove removes what has a name, which is a file unless somebody put something else
// there. A directory with something in it gets another name.
func (c *Cache) remove(name string) error {
	err := c.dir.Remove(name)
	if errors.Is(err, os.ErrExist) { // not empty
		aside := name + ".moved-" + rand.Text()
		if err = c.dir.Rename(name, aside); err == nil && c.Note != nil {
			c.Note(fmt.Errorf("%s is a directory in the place of a file of the index cache, and is called %s now: see what it is, and remove it; the file is made again", c.dir.Path(name), aside))
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return c.fail(err)
	}
	return nil
}

// Keep removes all runs but those given.
func (c *Cache) Keep(runs []Info) error {
	here, err := c.Runs()
	if err != nil {
		return err
	}
	for _, h := range here {
		if !slices.ContainsFunc(runs, func(r Info) bool { return r.Hash == h }) {
			if err := c.Remove(h); err != nil {
				return err
			}
		}
	}
	return nil
}
