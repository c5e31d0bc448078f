package main

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
)

// makeTree makes tree A or B below dir, once.
func makeTree(dir, name string, small bool) (string, error) {
	tree := filepath.Join(dir, "tree-"+name)
	if small {
		tree += "-small"
	}
	if _, err := os.Stat(tree); err == nil {
		return tree, nil
	}
	tmp := tree + ".part"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return "", err
	}
	shell := func(script string) error {
		out, err := exec.Command("sh", "-ec", script, "sh", tmp).CombinedOutput()
		if err != nil {
			return fmt.Errorf("tree %s: %w: %s", name, err, out)
		}
		return nil
	}
	var err error
	switch {
	case name == "A" && small:
		err = shell(`tar xJf /usr/src/linux-source-6.1.tar.xz -C "$1" linux-source-6.1/fs linux-source-6.1/mm linux-source-6.1/kernel linux-source-6.1/net`)
	case name == "A":
		err = shell(`tar xJf /usr/src/linux-source-6.1.tar.xz -C "$1"`)
	case small:
		err = shell(`tar cf - /usr/share | head -c 80000000 >"$1/usr.tar"; head -c 20000000 /dev/urandom >"$1/random"`)
	default:
		err = shell(`{ tar cf - /usr; tar cf - /usr; tar cf - /usr; } 2>/dev/null | head -c 3000000000 >"$1/usr.tar"; head -c 1000000000 /dev/urandom >"$1/random"`)
	}
	if err != nil {
		return "", err
	}
	return tree, os.Rename(tmp, tree)
}

// warm reads a tree once, so that every side finds it in the page cache.
func warm(tree string) {
	filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if f, err := os.Open(p); err == nil {
				io.Copy(io.Discard, f)
				f.Close()
			}
		}
		return nil
	})
}

// change appends to 1 % of the files of tree A, or overwrites 1 % of the bytes
// of tree B in runs of 64 KiB; the same ones for the same seed.
func change(tree, name string, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 1))
	return filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if name == "A" {
			if r.IntN(100) != 0 {
				return nil
			}
			f, err := os.OpenFile(p, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			fmt.Fprintf(f, "\n/* changed %d */\n", r.Uint64())
			return f.Close()
		}
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		const run = 64 << 10
		buf := make([]byte, run)
		for range info.Size() / run / 100 {
			for i := range buf {
				buf[i] = byte(r.Uint32())
			}
			if _, err := f.WriteAt(buf, r.Int64N(info.Size()-run)); err != nil {
				return err
			}
		}
		return nil
	})
}

// same compares a restored tree with its source: content, modes and times.
func same(source, restored string) error {
	out, err := exec.Command("sh", "-ec", `diff -r --no-dereference "$1" "$2"
		list() { cd "$1" && find . ! -type d -printf '%p %y %m %U %G %T@ %s %l\n' | sort; }
		[ "$(list "$1" | sha256sum)" = "$(list "$2" | sha256sum)" ]`, "sh", source, restored).CombinedOutput()
	if err != nil {
		return fmt.Errorf("the restore in %s differs from %s: %w %.400s", restored, source, err, out)
	}
	return nil
}
