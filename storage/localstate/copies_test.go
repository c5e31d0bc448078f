package localstate

import (
	"bytes"
	"os"
	"testing"
	"time"
)

func TestRootCopies(t *testing.T) {
	at := time.Unix(1_700_000_000, 5)
	root := func(b byte) RootCopy { return RootCopy{Object: bytes.Repeat([]byte{b}, 100), Modified: at} }
	keep := func(t *testing.T, s *State, copies ...RootCopy) {
		t.Helper()
		run, err := AppendRun(nil, copies)
		if err == nil {
			err = s.KeepRoots("h", "web", run)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(t *testing.T, s *State, want ...RootCopy) {
		t.Helper()
		got, err := s.RootCopies("h", "web")
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d copies, %v; want %d", len(got), err, len(want))
		}
		for i := range want {
			if !bytes.Equal(got[i].Object, want[i].Object) || !got[i].Modified.Equal(want[i].Modified) {
				t.Errorf("copy %d: %v", i, got[i])
			}
		}
	}
	file := func(s *State) string { return s.Dir().Path(s.copiesFile("h", "web")) }

	t.Run("come back as they were kept", func(t *testing.T) {
		s := &State{Root: t.TempDir()}
		want(t, s)
		unknown := RootCopy{Object: bytes.Repeat([]byte{9}, 100)}
		keep(t, s, root(1), unknown)
		keep(t, s)
		keep(t, s, root(2))
		want(t, s, root(1), unknown, root(2))
	})
	t.Run("end where the file is damaged, and begin again", func(t *testing.T) {
		for name, spoil := range map[string]func([]byte) []byte{
			"cut short":       func(b []byte) []byte { return b[:len(b)-1] },
			"a flipped bit":   func(b []byte) []byte { b[len(b)-10] ^= 1; return b },
			"half a length":   func(b []byte) []byte { return b[:len(b)/2+2] },
			"a false length":  func(b []byte) []byte { b[len(b)/2] = 0xff; return b },
			"something after": func(b []byte) []byte { return append(b[:len(b)/2], "rubbish of some length"...) },
		} {
			t.Run(name, func(t *testing.T) {
				s := &State{Root: t.TempDir()}
				keep(t, s, root(1))
				keep(t, s, root(2)) // which takes as many bytes
				b, err := os.ReadFile(file(s))
				if err == nil {
					err = os.WriteFile(file(s), spoil(b), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				want(t, s, root(1))
				want(t, s)
				keep(t, s, root(3))
				want(t, s, root(3))
			})
		}
	})
	t.Run("take no more than so much room", func(t *testing.T) {
		s := &State{Root: t.TempDir()}
		keep(t, s, root(1))
		if err := os.Truncate(file(s), maxCopies); err != nil {
			t.Fatal(err)
		}
		keep(t, s, root(2))
		want(t, s, root(2))
	})
	t.Run("are none without a state directory", func(t *testing.T) {
		s := &State{}
		keep(t, s, root(1))
		want(t, s)
	})
}
