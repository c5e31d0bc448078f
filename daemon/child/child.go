package child

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/daemon/runner"
	"knowngood/snapshot"
	"knowngood/storage/authentic"
	"knowngood/storage/repository"
	"knowngood/storage/throttle"
)

// progressEvery is how often progress is sent.
const progressEvery = 200 * time.Millisecond

// errAlone ends a run whose parent closed the connection.
var errAlone = errors.New("the daemon ended the run")

// Open opens the repository of a job. It gives what is found wrong to report.
type Open func(ctx context.Context, job *Job, limits throttle.Limits, report func(authentic.Finding)) (*repository.Repository, error)

// NotDumpable keeps the memory of this process, and that it may be read by others of
// its user, out of core dumps.
func NotDumpable() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }

// Serve does the job that comes over conn. The error is that of the connection: how
// the job ended is sent to the parent. When memory is short, the kernel ends this
// process before the daemon.
func Serve(ctx context.Context, conn *net.UnixConn, open Open, edit func(*snapshot.Options)) error {
	_ = os.WriteFile("/proc/self/comm", []byte(filepath.Base(os.Args[0])), 0) // else top and the kernel call it "exe", as it was started
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)            // which may be higher already
	if err := NotDumpable(); err != nil {
		return err
	}
	var first message
	in := json.NewDecoder(conn)
	if err := in.Decode(&first); err != nil {
		return err
	}
	job := first.Job
	if job == nil || job.Attempt == nil {
		return errors.New("no job came")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := newWire(conn)
	asked := &questions{wire: w, waiting: map[int]chan struct{}{}}
	go func() {
		for {
			var m message
			if in.Decode(&m) != nil {
				cancel(errAlone)
				return
			}
			if m.Memory > 0 {
				debug.SetMemoryLimit(m.Memory)
			}
			if m.Bytes != nil {
				asked.granted(m.Bytes.ID)
			}
		}
	}()

	report := func(f authentic.Finding) {
		w.send(message{Finding: &finding{Kind: f.Kind, Key: f.Key, Expected: f.Expected, Found: f.Found, Text: f.Err.Error(), Since: f.Since}})
	}
	p := &snapshot.Progress{Warn: func(m string) { w.send(message{Warning: m}) }, Note: func(m string) { w.send(message{Note: m}) }}
	made, err := job.do(ctx, w, asked, p, report, open, edit)
	e := &end{Made: made, Replies: job.Replies}
	if err != nil {
		if authentic.Damaged(err) {
			report(authentic.FindingOf(err))
		}
		e.Error, e.Transient = err.Error(), runner.Transient(err)
	}
	w.send(message{End: e})
	return nil
}

// do opens the repository, and makes the attempt.
func (j *Job) do(ctx context.Context, w *wire, asked *questions, p *snapshot.Progress, report func(authentic.Finding), open Open, edit func(*snapshot.Options)) (*runner.Made, error) {
	repo, err := open(ctx, j, asked.limits(j.Limited), report)
	if err != nil {
		return nil, err
	}
	host, err := repo.Host(ctx)
	if err != nil {
		return nil, err
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		var last progress
		for over := false; !over; {
			select {
			case <-time.After(progressEvery):
			case <-stop:
				over = true
			}
			var now progress
			for i, n := range fields(p) {
				now[i] = n.Load()
			}
			if now != last {
				w.send(message{Progress: &now})
			}
			last = now
		}
	}()
	defer func() {
		close(stop)
		<-stopped
	}()
	return j.Attempt.Make(ctx, repo, host, p, edit)
}

// questions are those to the parent whether bytes may be moved.
type questions struct {
	wire *wire

	mu      sync.Mutex
	last    int
	waiting map[int]chan struct{}
}

// limits ask the parent in the directions that are limited.
func (q *questions) limits(limited [2]bool) (l throttle.Limits) {
	if limited[0] {
		l.Upload = question{q, 0}
	}
	if limited[1] {
		l.Download = question{q, 1}
	}
	return l
}

func (q *questions) granted(id int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if c := q.waiting[id]; c != nil {
		close(c)
		delete(q.waiting, id)
	}
}

// question is a throttle.Limiter.
type question struct {
	*questions
	direction int
}

// WaitN implements throttle.Limiter.
func (q question) WaitN(ctx context.Context, n int) error {
	c := make(chan struct{})
	q.mu.Lock()
	q.last++
	id := q.last
	q.waiting[id] = c
	q.mu.Unlock()
	q.wire.send(message{Bytes: &portion{id, q.direction, n}})
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
