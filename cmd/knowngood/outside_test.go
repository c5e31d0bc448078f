package main

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestOutside(t *testing.T) {
	t.Parallel()
	t.Run("the helper of outside commands serves root's configuration alone", testTheHelperOfOutsideCommandsServesRootsConfigurationAlone)
	t.Run("the helper of outside commands runs root's programs alone", testTheHelperOfOutsideCommandsRunsProgramsOfRootsAlone)
}

func testTheHelperOfOutsideCommandsServesRootsConfigurationAlone(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a configuration of root's needs root")
	}
	for _, c := range []struct {
		owner int
		mode  os.FileMode
		runs  bool
	}{{0, 0o600, true}, {somebody, 0o600, false}, {somebody, 0o664, false}, {0, 0o666, false}} {
		dir := t.TempDir()
		config, made := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "made")
		text := "repository: {url: /nowhere}\nenvironments: {web: {sources: [{path: /etc}], hooks: {before: [{command: [/usr/bin/touch, " + made + "], outside: true}]}}}\n"
		if err := errors.Join(os.WriteFile(config, []byte(text), 0o600), os.Chmod(config, c.mode), os.Chown(config, c.owner, c.owner)); err != nil {
			t.Fatal(err)
		}

		answer := serve(t, config, `{"argv":["/usr/bin/touch","`+made+`"]}`+"\n")
		if _, err := os.Stat(made); (err == nil) != c.runs {
			t.Errorf("a configuration of user %d with mode %o: %v, answer %q", c.owner, c.mode, err, answer)
		}
		if !c.runs && !strings.Contains(answer, config) {
			t.Errorf("the answer does not name the file: %q", answer)
		}
	}
}

func testTheHelperOfOutsideCommandsRunsProgramsOfRootsAlone(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a program of another user's needs root")
	}
	dir := t.TempDir()
	config, made := filepath.Join(dir, "config.yaml"), filepath.Join(dir, "made")
	own, theirs, link, script := filepath.Join(dir, "own"), filepath.Join(dir, "theirs"), filepath.Join(dir, "link"), filepath.Join(dir, "script")
	text := "#!/bin/sh\ntouch " + made + "\n"
	if err := errors.Join(
		os.WriteFile(own, []byte(text), 0o755),
		os.WriteFile(theirs, []byte(text), 0o755), os.Chown(theirs, somebody, somebody),
		os.Symlink(theirs, link),
		os.WriteFile(script, []byte("#!"+theirs+"\n"), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	for argv, runs := range map[string]bool{
		own: true, "/bin/sh " + own: true, theirs: false, link: false, script: false, "/bin/sh " + theirs: false, "/usr/bin/env " + theirs: false, "touch " + made: true, "./own": false,
	} {
		words := `["` + strings.ReplaceAll(argv, " ", `","`) + `"]`
		if err := os.WriteFile(config, []byte("environments: {web: {sources: [{path: /etc}], hooks: {before: [{command: "+words+", outside: true}]}}}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		answer := serve(t, config, `{"argv":`+words+`}`+"\n")
		_, err := os.Stat(made)
		if (err == nil) != runs {
			t.Errorf("%s: %v, answer %q", argv, err, answer)
		}
		os.Remove(made)
	}
}

// serve asks the helper, and returns all that it sends.
func serve(t *testing.T, config, request string) string {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	cmd := exec.Command("knowngood", "outside", "--serve", "--config", config)
	cmd.Stdin = theirs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Error(err)
	}
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // how it ended is in the answer
	return string(b)
}
