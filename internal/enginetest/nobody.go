package enginetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"knowngood/internal/treetest"
)

const nobody = 65534

// AsNobody reports whether the process has no special rights. Where it has, it
// runs the calling test again in a process without them, and the caller
// returns.
func AsNobody(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return true
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	base := treetest.TempDir(t)
	program, temp := filepath.Join(base, "test"), filepath.Join(base, "tmp")
	for _, err := range []error{os.Chmod(base, 0o755), os.WriteFile(program, self, 0o755), os.Mkdir(temp, 0o700), os.Chown(temp, nobody, nobody)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	pattern := "^" + strings.ReplaceAll(regexp.QuoteMeta(t.Name()), "/", "$/^") + "$" // a part for each level
	cmd := exec.Command(program, "-test.run="+pattern, "-test.v")
	cmd.Dir = base
	cmd.Env = []string{"TMPDIR=" + temp, "HOME=" + temp}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
	return false
}
