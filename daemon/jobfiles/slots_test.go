package jobfiles

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"knowngood/internal/userdir"
)

// jobSize is the room for a state.
const jobSize = 16 << 10

type counter struct {
	N    int
	Text string
}

func readSlots(t rapid.TB, path string) (counter, error) {
	t.Helper()
	var c counter
	s, err := OpenSlots(userdir.At(filepath.Dir(path)), filepath.Base(path), jobSize, &c)
	if s == nil {
		t.Fatal(err)
	}
	s.Close()
	return c, err
}

func TestSlots(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"the newest state is read back":                           aStateIsReadBackAsItWasWrittenLast,
		"a truncated write leaves the previous state":             aCutWriteLeavesTheStateBefore,
		"a file without a valid state is replaced, with an error": aFileOfWhichNothingVerifiesIsBegunAnewAndSaysSo,
		"a state is written on a full disk":                       aStateIsWrittenOnAFullDisk,
	} {
		t.Run(name, test)
	}
}

func aStateIsReadBackAsItWasWrittenLast(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	s, err := OpenSlots(userdir.At(filepath.Dir(path)), filepath.Base(path), jobSize, &counter{})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		if err := s.Write(counter{n, strings.Repeat("x", 1000*n)}); err != nil {
			t.Fatal(err)
		}
		if c, err := readSlots(t, path); err != nil || c.N != n || len(c.Text) != 1000*n {
			t.Errorf("read %d, %v; want %d", c.N, err, n)
		}
	}
	if err := s.Write(counter{Text: strings.Repeat("x", jobSize)}); err == nil {
		t.Error("a state that does not fit was written")
	}
	if c, err := readSlots(t, path); err != nil || c.N != 4 {
		t.Errorf("after a state too large: %d, %v", c.N, err)
	}
}

// A write that a crash cuts leaves some prefix of the slot written.
func aCutWriteLeavesTheStateBefore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		path := filepath.Join(dir, "state")
		defer os.Remove(path)
		s, err := OpenSlots(userdir.At(filepath.Dir(path)), filepath.Base(path), jobSize, &counter{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		writes := rapid.IntRange(1, 4).Draw(t, "writes")
		for n := range writes {
			if err := s.Write(counter{N: n, Text: rapid.StringN(0, 200, -1).Draw(t, "text")}); err != nil {
				t.Fatal(err)
			}
		}
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Write(counter{N: writes, Text: "after"}); err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := int(s.number%2) * jobSize
		cut := rapid.IntRange(0, 60).Draw(t, "cut")
		torn := append([]byte{}, before...)
		copy(torn[at:at+cut], after[at:])
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := readSlots(t, path); err != nil || c.N != writes-1 && c.N != writes {
			t.Errorf("read %+v, %v, want %d or %d", c, err, writes-1, writes)
		}
	})
}

func aFileOfWhichNothingVerifiesIsBegunAnewAndSaysSo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	for _, content := range []string{strings.Repeat("rubbish ", 4096), "short but not empty"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readSlots(t, path); !errors.Is(err, ErrSpoiled) {
			t.Errorf("%.10q: %v", content, err)
		}
	}
	s, err := OpenSlots(userdir.At(filepath.Dir(path)), filepath.Base(path), jobSize, &counter{})
	if s == nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Write(counter{N: 7}); err != nil {
		t.Fatal(err)
	}
	if c, err := readSlots(t, path); err != nil || c.N != 7 {
		t.Errorf("%+v, %v", c, err)
	}
}

func aStateIsWrittenOnAFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system takes root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "state")
	s, err := OpenSlots(userdir.At(filepath.Dir(path)), filepath.Base(path), jobSize, &counter{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	for n := range 4 {
		if err := s.Write(counter{N: n, Text: strings.Repeat("x", 4000)}); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := readSlots(t, path); err != nil || c.N != 3 {
		t.Errorf("%d, %v", c.N, err)
	}
}
