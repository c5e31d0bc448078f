package suspect

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

var begin = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

const mib = 1 << 20

// counts of sources, which are distinguished by their position.
func counts(amounts ...Amount) (out []statement.SourceCounts) {
	for i, a := range amounts {
		out = append(out, statement.SourceCounts{Tag: [8]byte{byte(i + 1)}, Files: a.Files, Bytes: a.Bytes})
	}
	return out
}

func snapshot(number uint64, after time.Duration, amounts ...Amount) Snapshot {
	return Snapshot{Number: number, Time: begin.Add(after), Sources: counts(amounts...)}
}

func TestSuspect(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"what collapsed": whatCollapsed,
		"a source is compared with the largest of the last seven days": aSourceIsComparedWithTheLargestOfTheLastSevenDays,
		"an accepted snapshot is the new reference":                    anAcceptedSnapshotIsTheNewReference,
		"without the configuration the whole is compared":              whoDoesNotKnowTheConfigurationComparesTheWhole,
		"a reference judges as all of its snapshots do":                aReferenceJudgesAsAllOfItsSnapshotsDo,
	} {
		t.Run(name, test)
	}
}

func whatCollapsed(t *testing.T) {
	t.Parallel()
	percent := func(p int) Rule { return Rule{Shrink: func(int) int { return p }} }
	for name, c := range map[string]struct {
		before, now Amount
		rule        Rule
		want        bool
	}{
		"the same":                                       {Amount{100, mib}, Amount{100, mib}, Rule{}, false},
		"just half of the files":                         {Amount{100, mib}, Amount{50, mib}, Rule{}, false},
		"less than half of the files":                    {Amount{100, mib}, Amount{49, mib}, Rule{}, true},
		"just half of the bytes":                         {Amount{100, 100 * mib}, Amount{100, 50 * mib}, Rule{}, false},
		"less than half of the bytes":                    {Amount{100, 100 * mib}, Amount{100, 50*mib - 1}, Rule{}, true},
		"nothing":                                        {Amount{100, mib}, Amount{}, Rule{}, true},
		"more of both":                                   {Amount{100, mib}, Amount{1000, 10 * mib}, Rule{}, false},
		"small, and smaller":                             {Amount{19, 16*mib - 1}, Amount{1, 1}, Rule{}, false},
		"small, and without a file":                      {Amount{19, 16*mib - 1}, Amount{}, Rule{}, true},
		"small, and all files without content":           {Amount{1, 100}, Amount{1, 0}, Rule{}, true},
		"few files of many bytes":                        {Amount{19, 16 * mib}, Amount{9, 16 * mib}, Rule{}, true},
		"many files of few bytes":                        {Amount{20, 10}, Amount{20, 4}, Rule{}, true},
		"it never held anything":                         {Amount{}, Amount{}, Rule{}, false},
		"files without content, as before":               {Amount{100, 0}, Amount{100, 0}, Rule{}, false},
		"less than three quarters, where that is asked":  {Amount{100, mib}, Amount{74, mib}, percent(75), true},
		"less than half, where a tenth is enough":        {Amount{100, mib}, Amount{10, mib/10 + 1}, percent(10), false},
		"nothing, where that is normal":                  {Amount{100, mib}, Amount{}, percent(0), false},
		"counts beyond what a product of integers holds": {Amount{1 << 63, 1 << 63}, Amount{1 << 61, 1 << 63}, Rule{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got := Reference{snapshot(1, 0, c.before)}.Shrunk(snapshot(2, time.Hour, c.now), c.rule)
			if (len(got) > 0) != c.want {
				t.Errorf("shrunk: %+v", got)
			}
			for _, s := range got {
				if s.Source != 0 || s.Now != c.now || s.Before != c.before || s.Number != 1 {
					t.Errorf("it says %+v", s)
				}
			}
		})
	}
}

