package notify

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// fake is a channel that does what a test sets.
type fake struct {
	answer func(attempt int, m *Message) error // nil: takes all

	mu       sync.Mutex
	attempts int
	took     []string // title, seconds since the start, left out
	began    time.Time
}

func (f *fake) name() string { return "fake" }

func (f *fake) target() string { return "fake" }

func (f *fake) send(_ context.Context, m *Message) error {
	f.mu.Lock()
	f.attempts++
	attempt := f.attempts
	f.mu.Unlock()
	if f.answer != nil {
		if err := f.answer(attempt, m); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.took = append(f.took, fmt.Sprintf("%s %.0f %d", m.Title, time.Since(f.began).Seconds(), m.LeftOut))
	return nil
}

func (f *fake) got() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.took
}

// deliver runs a Notifier with a fake channel, in simulated time.
func deliver(t *testing.T, f *fake, test func(n *Notifier, stop func())) *observer.ObservedLogs {
	core, logs := observer.New(zap.DebugLevel)
	synctest.Test(t, func(t *testing.T) {
		f.began = time.Now()
		n := &Notifier{o: Options{Host: "web-7"}, channels: []channel{f}}
		n.lanes = []*lane{newLane("fake", messagePace, zap.New(core))}
		stop := running(n)
		test(n, stop)
		stop()
	})
	return logs
}

// running runs a Notifier until it is stopped.
func running(n *Notifier) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

func tell(n *Notifier, titles ...string) {
	for _, title := range titles {
		n.Send(Message{Kind: Failure, Title: title, Text: "text"})
	}
}

func numbered(from, to int) []string {
	var out []string
	for i := from; i <= to; i++ {
		out = append(out, fmt.Sprint(i))
	}
	return out
}

func TestLane(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"messages are sent at once and in order":                                           messagesGoOutAtOnceAndInOrder,
		"a flood is sent at the rate, and what has no room is counted in the next message": aFloodIsSentAtTheRateAndWhatHasNoRoomIsCountedInTheNextOne,
		"messages that were left out are counted in the text":                              leftOutMessagesAreToldInTheText,
		"a channel that is down is tried for hours and loses nothing":                      aChannelThatIsDownIsTriedForHoursAndLosesNothing,
		"a message is given up after hours, and the next one is tried":                     aMessageIsGivenUpAfterHoursAndTheNextIsTried,
		"a refusal is not tried again":                                                     aRefusalIsNotTriedAgain,
		"a stop delivers what is queued without waiting for the rate":                      aStopDeliversWhatIsQueuedWithoutWaitingForTheRate,
		"a message that fails at the stop waits with those after it":                       aMessageThatFailsAtTheStopWaitsWithThoseAfterIt,
		"a ping that fails at the stop does not delay those after it":                      aPingThatFailsAtTheStopHoldsUpNoneAfterIt,
		"a stop tries what is under way once more and ends":                                aStopTriesWhatIsUnderWayOnceMoreAndEnds,
		"a channel that hangs delays neither the others nor the stop":                      aChannelThatHangsHoldsUpNeitherTheOthersNorTheStop,
	} {
		t.Run(name, test)
	}
}

func messagesGoOutAtOnceAndInOrder(t *testing.T) {
	t.Parallel()
	f := &fake{}
	deliver(t, f, func(n *Notifier, _ func()) {
		tell(n, "a", "b")
		synctest.Wait()
		if want := []string{"a 0 0", "b 0 0"}; !reflect.DeepEqual(f.got(), want) {
			t.Errorf("got %q, want %q", f.got(), want)
		}
	})
}

func aFloodIsSentAtTheRateAndWhatHasNoRoomIsCountedInTheNextOne(t *testing.T) {
	t.Parallel()
	f := &fake{}
	deliver(t, f, func(n *Notifier, _ func()) {
		tell(n, numbered(1, 10)...)
		synctest.Wait() // the burst
		tell(n, "11")
		synctest.Wait() // on its way, waits for its turn
		tell(n, numbered(12, 100)...)
		time.Sleep(24 * time.Hour)
		tell(n, "next day")
		synctest.Wait()
		var want []string
		for i := 1; i <= 10; i++ {
			want = append(want, fmt.Sprintf("%d 0 0", i))
		}
		want = append(want, "11 60 39") // of 89 behind it 50 have room
		for i := 51; i <= 100; i++ {
			want = append(want, fmt.Sprintf("%d %d 0", i, (i-49)*60))
		}
		want = append(want, "next day 86400 0")
		if !reflect.DeepEqual(f.got(), want) {
			t.Errorf("got %q\nwant %q", f.got(), want)
		}
	})
}

func leftOutMessagesAreToldInTheText(t *testing.T) {
	t.Parallel()
	if m := failure().after(3); m.LeftOut != 3 || !strings.HasSuffix(m.Text, " (Messages left out before this one: 3.)") {
		t.Errorf("%+v", m)
	}
}

