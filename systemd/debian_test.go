package systemd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// debian is the root of a small Debian with systemd, made once and then kept
// in the user's cache. It is for copying.
func debian(t *testing.T) string {
	t.Helper()
	uri, codename := mirror(t)
	return cached(t, codename, func(temp string) {
		run(t, "debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv,dbus", codename, temp, uri)
	})
}

// cached is a directory that is filled once and then kept in the user's cache.
func cached(t *testing.T, name string, fill func(temp string)) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skipf("no place to keep a Debian: %v", err)
	}
	dir := filepath.Join(cache, "knowngood-test", name)
	filling.Lock()
	defer filling.Unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), name+"-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	if err := os.Chmod(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	fill(temp)
	if err := os.Rename(temp, dir); err != nil && !errors.Is(err, os.ErrExist) { // another process was faster
		t.Fatal(err)
	}
	return dir
}

var filling sync.Mutex

// mirror is where this machine's own packages come from, and its release.
func mirror(t *testing.T) (uri, codename string) {
	t.Helper()
	needs(t, "debootstrap")
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		t.Skipf("no Debian: %v", err)
	}
	for line := range strings.Lines(string(release)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			codename = name
		}
	}
	for line := range strings.Lines(run(t, "apt-get", "indextargets", "--format", "$(COMPONENT) $(SUITE) $(CODENAME) $(REPO_URI)", "Created-By: Packages")) {
		if f := strings.Fields(line); len(f) == 4 && f[0] == "main" && f[2] == codename {
			return f[3], codename
		}
	}
	t.Skipf("apt knows no packages of %s: apt-get update", codename)
	return "", ""
}

// built are the packages of this checkout.
type built struct{ deb, rpm string }

// buildPackages builds them once for all tests.
var buildPackages = sync.OnceValues(func() (b built, err error) {
	cmd := exec.Command("package/build")
	cmd.Env = append(os.Environ(), "DIST="+distDir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return b, fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	for pattern, name := range map[string]*string{"*.deb": &b.deb, "*.rpm": &b.rpm} {
		found, err := filepath.Glob(filepath.Join(distDir, pattern))
		if err != nil || len(found) != 1 {
			return b, fmt.Errorf("%d files %s were built, %v", len(found), pattern, err)
		}
		*name = found[0]
	}
	return b, nil
})

func packages(t *testing.T) built {
	t.Helper()
	b, err := buildPackages()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// distDir is where packages are built.
var distDir string

func TestMain(m *testing.M) {
	var err error
	if distDir, err = os.MkdirTemp("", "knowngood-packages-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(distDir)
	os.Exit(code)
}
