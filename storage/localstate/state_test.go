package localstate

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"strings"
	"syscall"
	"testing"

	"knowngood/storage/statement"
)

func TestState(t *testing.T) {
	t.Run("what is advised fits the error", func(t *testing.T) {
		l := State{Root: "/var/lib/knowngood"}
		for cause, advice := range map[error]string{
			syscall.ENOSPC: "free some space there", syscall.EDQUOT: "the disk quota is used up: free some space there",
			syscall.EROFS: "remount it writable", syscall.EACCES: "check it", syscall.EIO: "check it",
		} {
			err := l.Wrap(&os.PathError{Op: "write", Path: "x", Err: cause})
			want := "state directory /var/lib/knowngood: write /var/lib/knowngood/x: " + cause.Error() + " (" + advice + ", or choose another with --state-dir)"
			if !errors.Is(err, cause) || err.Error() != want {
				t.Errorf("error %q, want %q", err, want)
			}
		}
	})

	t.Run("remembered heads only grow and damage is named", func(t *testing.T) {
		l := State{Root: t.TempDir()}
		for _, n := range []uint64{2, 1, 3, 2} {
			if err := l.RememberHead("h", statement.Head{Environment: "web", Number: n, Hash: [32]byte{byte(n)}}); err != nil {
				t.Fatal(err)
			}
		}
		if h, err := l.Head("h", "web"); err != nil || h.Number != 3 || h.Hash != [32]byte{3} {
			t.Errorf("remembered %+v, %v", h, err)
		}
		whole, err := os.ReadFile(l.Dir().Path(HeadFile("h", "web")))
		if err != nil {
			t.Fatal(err)
		}
		damaged := []string{"", "x", "3", "3 zz", "0 " + strings.Repeat("00", 32), "3 " + strings.Repeat("00", 31)}
		for i := range whole {
			flipped := bytes.Clone(whole)
			flipped[i] ^= 1
			damaged = append(damaged, string(flipped), string(whole[:i]))
		}
		for _, content := range damaged {
			if err := os.WriteFile(l.Dir().Path(HeadFile("h", "web")), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Head("h", "web"); err == nil || !strings.Contains(err.Error(), "heads/h/web") {
				t.Errorf("%q: %v", content, err)
			}
		}
	})
}

func TestRoots(t *testing.T) {
	one, two, other := [32]byte{1}, [32]byte{2}, [32]byte{9}
	remember := func(t *testing.T, s *State, roots map[uint64][32]byte) {
		t.Helper()
		if err := s.RememberRoots("h", "web", roots); err != nil {
			t.Fatal(err)
		}
	}
	want := func(t *testing.T, s *State, want map[uint64][32]byte) {
		t.Helper()
		if got, err := s.Roots("h", "web"); err != nil || !maps.Equal(got, want) {
			t.Errorf("remembered %v, %v, want %v", got, err, want)
		}
	}
	t.Run("what was seen first stays", func(t *testing.T) {
		s := &State{Root: t.TempDir()}
		want(t, s, map[uint64][32]byte{})
		remember(t, s, map[uint64][32]byte{1: one, 2: two})
		remember(t, s, map[uint64][32]byte{2: other, 3: other})
		want(t, s, map[uint64][32]byte{1: one, 2: two, 3: other})
	})
	t.Run("a record that was cut short is written over", func(t *testing.T) {
		s := &State{Root: t.TempDir()}
		remember(t, s, map[uint64][32]byte{1: one, 2: two})
		file := s.Dir().Path(RootsFile("h", "web"))
		if err := os.Truncate(file, hashRecord+7); err != nil {
			t.Fatal(err)
		}
		want(t, s, map[uint64][32]byte{1: one})
		remember(t, s, map[uint64][32]byte{2: two, 3: other})
		want(t, s, map[uint64][32]byte{1: one, 2: two, 3: other})
	})
	t.Run("a damaged record is forgotten and no other", func(t *testing.T) {
		s := &State{Root: t.TempDir()}
		remember(t, s, map[uint64][32]byte{1: one, 2: two})
		file := s.Dir().Path(RootsFile("h", "web"))
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i := range hashRecord {
			flipped := bytes.Clone(whole)
			flipped[i] ^= 1
			if err := os.WriteFile(file, flipped, 0o600); err != nil {
				t.Fatal(err)
			}
			want(t, s, map[uint64][32]byte{2: two})
		}
	})
	t.Run("nothing is remembered without a state directory", func(t *testing.T) {
		s := &State{}
		remember(t, s, map[uint64][32]byte{1: one})
		want(t, s, map[uint64][32]byte{})
	})
}