func aChannelThatIsDownIsTriedForHoursAndLosesNothing(t *testing.T) {
	t.Parallel()
	f := &fake{}
	f.answer = func(int, *Message) error {
		if time.Since(f.began) < 3*time.Hour {
			return errors.New("connection refused")
		}
		return nil
	}
	logs := deliver(t, f, func(n *Notifier, _ func()) {
		tell(n, "failure", "recovery")
		time.Sleep(5 * time.Hour)
		got := f.got()
		if len(got) != 2 || !strings.HasPrefix(got[0], "failure ") || !strings.HasPrefix(got[1], "recovery ") {
			t.Errorf("got %q", got)
		}
		// 30 s doubled up to 30 min, each less up to half: some tens in 3 hours.
		if f.attempts < 10 || f.attempts > 25 {
			t.Errorf("%d attempts", f.attempts)
		}
	})
	if n := logs.FilterMessage("not delivered yet").Len(); n != f.attempts-2 {
		t.Errorf("%d failed attempts are logged of %d", n, f.attempts-2)
	}
}

func aMessageIsGivenUpAfterHoursAndTheNextIsTried(t *testing.T) {
	t.Parallel()
	f := &fake{}
	f.answer = func(_ int, m *Message) error {
		if m.Title == "bad" {
			return errors.New("internal error")
		}
		return nil
	}
	logs := deliver(t, f, func(n *Notifier, _ func()) {
		tell(n, "bad", "good")
		time.Sleep(7 * time.Hour)
		if got := f.got(); len(got) != 1 || !strings.HasPrefix(got[0], "good ") {
			t.Errorf("got %q", got)
		}
	})
	if logs.FilterMessage("not delivered: given up").Len() != 1 {
		t.Errorf("logged %v", logs.All())
	}
}

func aRefusalIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	f := &fake{answer: func(_ int, m *Message) error {
		if m.Title == "bad" {
			return fmt.Errorf("wrapped: %w", permanentError{errors.New("404")})
		}
		return nil
	}}
	deliver(t, f, func(n *Notifier, _ func()) {
		tell(n, "bad", "good")
		synctest.Wait()
		if got := f.got(); len(got) != 1 || f.attempts != 2 {
			t.Errorf("got %q in %d attempts", got, f.attempts)
		}
	})
}

func aStopDeliversWhatIsQueuedWithoutWaitingForTheRate(t *testing.T) {
	t.Parallel()
	f := &fake{}
	deliver(t, f, func(n *Notifier, stop func()) {
		tell(n, numbered(1, 30)...)
		stop()
		if len(f.got()) != 30 || time.Since(f.began) > time.Second {
			t.Errorf("%d delivered after %v", len(f.got()), time.Since(f.began))
		}
	})
}

// The stop meets a channel that fails once: nothing overtakes what it refused.
func aMessageThatFailsAtTheStopWaitsWithThoseAfterIt(t *testing.T) {
	t.Parallel()
	f := &fake{answer: func(attempt int, _ *Message) error {
		if attempt <= 2 {
			return errors.New("503")
		}
		return nil
	}}
	deliver(t, f, func(n *Notifier, stop func()) {
		tell(n, "failure", "recovery")
		synctest.Wait()
		stop()
		var titles []string
		for _, m := range n.lanes[0].waiting() {
			titles = append(titles, m.Title)
		}
		if got := f.got(); len(got) > 0 || !slices.Equal(titles, []string{"failure", "recovery"}) {
			t.Errorf("told: %q; there wait %q", got, titles)
		}
	})
}

func aPingThatFailsAtTheStopHoldsUpNoneAfterIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		l := newLane("ping", pingPace, zap.NewNop())
		ping := func(what string, err error) job {
			return job{what: what, since: time.Now(), send: func(context.Context, int) error {
				asked = append(asked, what)
				return err
			}}
		}
		l.add(ping("start", errors.New("503")))
		l.add(ping("success", nil))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		l.run(ctx, t.Context())
		if !slices.Equal(asked, []string{"start", "success"}) {
			t.Errorf("asked: %q", asked)
		}
	})
}

func aStopTriesWhatIsUnderWayOnceMoreAndEnds(t *testing.T) {
	t.Parallel()
	f := &fake{answer: func(int, *Message) error { return errors.New("connection refused") }}
	logs := deliver(t, f, func(n *Notifier, stop func()) {
		tell(n, "a", "b")
		synctest.Wait()
		stop()
		if f.attempts != 2 || time.Since(f.began) > time.Second {
			t.Errorf("%d attempts, ended after %v", f.attempts, time.Since(f.began))
		}
	})
	if logs.FilterMessage("not delivered before the stop").Len() != 1 {
		t.Errorf("logged %v", logs.All())
	}
}

// hanging is a channel that takes for ever.
type hanging struct{ fake }

func (h *hanging) send(ctx context.Context, _ *Message) error {
	<-ctx.Done()
	return ctx.Err()
}

func aChannelThatHangsHoldsUpNeitherTheOthersNorTheStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{began: time.Now()}
		n := &Notifier{channels: []channel{&hanging{}, f}}
		for _, c := range n.channels {
			n.lanes = append(n.lanes, newLane(c.name(), messagePace, zap.NewNop()))
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			n.Run(ctx)
		}()
		for range 1000 {
			tell(n, "a") // never blocks
		}
		synctest.Wait()
		if len(f.got()) == 0 {
			t.Error("the other channel got nothing")
		}
		began := time.Now()
		cancel()
		<-done
		if d := time.Since(began); d != drain {
			t.Errorf("the stop took %v, want %v", d, drain)
		}
	})
}
