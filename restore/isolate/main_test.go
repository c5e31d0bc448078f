package isolate_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"knowngood/restore/isolate"
)

// request is what the tests ask of the inside function: a program to run.
type request struct {
	Argv []string
	UID  uint32
	Read string // a file to read instead
}

type answer struct {
	Output string
	Error  string
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "cell" {
		fmt.Fprintln(os.Stderr, isolate.Enter(inside))
		os.Exit(2)
	}
	os.Exit(m.Run())
}

func inside(in io.Reader, out io.Writer) error {
	for d, e := json.NewDecoder(in), json.NewEncoder(out); ; {
		var r request
		if err := d.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var text []byte
		var err error
		if r.Read != "" {
			text, err = os.ReadFile(r.Read)
		} else {
			cmd := exec.Command(r.Argv[0], r.Argv[1:]...)
			if r.UID != 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: r.UID, Gid: r.UID}}
			}
			text, err = cmd.CombinedOutput()
		}
		a := answer{Output: string(text[:min(len(text), 32<<10)])}
		if err != nil {
			a.Error = err.Error()
		}
		if err := e.Encode(a); err != nil {
			return err
		}
	}
}

// asNobody runs a test of this program again as a user without rights.
func asNobody(t *testing.T, pattern string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("this is no root: the test itself has run as a user")
	}
	dir, err := os.MkdirTemp("", "nobody") // t.TempDir lies in a directory of root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run="+pattern, "-test.v")
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

const nobody = 65534
