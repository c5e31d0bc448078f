package checking

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"strings"
	"time"

	"knowngood/configs"
	"knowngood/snapshot/check"
)

// rotation is where the reading of stored data in turn stands. Objects take their
// turns in the order of their names, which are hashes: so those that were stored
// since are included, and a pass that was interrupted continues where it was.
//
// The names are divided into 256 parts, by their first bytes. Of each it is known
// when the reading began of the last pass that read all of it.
type rotation struct {
	Begun    time.Time `json:"begun,omitzero"`     // the pass under way; zero: none is
	Position string    `json:"position,omitempty"` // hexadecimal: the pass has read all names up to it
	Parts    []int64   `json:"parts,omitempty"`    // seconds since 1970; 0: never read
	Entered  int64     `json:"entered,omitempty"`  // when the part was started that Position is in
	Filled   time.Time `json:"filled,omitzero"`    // when Left was computed last
	Left     uint64    `json:"left,omitempty"`     // bytes that may be read at Filled
}

// parts of a pass, and the position at its end.
const parts = 256

var atEnd = strings.Repeat("f", 64)

const day = 24 * time.Hour

// reading is how much of the stored data a check reads.
type reading struct {
	share float64       // of all names, in each check; 0: as the cycle demands
	cycle time.Duration // of a pass
	daily uint64        // the most bytes a day
}

// readingOf is the reading that is configured; nil is none.
func readingOf(c *configs.Check, identity bool) *reading {
	switch {
	case c.ReadData == "none", c.ReadData == "auto" && !identity:
		return nil
	case c.ReadData == "all":
		return &reading{share: 1}
	case c.ReadData == "auto":
		return &reading{cycle: time.Duration(c.Cycle), daily: uint64(c.MaxData)}
	}
	return &reading{share: c.ReadData.Share()}
}

// expected is how long a pass over so many stored bytes takes; 0 when that depends
// only on the schedule.
func (r *reading) expected(stored uint64) time.Duration {
	if r.daily == 0 {
		return 0
	}
	days := math.Min(float64(stored)/float64(r.daily), math.MaxInt64/float64(day)-1)
	return max(r.cycle, time.Duration(days*float64(day)))
}

// due returns which objects a check reads now, and the position that it
// reaches. The objects are all there are, in the order of their names; the next
// check comes after the time until.
func (r *rotation) due(how *reading, objects []check.Stored, now time.Time, until time.Duration) (due []check.Stored, end string) {
	if r.Begun.IsZero() || r.Begun.After(now) {
		r.Begun = now
	}
	until = max(until, day)
	limit := r.place() + how.share
	if how.daily > 0 {
		limit = float64(now.Sub(r.Begun)+until) / float64(how.cycle)
		r.fill(how, now, until)
	}
	end = position(limit)
	sum := uint64(0)
	for _, o := range objects {
		name := hex.EncodeToString(o.Hash[:])
		if name <= r.Position || name > end {
			continue
		}
		// One is read however little is left: so each check gets on.
		if sum += uint64(o.Size); how.daily > 0 && sum > r.Left && len(due) > 0 {
			last := due[len(due)-1].Hash
			return due, hex.EncodeToString(last[:])
		}
		due = append(due, o)
	}
	return due, max(end, r.Position)
}

// fill computes how many bytes may be read: what a day allows for each day since
// the last time, and no more than for the time until the next check.
func (r *rotation) fill(how *reading, now time.Time, until time.Duration) {
	most := float64(how.daily) * float64(until) / float64(day)
	left := most
	if since := now.Sub(r.Filled); !r.Filled.IsZero() && since >= 0 {
		left = math.Min(most, float64(r.Left)+float64(how.daily)*float64(since)/float64(day))
	}
	r.Filled, r.Left = now, uint64(left)
}

// advance records that all names up to a position were read by a check that began
// at a time, the last of them with so many bytes.
func (r *rotation) advance(to string, bytes uint64, began time.Time) {
	at := began.Unix()
	if len(r.Parts) != parts {
		r.Parts = make([]int64, parts)
	}
	if r.Position == "" {
		r.Entered = at
	}
	from, upto := partOf(r.Position), partOf(to)
	if to == atEnd {
		upto = parts
	}
	if upto > from {
		r.Parts[from] = r.Entered
		for i := from + 1; i < upto; i++ {
			r.Parts[i] = at
		}
		r.Entered = at
	}
	r.Left -= min(r.Left, bytes)
	if r.Position = to; to == atEnd {
		r.Position, r.Begun = "", time.Time{}
	}
}

// readAll records that everything was read elsewhere, from a time on: a pass
// begins with that.
func (r *rotation) readAll(began time.Time) {
	r.Parts = make([]int64, parts)
	for i := range r.Parts {
		r.Parts[i] = began.Unix()
	}
	r.Begun, r.Position = began, ""
}

// oldest is the time of which all that was stored before has been read since; zero
// while some was never read.
func (r *rotation) oldest() time.Time {
	if len(r.Parts) != parts {
		return time.Time{}
	}
	least := int64(math.MaxInt64)
	for _, at := range r.Parts {
		least = min(least, at)
	}
	if least == 0 {
		return time.Time{}
	}
	return time.Unix(least, 0)
}

// place is how far the pass is, from 0 to 1.
func (r *rotation) place() float64 {
	b, err := hex.DecodeString(r.Position)
	if err != nil || len(b) < 8 {
		return 0
	}
	return float64(binary.BigEndian.Uint64(b)) / (1 << 63) / 2
}

// position is the one at a place, from 0 to 1.
func position(place float64) string {
	if place >= 1-1e-9 { // what shares add up to
		return atEnd
	}
	b := make([]byte, 32)
	binary.BigEndian.PutUint64(b, uint64(math.Max(place, 0)*(1<<63))<<1)
	return hex.EncodeToString(b)
}

// partOf is the part that a position lies in.
func partOf(position string) int {
	if len(position) < 2 {
		return 0
	}
	n, _ := strconv.ParseUint(position[:2], 16, 8) // written by this file
	return int(n)
}
