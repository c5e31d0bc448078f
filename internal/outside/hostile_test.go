package outside

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/internal/treetest"
)

// reports is a hook that writes to standard error by its name, as shells do.
var reports = []string{"/bin/sh", "-c", `echo "quiescing for $KNOWNGOOD_ENVIRONMENT" > /dev/stderr`}

func TestMain(m *testing.M) {
	if socket := os.Getenv("OUTSIDE_TEST_SOCKET"); socket != "" {
		os.Exit(askAsTakenDaemon(socket, os.Getenv("OUTSIDE_TEST_FILE")))
	}
	os.Exit(m.Run())
}

// askAsTakenDaemon asks for the hook over the socket, and hands a descriptor of
// a file over with the request, as far as the kernel lets it: one without the
// right to write.
func askAsTakenDaemon(socket, file string) int {
	fd, err := unix.Open(file, unix.O_PATH, 0)
	if err != nil {
		return 2
	}
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return 3
	}
	if err := unix.Connect(conn, &unix.SockaddrUnix{Name: socket}); err != nil {
		return 4
	}
	text := `{"argv":["/bin/sh","-c","echo \"quiescing for $KNOWNGOOD_ENVIRONMENT\" > /dev/stderr"],"env":["KNOWNGOOD_ENVIRONMENT=\n* * * * * root id\n#"]}` + "\n"
	if err := unix.Sendmsg(conn, []byte(text), unix.UnixRights(fd, fd), nil, 0); err != nil {
		return 5
	}
	// Until the server is done.
	b := make([]byte, 4096)
	for {
		n, err := unix.Read(conn, b)
		if err != nil || n == 0 {
			return 0
		}
		_, _ = os.Stdout.Write(b[:n])
	}
}

func TestHostile(t *testing.T) {
	t.Parallel()

	t.Run("a descriptor of who asks reaches no command", func(t *testing.T) {
		t.Parallel()
		if os.Geteuid() != 0 {
			t.Skip("a file of root's needs root")
		}
		dir := treetest.TempDir(t)
		file, program := filepath.Join(dir, "job"), filepath.Join(dir, "daemon")
		self, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		socket := server(t, only(reports))
		for _, err := range []error{os.Chmod(dir, 0o755), os.WriteFile(file, []byte("root's"), 0o644), os.WriteFile(program, self, 0o755)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for at := socket; at != "/" && at != os.TempDir(); at = filepath.Dir(at) {
			if err := os.Chmod(at, 0o777); err != nil {
				t.Fatal(err)
			}
		}

		cmd := exec.Command(program)
		cmd.Env = []string{"OUTSIDE_TEST_SOCKET=" + socket, "OUTSIDE_TEST_FILE=" + file}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != "root's" {
			t.Errorf("the hook wrote %q into root's file, %v", b, err)
		}
		if text := string(out); !strings.Contains(text, "quiescing for  * * * * * root id #") {
			t.Errorf("the output of the hook came as %q", text)
		}
	})

	// The server itself drops what a client of another make sends.
	t.Run("only variables of the list are passed on", func(t *testing.T) {
		t.Parallel()
		given := []string{"KNOWNGOOD_HOOK=before", "KNOWNGOOD_CONFIG=/evil.yaml", "KNOWNGOOD_STATE_DIR=/evil", "KNOWNGOOD_REPO=/evil", "KNOWNGOOD_IDENTITY=/evil", "KNOWNGOOD_=x", "KNOWNGOOD_HOOKS=x", "LD_PRELOAD=/evil", "PATH=/evil"}
		_, stdout, _, err := ask(t, t.Context(), server(t, anything), given, "env")
		if err != nil {
			t.Fatal(err)
		}
		var passed []string
		for line := range strings.Lines(stdout) {
			if line = strings.TrimSpace(line); slices.Contains(os.Environ(), line) {
				continue // the helper's own
			}
			if strings.HasPrefix(line, "KNOWNGOOD_") || strings.Contains(line, "evil") {
				passed = append(passed, line)
			}
		}
		if strings.Join(passed, " ") != "KNOWNGOOD_HOOK=before" {
			t.Errorf("the command has %q", passed)
		}
	})
}
