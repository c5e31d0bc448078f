package generation

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"knowngood/snapshot/live"
)

func TestState(t *testing.T) {
	t.Run("one of another version is refused in words", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, live.StateFile), []byte(`{"version": 2}`), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := readState(dir)
		if s != nil || err == nil {
			t.Fatalf("the state %+v is read (%v)", s, err)
		}
		if text := err.Error(); !strings.Contains(text, "it is of version 2") {
			t.Error(text)
		}
	})
}
