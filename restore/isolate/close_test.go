package isolate

import (
	"os/exec"
	"path/filepath"
	"testing"
)

func TestClose(t *testing.T) {
	t.Run("what a cell leaves is an error also when it is closed again", func(t *testing.T) {
		cmd := exec.Command("true")
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		c := &Cell{process: cmd.Process, stop: func() {}, ended: make(chan struct{}), groups: &groups{dirs: map[string]string{"pids": filepath.Dir(t.TempDir())}}}
		close(c.ended)
		if err := c.Close(); err == nil {
			t.Fatal("a directory with something in it was removed")
		}
		if err := c.Close(); err == nil {
			t.Error("the second one has no error")
		}
	})

	t.Run("a directory that is gone with the root needs no rule", func(t *testing.T) {
		gone := filepath.Join(t.TempDir(), "opt")
		if fd, err := openRuled(gone, Namespaces); fd != -1 || err != nil {
			t.Errorf("%d, %v", fd, err)
		}
		if _, err := openRuled(gone, Static); err == nil {
			t.Error("the tree is missing, and nothing says so")
		}
	})
}
