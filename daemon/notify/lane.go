package notify

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// pace is how fast and for how long a channel is tried.
type pace struct {
	room        int           // messages that may wait
	burst       int           // messages at once; 0: any rate
	every       time.Duration // and then one in this time
	first, most time.Duration // waits between attempts
	patience    time.Duration // with one message
}

var (
	messagePace = pace{room: 50, burst: 10, every: time.Minute, first: 30 * time.Second, most: 30 * time.Minute, patience: 6 * time.Hour}
	// A ping of yesterday would mislead the monitor.
	pingPace = pace{room: 20, first: 5 * time.Second, most: time.Minute, patience: 10 * time.Minute}
)

// job is one thing to deliver.
type job struct {
	what    string
	since   time.Time
	message *Message // nil: a ping
	send    func(ctx context.Context, leftOut int) error
}

// permanentError is one that another attempt would meet again.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// lane is the queue of one channel. Jobs are delivered in order, so that a recovery
// never overtakes its failure.
type lane struct {
	pace
	name    string
	id      string // of the channel; see channelID
	log     *zap.Logger
	limiter *rate.Limiter // nil: none
	wake    chan struct{}
	done    func() // called when a job is done; may be nil

	mu    sync.Mutex
	queue []job
	// taken are those that were taken from the queue and are not done: the one
	// under way or, at the stop, the message that failed.
	taken   []job
	leftOut int
}

func newLane(name string, p pace, log *zap.Logger) *lane {
	l := &lane{pace: p, name: name, log: log.With(zap.String("channel", name)), wake: make(chan struct{}, 1)}
	if p.burst > 0 {
		l.limiter = rate.NewLimiter(rate.Every(p.every), p.burst)
	}
	return l
}

// add queues a job. When there is no room the oldest one is dropped: the newest
// describe the state best.
func (l *lane) add(j job) {
	l.mu.Lock()
	if len(l.queue) >= l.room {
		l.queue = append(l.queue[:0], l.queue[1:]...)
		l.leftOut++
	}
	l.queue = append(l.queue, j)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take waits for a job; false when ctx is done and none is left.
func (l *lane) take(ctx context.Context) (job, bool) {
	for {
		l.mu.Lock()
		if len(l.queue) > 0 {
			j := l.queue[0]
			l.queue[0] = job{}
			l.queue = l.queue[1:]
			l.taken = append(l.taken, j)
			l.mu.Unlock()
			return j, true
		}
		l.mu.Unlock()
		select {
		case <-l.wake:
		case <-ctx.Done():
			l.mu.Lock()
			empty := len(l.queue) == 0
			l.mu.Unlock()
			if empty {
				return job{}, false
			}
		}
	}
}

// run delivers jobs until ctx is done, and then those that are left, as long as
// sending allows and none fails: what comes after that waits with it.
func (l *lane) run(ctx, sending context.Context) {
	for {
		j, ok := l.take(ctx)
		if !ok {
			return
		}
		if l.limiter != nil {
			_ = l.limiter.Wait(ctx) // an error is that ctx is done: no time to wait
		}
		if !l.deliver(ctx, sending, j) {
			if j.message != nil {
				return
			}
			continue // pings are not kept: the last one counts
		}
		l.mu.Lock()
		l.taken = l.taken[:len(l.taken)-1]
		l.mu.Unlock()
		if l.done != nil {
			l.done()
		}
	}
}

// waiting are the messages that are not done, oldest first.
func (l *lane) waiting() []*Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []*Message
	for _, jobs := range [][]job{l.taken, l.queue} {
		for _, j := range jobs {
			if j.message != nil {
				list = append(list, j.message)
			}
		}
	}
	return list
}

// precede queues jobs before all others.
func (l *lane) precede(jobs []job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(jobs, l.queue...)
	if extra := len(l.queue) - l.room; extra > 0 {
		l.queue = l.queue[extra:]
		l.leftOut += extra
	}
}

// deliver tries until it succeeds, cannot, or takes too long; false when the
// stop left no time for that.
func (l *lane) deliver(ctx, sending context.Context, j job) bool {
	log := l.log.With(zap.String("message", j.what))
	wait := l.first
	for attempt := 1; ; attempt++ {
		stopping := ctx.Err() != nil
		l.mu.Lock()
		leftOut := l.leftOut
		l.mu.Unlock()
		err := j.send(sending, leftOut)
		if err == nil {
			l.mu.Lock()
			l.leftOut -= leftOut
			l.mu.Unlock()
			log.Debug("delivered", zap.Int("attempts", attempt))
			return true
		}
		var permanent permanentError
		switch {
		case errors.As(err, &permanent):
			log.Error("not delivered: the channel refuses it", zap.Error(err))
			return true
		case stopping:
			log.Warn("not delivered before the stop", zap.Error(err))
			return false
		case time.Since(j.since)+wait > l.patience:
			log.Error("not delivered: given up", zap.Int("attempts", attempt), zap.Error(err))
			return true
		}
		log.Warn("not delivered yet", zap.Int("attempts", attempt), zap.Duration("next", wait), zap.Error(err))
		select {
		case <-time.After(wait/2 + rand.N(wait/2+1)):
		case <-ctx.Done():
		}
		wait = min(2*wait, l.most)
	}
}