func aSourceIsComparedWithTheLargestOfTheLastSevenDays(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	full, two := Amount{100, mib}, Amount{60, mib}
	for name, c := range map[string]struct {
		history []Snapshot
		next    Snapshot
		want    bool
	}{
		"not with the newest alone":               {[]Snapshot{snapshot(1, 0, full), snapshot(2, day, two)}, snapshot(3, 2*day, Amount{40, mib}), true},
		"not with one that is older":              {[]Snapshot{snapshot(1, 0, full), snapshot(2, 8*day, two)}, snapshot(3, 9*day, Amount{40, mib}), false},
		"of seven days, to the moment":            {[]Snapshot{snapshot(1, 0, full), snapshot(2, 7*day, two)}, snapshot(3, 9*day, Amount{40, mib}), true},
		"which end at the newest good one":        {[]Snapshot{snapshot(1, 0, full)}, snapshot(2, 300*day, Amount{}), true},
		"not with one that was suspect":           {[]Snapshot{snapshot(1, 0, full), snapshot(2, day, Amount{1, 1})}, snapshot(3, 2*day, Amount{60, mib}), false},
		"a collapse is none the less after weeks": {[]Snapshot{snapshot(1, 0, full), snapshot(2, 10*day, Amount{1, 1}), snapshot(3, 20*day, Amount{1, 1})}, snapshot(4, 30*day, Amount{1, 1}), true},
		"and with one of a clock that was ahead":  {[]Snapshot{snapshot(1, 300*day, full), snapshot(2, day, two)}, snapshot(3, 2*day, Amount{40, mib}), true},
	} {
		t.Run(name, func(t *testing.T) {
			var h History
			for _, s := range append(c.history, c.next) {
				h.Judge(s, false, Rule{})
			}
			if got := h.Suspect.Has(c.next.Number); got != c.want {
				t.Errorf("suspect: %v of %+v", got, h)
			}
		})
	}
}

func anAcceptedSnapshotIsTheNewReference(t *testing.T) {
	t.Parallel()
	var h History
	for i, a := range []Amount{{100, mib}, {40, mib}, {40, mib}, {30, mib}, {19, mib}, {100, mib}} {
		h.Judge(snapshot(uint64(i+1), time.Duration(i)*time.Hour, a), i == 2, Rule{})
	}
	if got := fmt.Sprint(h.Suspect); got != fmt.Sprint(statement.NumbersOf(2, 5)) {
		t.Errorf("suspect are %s", got)
	}
}

// Whoever took a host over can leave a source out, or begin a new domain, in
// which all sources have other tags.
func whoDoesNotKnowTheConfigurationComparesTheWhole(t *testing.T) {
	t.Parallel()
	large, small := Amount{1000, 900 * mib}, Amount{30, mib}
	before := Reference{snapshot(1, 0, large, small)}
	elsewhere := func(s Snapshot) Snapshot {
		s.Domain = seal.DomainID{1}
		return s
	}
	for name, c := range map[string]struct {
		next        Snapshot
		host, other bool
	}{
		"the same":                            {snapshot(2, 1, large, small), false, false},
		"a small source that is left out":     {snapshot(2, 1, large), false, true},
		"a large source that is left out":     {Snapshot{Number: 2, Sources: counts(large, small)[1:]}, false, true},
		"a small source that is empty":        {snapshot(2, 1, large, Amount{}), true, true},
		"a new source":                        {snapshot(2, 1, large, small, small), false, false},
		"no source at all":                    {snapshot(2, 1), false, true},
		"a new domain with as much":           {elsewhere(snapshot(2, 1, small, large)), false, false},
		"a new domain with much less":         {elsewhere(snapshot(2, 1, small, small)), false, true},
		"a new domain without a small source": {elsewhere(snapshot(2, 1, large)), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := len(before.Shrunk(c.next, Rule{})) > 0; got != c.host {
				t.Errorf("suspect to the host: %v", got)
			}
			if got := len(before.Shrunk(c.next, Rule{Whole: true})) > 0; got != c.other {
				t.Errorf("suspect to others: %v", got)
			}
		})
	}
}

// What is left out of a reference must not change what is suspect.
func aReferenceJudgesAsAllOfItsSnapshotsDo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		amounts := rapid.Custom(func(t *rapid.T) Amount {
			return Amount{rapid.Uint64Range(0, 60).Draw(t, "files"), mib * rapid.Uint64Range(0, 60).Draw(t, "MiB")}
		})
		var kept, all Reference
		for i := range 12 {
			s := snapshot(uint64(i+1), time.Duration(i)*20*time.Hour, rapid.SliceOfN(amounts, 0, 2).Draw(t, "amounts")...)
			all = slices.DeleteFunc(all, func(old Snapshot) bool { return len(all) > 0 && all[len(all)-1].Time.Sub(old.Time) > Window })
			for _, whole := range []bool{false, true} {
				a, b := kept.Shrunk(s, Rule{Whole: whole}), all.Shrunk(s, Rule{Whole: whole})
				if len(a) != len(b) {
					t.Fatalf("%+v against %+v, not %+v", a, kept, b)
				}
			}
			kept, all = kept.With(s), append(all, s)
		}
	})
}
