package restore_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/snapshot/manifest"
	"knowngood/storage/storagetest"
)

// unprivilegedTarget names the target of a restore that the test binary makes
// when it is started again without rights.
const unprivilegedTarget = "KNOWNGOOD_TEST_UNPRIVILEGED_TARGET"

// restoreUnprivileged restores a tree that takes the rights of root, says what
// went wrong, and is the program's exit code.
func restoreUnprivileged() int {
	t := &childT{}
	defer t.cleanup()
	w := enginetest.New(t, storagetest.NewMemory())
	forge(w, []*manifest.Entry{folder(""),
		{Path: "block", Type: manifest.BlockDevice, Mode: 0o600, Rdev: 8 << 32},
		{Path: "char", Type: manifest.CharDevice, Mode: 0o600, Rdev: 1<<32 | 3},
		{Path: "file", Type: manifest.File, Mode: 0o4755, UID: 1, GID: 1},
	}, map[string]string{"file": "content"})
	res, err := w.TryRestore("e", restore.Options{Target: os.Getenv(unprivilegedTarget)})
	if err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	for _, p := range res.Problems {
		fmt.Printf("%s: %v\n", p.Path, p.Err)
	}
	return 0
}

// childT stands for a test where there is none.
type childT struct{ cleanups []func() }

func (*childT) Helper()                        {}
func (*childT) Logf(string, ...any)            {}
func (*childT) Errorf(format string, a ...any) { fmt.Printf("error: "+format+"\n", a...) }
func (*childT) Fatalf(format string, a ...any) { fmt.Printf("fatal: "+format+"\n", a...); os.Exit(1) }
func (t *childT) Cleanup(f func())             { t.cleanups = append(t.cleanups, f) }

func (t *childT) cleanup() {
	for _, f := range t.cleanups {
		f()
	}
}

func TestWithoutRootDevicesAreNamedAndTheRestIsRestored(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root to become somebody else")
	}
	t.Parallel()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	base := treetest.TempDir(t)
	program, target, temp := filepath.Join(base, "test"), filepath.Join(base, "target"), filepath.Join(base, "tmp")
	for _, err := range []error{os.Chmod(base, 0o755), os.WriteFile(program, self, 0o755), os.Mkdir(target, 0o700), os.Mkdir(temp, 0o700), os.Chown(target, 65534, 65534), os.Chown(temp, 65534, 65534)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program)
	cmd.Dir = base
	cmd.Env = []string{unprivilegedTarget + "=" + target, "TMPDIR=" + temp, "HOME=" + temp}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, device := range []string{"block", "char"} {
		if !strings.Contains(string(out), device+": ") {
			t.Errorf("%s is not named: %s", device, out)
		}
		if _, err := os.Lstat(filepath.Join(target, device)); err == nil {
			t.Errorf("%s is there", device)
		}
	}
	if bytes.Contains(out, []byte("fatal")) || bytes.Contains(out, []byte("error:")) {
		t.Errorf("%s", out)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(target, "file"), &st); err != nil || st.Size != 7 || st.Uid != 65534 || st.Mode&unix.S_ISUID != 0 {
		t.Errorf("file: %v, %+v", err, st)
	}
}
