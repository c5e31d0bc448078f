package checking

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"knowngood/snapshot/check"
)

// rotated is a store whose data is read in turn, in simulated time.
type rotated struct {
	t       *testing.T
	r       rotation
	objects []check.Stored
	added   int
	at      time.Time
	read    map[[32]byte]time.Time // when an object was read last, or stored
}

func newRotated(t *testing.T, n int, size int64) *rotated {
	x := &rotated{t: t, at: time.Date(2026, 1, 1, 5, 0, 0, 0, time.UTC), read: map[[32]byte]time.Time{}}
	x.store(n, size)
	return x
}

func (x *rotated) store(n int, size int64) {
	for range n {
		x.added++
		o := check.Stored{Size: size}
		o.Hash = sha256.Sum256(fmt.Append(nil, x.added))
		x.objects = append(x.objects, o)
		x.read[o.Hash] = x.at
	}
	slices.SortFunc(x.objects, func(a, b check.Stored) int { return bytes.Compare(a.Hash[:], b.Hash[:]) })
}

// check reads what is due, and returns its bytes. Killed, it reads no more than
// so many objects; below 0 it is not.
func (x *rotated) check(how *reading, until time.Duration, killed int) (sum uint64) {
	x.t.Helper()
	due, end := x.r.due(how, x.objects, x.at, until)
	for i, o := range due {
		if i == killed {
			x.restart()
			return sum
		}
		x.read[o.Hash] = x.at
		sum += uint64(o.Size)
		x.r.advance(fmt.Sprintf("%x", o.Hash), uint64(o.Size), x.at)
	}
	x.r.advance(end, 0, x.at)
	x.restart()
	return sum
}

// restart is what a restart of the daemon does to the state.
func (x *rotated) restart() {
	b, err := json.Marshal(&x.r)
	if err != nil {
		x.t.Fatal(err)
	}
	x.r = rotation{}
	if err := json.Unmarshal(b, &x.r); err != nil {
		x.t.Fatal(err)
	}
}

// oldest is the time before which nothing was read last.
func (x *rotated) oldest() time.Time {
	least := x.at
	for _, o := range x.objects {
		if at := x.read[o.Hash]; at.Before(least) {
			least = at
		}
	}
	return least
}

func TestRotation(t *testing.T) {
	t.Parallel()
	auto := &reading{cycle: 90 * day, daily: 1 << 30}

	t.Run("reads everything within the cycle, evenly", func(t *testing.T) {
		x := newRotated(t, 2000, 16<<20)
		var most uint64
		for range 400 {
			most = max(most, x.check(auto, day, -1))
			if age := x.at.Sub(x.oldest()); age > 91*day {
				t.Fatalf("after %v something was not read for %v", x.at, age)
			}
			x.at = x.at.Add(day)
		}
		if total := uint64(2000 * 16 << 20); most > 2*total/90 {
			t.Errorf("%d bytes were read on one day, of %d in all", most, total)
		}
	})

	t.Run("reads no more than the limit a day, and takes longer", func(t *testing.T) {
		x := newRotated(t, 300, 16<<20)
		how := &reading{cycle: 90 * day, daily: 32 << 20}
		for n := range 400 {
			if sum := x.check(how, day, -1); sum > how.daily {
				t.Fatalf("%d bytes on one day", sum)
			}
			x.at = x.at.Add(day)
			if n >= 155 && x.at.Sub(x.oldest()) > 155*day {
				t.Fatalf("something was not read for %v", x.at.Sub(x.oldest()))
			}
		}
		if got := how.expected(300 * 16 << 20); got != 150*day {
			t.Errorf("a pass is expected to take %v", got)
		}
	})

	t.Run("says no more than it read", func(t *testing.T) {
		x := newRotated(t, 500, 16<<20)
		for n := range 300 {
			killed := -1
			if n%3 == 0 {
				killed = n % 5
			}
			if n%7 == 0 {
				x.store(20, 16<<20)
			}
			x.check(auto, day, killed)
			claimed := x.r.oldest()
			for _, o := range x.objects {
				if at := x.read[o.Hash]; at.Before(claimed) {
					t.Fatalf("day %d: all is said to be read since %v, an object was not since %v", n, claimed, at)
				}
			}
			x.at = x.at.Add(day)
		}
		if x.r.oldest().IsZero() {
			t.Error("no pass came to its end")
		}
	})

	t.Run("catches up after downtime within the limit", func(t *testing.T) {
		x := newRotated(t, 900, 16<<20)
		how := &reading{cycle: 90 * day, daily: 400 << 20}
		x.check(how, day, -1)
		x.at = x.at.Add(20 * day)
		if sum := x.check(how, day, -1); sum > how.daily || sum < how.daily-16<<20 {
			t.Errorf("%d bytes after twenty days", sum)
		}
		for range 15 {
			x.at = x.at.Add(day)
			x.check(how, day, -1)
		}
		if place := x.r.place(); place < 35./90 {
			t.Errorf("it is at %.3f after 35 days of 90", place)
		}
	})

	t.Run("goes on where it was killed", func(t *testing.T) {
		x := newRotated(t, 300, 16<<20)
		all := &reading{share: 1}
		x.check(all, day, 100)
		before := x.r.Position
		x.at = x.at.Add(time.Hour)
		if sum := x.check(all, day, -1); sum != 200*16<<20 {
			t.Errorf("%d bytes were read after it read a third, up to %s", sum, before)
		}
		if got := x.r.oldest(); !got.Equal(x.at.Add(-time.Hour)) {
			t.Errorf("all is said to be read since %v", got)
		}
	})

	t.Run("reads one object however small the limit", func(t *testing.T) {
		x := newRotated(t, 3, 16<<20)
		how := &reading{cycle: day, daily: 1}
		for range 3 {
			if x.check(how, day, -1) != 16<<20 {
				t.Fatal("it does not get on")
			}
			x.at = x.at.Add(day)
		}
	})

	t.Run("reads a share in each check", func(t *testing.T) {
		x := newRotated(t, 1000, 1<<20)
		tenth := &reading{share: 0.1}
		sum := uint64(0)
		for range 10 {
			sum += x.check(tenth, day, -1)
			x.at = x.at.Add(time.Hour)
		}
		if sum != 1000<<20 || x.r.oldest().IsZero() || x.r.Position != "" {
			t.Errorf("ten tenths are %d bytes, up to %q", sum, x.r.Position)
		}
	})

	t.Run("begins anew when its state is lost, and counts what was read by hand", func(t *testing.T) {
		x := newRotated(t, 100, 1<<20)
		x.check(auto, day, -1)
		x.r = rotation{}
		if !x.r.oldest().IsZero() {
			t.Error("it claims to have read")
		}
		x.r.readAll(x.at)
		if got := x.r.oldest(); !got.Equal(x.at) {
			t.Errorf("after all was read: %v", got)
		}
		x.at = x.at.Add(44 * day)
		x.check(auto, day, -1)
		if place := x.r.place(); place < 0.49 || place > 0.51 {
			t.Errorf("45 days later it is at %v", place)
		}
	})

	t.Run("spends no more a day when it runs each hour", func(t *testing.T) {
		x := newRotated(t, 3000, 1<<20)
		how := &reading{cycle: day, daily: 48 << 20}
		x.check(how, time.Hour, -1)
		sum := uint64(0)
		for range 24 {
			x.at = x.at.Add(time.Hour)
			sum += x.check(how, time.Hour, -1)
		}
		if sum > how.daily+how.daily/24 {
			t.Errorf("%d bytes in a day", sum)
		}
	})
}
