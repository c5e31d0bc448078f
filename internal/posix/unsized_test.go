package posix_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
)

// pipe is a file that states no size, for a reader.
func pipe(t *testing.T) (read, write int) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]) })
	return fds[0], fds[1]
}

func TestUnsized(t *testing.T) {
	t.Parallel()
	content := strings.Repeat("0123456789abcdef", 8<<10) // two buffers
	fill := func(fd int, text string) {
		defer unix.Close(fd)
		for len(text) > 0 {
			n, err := unix.Write(fd, []byte(text))
			if err != nil {
				return
			}
			text = text[n:]
		}
	}

	t.Run("reads to the end", func(t *testing.T) {
		r, w := pipe(t)
		go fill(w, content)
		u, err := posix.NewUnsized(r, uint64(len(content)), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		if got, err := io.ReadAll(u); err != nil || string(got) != content {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})

	t.Run("keeps what is within bounds, and says that there is more", func(t *testing.T) {
		r, w := pipe(t)
		go fill(w, content+"x")
		u, err := posix.NewUnsized(r, uint64(len(content)), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		got, err := io.ReadAll(u)
		if string(got) != content || err == nil || !strings.Contains(err.Error(), "the rest was not read") {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})

	t.Run("does not wait for ever", func(t *testing.T) {
		r, w := pipe(t)
		defer unix.Close(w)
		if _, err := unix.Write(w, []byte("first")); err != nil {
			t.Fatal(err)
		}
		u, err := posix.NewUnsized(r, 1<<20, 50*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		got, err := io.ReadAll(u)
		if string(got) != "first" || err == nil || !strings.Contains(err.Error(), "within 50ms") {
			t.Errorf("%q, %v", got, err)
		}
	})

	t.Run("waits for the file alone, not for who takes the content", func(t *testing.T) {
		r, w := pipe(t)
		go fill(w, content)
		u, err := posix.NewUnsized(r, 1<<20, 200*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		var got bytes.Buffer
		for buf := make([]byte, 32<<10); ; {
			n, err := u.Read(buf)
			got.Write(buf[:n])
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("after %d bytes: %v", got.Len(), err)
			}
			time.Sleep(100 * time.Millisecond) // a slow store
		}
		if got.String() != content {
			t.Errorf("%d bytes", got.Len())
		}
	})
}
