package child

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/daemon/runner"
	"knowngood/storage/throttle"
)

func TestChild(t *testing.T) {
	t.Run("memory is shared and never exceeded", testMemoryIsShared)
	t.Run("a job is the same for the child", testAJobIsTheSameForTheChild)
	t.Run("children ask for what they move", testChildrenAskForWhatTheyMove)
}

func testMemoryIsShared(t *testing.T) {
	t.Parallel()
	const total = 1200
	m, parts := NewMemory(total), map[string]int64{}
	join := func(name string) func() {
		leave := m.Join(func(bytes int64) {
			parts[name] = bytes
			sum := int64(0)
			for _, n := range parts {
				sum += n
			}
			if sum > total {
				t.Errorf("%d bytes of %d are given: %v", sum, total, parts)
			}
		})
		return func() {
			delete(parts, name)
			leave()
		}
	}
	want := func(each int64, names ...string) {
		t.Helper()
		for _, name := range names {
			if parts[name] != each || len(parts) != len(names) {
				t.Errorf("the parts are %v, want %d for each of %q", parts, each, names)
			}
		}
	}
	leaveA := join("a")
	want(total, "a")
	leaveB := join("b")
	leaveC := join("c")
	want(total/3, "a", "b", "c")
	leaveB()
	want(total/2, "a", "c")
	leaveA()
	leaveC()
	leaveD := join("d")
	want(total, "d")
	leaveD()
}

func testAJobIsTheSameForTheChild(t *testing.T) {
	for _, name := range []string{"PING_ID", "CHAT_HOOK", "MAIL_PASSWORD"} {
		t.Setenv(name, "x")
	}
	c, err := configs.Load("../../configs/sample.yaml", configs.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	none := configs.Percent(0)
	for name, env := range c.Environments {
		env.Shrink = &none // which is another thing than not set
		sent := Job{Attempt: &runner.Attempt{Name: name, Environment: env, URL: c.Repository.URL}, Program: json.RawMessage("{}"), Limited: [2]bool{true, false}}
		text, err := json.Marshal(message{Job: &sent})
		if err != nil {
			t.Fatal(err)
		}
		var got message
		if err := json.Unmarshal(text, &got); err != nil || !reflect.DeepEqual(got.Job, &sent) {
			t.Errorf("the child gets %+v, %v\nsent was %+v", got.Job, err, sent)
		}
	}
	if len(c.Environments) == 0 {
		t.Error("the sample has no environments")
	}
}

// counter is a limit that grants so many bytes, and then none.
type counter struct {
	left    atomic.Int64
	refused chan struct{} // closed by the one request that is not granted
}

func (c *counter) WaitN(ctx context.Context, n int) error {
	if c.left.Add(-int64(n)) >= 0 {
		return nil
	}
	close(c.refused)
	<-ctx.Done()
	return ctx.Err()
}

func testChildrenAskForWhatTheyMove(t *testing.T) {
	t.Parallel()
	var down throttle.Limiter
	q := &questions{waiting: map[int]chan struct{}{}}
	limits := q.limits([2]bool{true, false})
	if limits.Upload == nil || limits.Download != down {
		t.Fatalf("what is limited is %+v", limits)
	}
	ours, theirs := pair(t)
	q.wire = newWire(theirs)
	granted := &counter{refused: make(chan struct{})}
	granted.left.Store(250)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // as the parent does
		w, in := newWire(ours), json.NewDecoder(ours)
		for {
			var m message
			if in.Decode(&m) != nil {
				return
			}
			go func() {
				if granted.WaitN(ctx, m.Bytes.N) == nil {
					w.send(m)
				}
			}()
		}
	}()
	go func() {
		for in := json.NewDecoder(theirs); ; {
			var m message
			if in.Decode(&m) != nil {
				return
			}
			q.granted(m.Bytes.ID)
		}
	}()

	results := make(chan error, 3)
	for range 3 {
		go func() { results <- limits.Upload.WaitN(ctx, 100) }()
	}
	got := []bool{(<-results) == nil, (<-results) == nil}
	<-granted.refused
	cancel()
	if got = append(got, (<-results) == nil); !slices.Equal(got, []bool{true, true, false}) {
		t.Errorf("granted were %v", got)
	}
}

func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		if conns[i], err = Conn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { conns[i].Close() })
	}
	return conns[0], conns[1]
}
