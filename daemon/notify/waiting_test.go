package notify

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/configs"
)

// kept is what waits, after a restart.
func kept(t *testing.T, w Waiting) Waiting {
	t.Helper()
	b, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	var back Waiting
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	return back
}

func TestWaiting(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"what a stop leaves is sent first after the next start":                           whatAStopLeavesIsToldAfterTheNextStartBeforeAllElse,
		"newer messages come after those that waited":                                     whatWasToldMeanwhileComesAfterWhatWaited,
		"what is old or for a removed channel is dropped and logged":                      whatIsOldOrForAChannelThatIsNoMoreIsLeftOutAndLogged,
		"what waits for a wrong address goes to the corrected one":                        whatWaitsForAWrongAddressGoesToTheOneThatItIsCorrectedTo,
		"a channel keeps its ID when its secrets change, and the ID reveals none of them": aChannelIsKnownAgainWhenItsSecretsChangeAndTellsNoneOfThem,
		"Done is called when a message is delivered or given up":                          whoeverKeepsWhatWaitsHearsWhenAMessageIsDone,
	} {
		t.Run(name, test)
	}
}

func whatAStopLeavesIsToldAfterTheNextStartBeforeAllElse(t *testing.T) {
	t.Parallel()
	var left Waiting
	deliver(t, &fake{answer: func(int, *Message) error { return errors.New("connection refused") }}, func(n *Notifier, stop func()) {
		tell(n, "a", "b", "c")
		synctest.Wait()
		if w := n.Waiting(); len(w[""]) != 3 {
			t.Errorf("while the first is tried there wait %v", w)
		}
		stop()
		left = kept(t, n.Waiting())
	})
	f := &fake{}
	deliver(t, f, func(n *Notifier, _ func()) {
		n.Restore(left, time.Now())
		tell(n, "d")
		synctest.Wait()
		if want := []string{"a 0 0", "b 0 0", "c 0 0", "d 0 0"}; !slices.Equal(f.got(), want) {
			t.Errorf("got %q, want %q", f.got(), want)
		}
		if w := n.Waiting(); len(w[""]) != 0 {
			t.Errorf("when all is told there wait %v", w)
		}
	})
}

func whatWasToldMeanwhileComesAfterWhatWaited(t *testing.T) {
	t.Parallel()
	n, _ := notifier(t, configs.Notify{Command: []string{"true"}})
	before, _ := notifier(t, configs.Notify{Command: []string{"true"}})
	tell(before, numbered(1, 30)...)
	tell(n, numbered(31, 60)...)
	n.Restore(kept(t, before.Waiting()), time.Now())
	var titles []string
	for _, m := range slices.Concat(slices.Collect(maps.Values(n.Waiting()))...) {
		titles = append(titles, m.Title)
	}
	if want := numbered(11, 60); !slices.Equal(titles, want) || n.lanes[0].leftOut != 10 {
		t.Errorf("there wait %q, want %q; %d were left out", titles, want, n.lanes[0].leftOut)
	}
}

func whatIsOldOrForAChannelThatIsNoMoreIsLeftOutAndLogged(t *testing.T) {
	t.Parallel()
	hook := configs.Webhook{URL: "https://chat.example.com/one"}
	before, _ := notifier(t, configs.Notify{Webhook: []configs.Webhook{hook}, Command: []string{"true"}})
	now := time.Now()
	before.Send(Message{Kind: Failure, Title: "yesterday", Time: now.Add(-keepFor - time.Minute)})
	before.Send(Message{Kind: Failure, Title: "today", Time: now.Add(-keepFor + time.Minute)})
	n, logs := notifier(t, configs.Notify{Command: []string{"true"}})
	n.Restore(kept(t, before.Waiting()), now)
	w := n.Waiting()
	if len(w) != 1 || len(w[n.lanes[0].id]) != 1 || w[n.lanes[0].id][0].Title != "today" {
		t.Errorf("there wait %v", w)
	}
	said := map[string]int{}
	for _, l := range logs.All() {
		said[l.Message]++
	}
	if said["not delivered: it has waited for more than 24h0m0s"] != 1 || said["not delivered: the channel is not configured any more"] != 2 || len(said) != 2 {
		t.Errorf("logged: %v", said)
	}
}

