package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/posix"
)

// tree is a source that all sides capture.
type tree struct {
	name, path string
	about      string // what it is, and how much
	dirty      string // marker that it is not as it was made
	change     func(dir string, round int) (undo func() error, err error)
}

const (
	sourcePackage = "/usr/src/linux-source-6.1.tar.xz"
	imageBytes    = 3 << 30
	randomBytes   = 1 << 30
	millionDirs   = 1000
	filesPerDir   = 1000
	smallPart     = 40 // small versions of B have so much less
	smallDirs     = 10
)

// tree returns a tree, and makes it when it is not there or was left changed
// by a run that was killed.
func (b *bench) tree(ctx context.Context, name string) (*tree, error) {
	base := filepath.Join(b.dir, "trees")
	if b.small {
		base = filepath.Join(b.dir, "small-trees")
	}
	t := &tree{name: name, path: filepath.Join(base, name)}
	t.dirty = t.path + ".dirty"
	var fill func(context.Context, string) error
	var what string
	switch name {
	case sectionA:
		t.change = appendToFiles
		what, fill = "the unpacked linux-source-6.1 package", unpackSource
		if b.small {
			what, fill = "the sources of Go", copyGoSource
		}
	case sectionB:
		t.change = overwriteRuns
		image, random := int64(imageBytes), int64(randomBytes)
		if b.small {
			image, random = image/smallPart, random/smallPart
		}
		what = "a tar of /usr as one file, and random bytes beside it"
		fill = func(ctx context.Context, dir string) error { return fillImage(ctx, dir, image, random) }
	case sectionMillion:
		dirs := millionDirs
		if b.small {
			dirs = smallDirs
		}
		what = fmt.Sprintf("tiny files in %d directories", dirs)
		fill = func(ctx context.Context, dir string) error { return fillTiny(ctx, dir, dirs) }
	}
	if err := t.make(ctx, fill); err != nil {
		return nil, err
	}
	// Reading everything once also warms the page cache.
	files, bytes, err := readAll(ctx, t.path)
	if err != nil {
		return nil, err
	}
	b.files = files
	if b.touched, err = newest(ctx, t.path); err != nil {
		return nil, err
	}
	t.about = fmt.Sprintf("%s: %d files, %.2f GB", what, files, float64(bytes)/1e9)
	return t, err
}

func (t *tree) make(ctx context.Context, fill func(context.Context, string) error) error {
	if _, err := os.Stat(t.dirty); err == nil {
		if err := os.RemoveAll(t.path); err != nil {
			return err
		}
		if err := os.Remove(t.dirty); err != nil {
			return err
		}
	}
	if _, err := os.Stat(t.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fmt.Printf("making tree %s in %s\n", t.name, t.path)
	partial := t.path + ".new"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	if err := os.MkdirAll(partial, 0o755); err != nil {
		return err
	}
	if err := fill(ctx, partial); err != nil {
		return err
	}
	return os.Rename(partial, t.path)
}

func unpackSource(ctx context.Context, dir string) error {
	return runQuietly(ctx, command{argv: []string{"tar", "-xJf", sourcePackage, "-C", dir, "--strip-components=1"}})
}

func copyGoSource(ctx context.Context, dir string) error {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return err
	}
	return runQuietly(ctx, command{argv: []string{"cp", "-a", filepath.Join(strings.TrimSpace(string(out)), "src"), dir}})
}

// fillImage writes the first bytes of a tar of /usr, repeated when there are
// too few, and random bytes in a file of their own.
func fillImage(ctx context.Context, dir string, image, random int64) error {
	f, err := os.Create(filepath.Join(dir, "usr.tar"))
	if err != nil {
		return err
	}
	defer f.Close()
	for left := image; left > 0; {
		n, err := copyTar(ctx, f, left)
		if err != nil {
			return err
		}
		left -= n
	}
	r, err := os.Create(filepath.Join(dir, "random.bin"))
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := io.CopyN(r, rand.NewChaCha8([32]byte{'B'}), random); err != nil {
		return err
	}
	return errors.Join(f.Close(), r.Close())
}

// copyTar writes at most limit bytes of a tar of /usr.
func copyTar(ctx context.Context, w io.Writer, limit int64) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "tar", "--sort=name", "--warning=none", "-cf", "-", "-C", "/", "usr")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	n, err := io.CopyN(w, out, limit)
	if errors.Is(err, io.EOF) && n > 0 {
		err = nil
	}
	cancel()
	_ = cmd.Wait() // what has been enough is cut off
	return n, err
}

// fillTiny makes files of up to 100 bytes.
func fillTiny(ctx context.Context, dir string, dirs int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for d := range dirs {
		g.Go(func() error {
			sub := filepath.Join(dir, fmt.Sprintf("dir-%04d", d))
			if err := os.Mkdir(sub, 0o755); err != nil {
				return err
			}
			for i := range filesPerDir {
				content := fmt.Sprintf("file %d of directory %d\n%s", i, d, strings.Repeat(string(rune('a'+i%26)), (i*7+d)%64))
				if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file-%04d", i)), []byte(content), 0o644); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

// readAll reads every file below a directory, and counts files and bytes.
func readAll(ctx context.Context, dir string) (files, bytes int64, err error) {
	err = eachFile(ctx, dir, func(path string, _ fs.FileInfo) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		n, err := io.Copy(io.Discard, f)
		files, bytes = files+1, bytes+n
		return err
	})
	return files, bytes, err
}

// newest is when the youngest file below a directory changed.
func newest(ctx context.Context, dir string) (at time.Time, err error) {
	err = eachFile(ctx, dir, func(path string, info fs.FileInfo) error {
		c := info.Sys().(*syscall.Stat_t).Ctim
		if changed := time.Unix(c.Sec, c.Nsec); changed.After(at) {
			at = changed
		}
		return nil
	})
	return at, err
}

// age waits until the time stamps of the tree are believed: knowngood reads
// files again that were younger when it captured them.
func (b *bench) age(ctx context.Context) error {
	select {
	case <-time.After(time.Until(b.touched.Add(posix.WritebackWindow(posix.KernelSettings) + time.Second))):
	case <-ctx.Done():
	}
	return ctx.Err()
}

// storedBytes is the size of all files below a directory.
func storedBytes(ctx context.Context, dir string) (int64, error) {
	var bytes int64
	err := eachFile(ctx, dir, func(_ string, info fs.FileInfo) error {
		bytes += info.Size()
		return nil
	})
	return bytes, err
}

func eachFile(ctx context.Context, dir string, f func(string, fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return f(path, info)
	})
}
