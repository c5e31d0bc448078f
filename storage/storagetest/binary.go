package storagetest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"syscall"
	"testing"
)

// binary returns the path of a program of tools/go.mod. It is built once on a
// machine for each state of that file and then taken from the user's cache; a
// first build takes minutes, during which other tests wait.
func binary(t testing.TB, module string) string {
	t.Helper()
	file, err := build(module)
	if err != nil {
		t.Fatalf("build %s, which this test runs as a server: %v", module, err)
	}
	return file
}

func build(module string) (string, error) {
	root, err := repositoryRoot()
	if err != nil {
		return "", err
	}
	state, err := toolsState(root)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "knowngood-test", state)
	file := filepath.Join(dir, path.Base(module))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	cmd := exec.Command("go", "build", "-modfile=tools/go.mod", "-p", "2", "-o", file+".new", module)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s in %s: %w\n%s", cmd, root, err, out)
	}
	return file, os.Rename(file+".new", file)
}

// repositoryRoot finds the directory with tools/go.mod above the test.
func repositoryRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "tools", "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no tools/go.mod in %s or above: run the test from a checkout", start)
		}
	}
}

// toolsState names what the build depends on.
func toolsState(root string) (string, error) {
	h := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(root, "tools", name))
		if err != nil {
			return "", err
		}
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// lock keeps other processes out until unlock is called or this one ends.
func lock(file string) (unlock func() error, err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	return f.Close, nil
}