func whatWaitsForAWrongAddressGoesToTheOneThatItIsCorrectedTo(t *testing.T) {
	t.Parallel()
	hooks := func(names ...string) (cfg configs.Notify) {
		for _, name := range names {
			cfg.Webhook = append(cfg.Webhook, configs.Webhook{URL: "https://chat.example.com/" + name})
		}
		return cfg
	}
	before, _ := notifier(t, hooks("stays", "wrong", "wrong too"))
	tell(before, "a", "b")
	done := func(channel, n int) { // as when so many were delivered
		before.lanes[channel].queue = before.lanes[channel].queue[n:]
	}
	done(0, 2)
	done(2, 1)
	n, logs := notifier(t, hooks("right", "stays"))
	n.Restore(kept(t, before.Waiting()), time.Now())
	tell(n, "c")
	for channel, want := range [][]string{{"a", "b", "c"}, {"c"}} {
		var titles []string
		for _, m := range n.lanes[channel].waiting() {
			titles = append(titles, m.Title)
		}
		if !slices.Equal(titles, want) {
			t.Errorf("for channel %d there wait %q, want %q", channel, titles, want)
		}
	}
	if logs.Len() > 0 {
		t.Errorf("logged: %v", logs.All())
	}
}

func aChannelIsKnownAgainWhenItsSecretsChangeAndTellsNoneOfThem(t *testing.T) {
	t.Parallel()
	configured := func(secret string) configs.Notify {
		hook := configs.Webhook{URL: "https://hunter2@chat.example.com/hunter2?key=hunter2", Headers: map[string]string{"X-Key": "hunter2" + secret}, Template: "{{.Text}}" + secret}
		return configs.Notify{
			Webhook: []configs.Webhook{hook, hook, {URL: "https://chat.example.com/other"}}, Command: []string{"page", "hunter2"},
			Email: &configs.Email{From: "a@example.com", To: []string{"b@example.com"}, Server: "mail.example.com:587", User: "a", Password: "hunter2" + secret},
		}
	}
	n, _ := notifier(t, configured("1"))
	tell(n, "a")
	b, err := json.Marshal(n.Waiting())
	if err != nil || strings.Contains(string(b), "hunter2") {
		t.Errorf("what is kept: %s, %v", b, err)
	}
	again, logs := notifier(t, configured("2"))
	again.Restore(kept(t, n.Waiting()), time.Now())
	w := again.Waiting()
	for id, list := range w {
		if len(list) != 1 {
			t.Errorf("for %s there wait %v", id, list)
		}
	}
	if len(w) != 5 || logs.Len() > 0 {
		t.Errorf("there wait messages for %d of 5 channels; logged %v", len(w), logs.All())
	}
}

func whoeverKeepsWhatWaitsHearsWhenAMessageIsDone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var done atomic.Int32
		f := &fake{began: time.Now(), answer: func(attempt int, _ *Message) error {
			if attempt < 3 {
				return errors.New("connection refused")
			}
			return nil
		}}
		n, _ := notifier(t, configs.Notify{})
		n.channels, n.lanes = []channel{f}, []*lane{newLane("fake", messagePace, n.o.Log)}
		n.lanes[0].id = "fake"
		n.lanes[0].done = func() { done.Add(1) }
		stop := running(n)
		tell(n, "a", "b")
		synctest.Wait()
		if done.Load() != 0 {
			t.Error("nothing is done, and it is said to be")
		}
		time.Sleep(time.Hour)
		if done.Load() != 2 || len(n.Waiting()["fake"]) != 0 {
			t.Errorf("%d are done; there wait %v", done.Load(), n.Waiting())
		}
		stop()
	})
}
