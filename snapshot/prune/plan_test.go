package prune

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/pack"
	"knowngood/storage/statement"
)

const (
	hour = time.Hour
	day  = 24 * hour
)

// start is the clock of the store in the table.
var start = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// named is the pack of a name; that of a name which begins with "m" is a container.
func named(name string) deletion.ObjectID {
	id := deletion.ObjectID{Kind: wire.KindPack}
	if strings.HasPrefix(name, "m") {
		id.Kind = wire.KindManifest
	}
	copy(id.Hash[:], name)
	return id
}

func nameOf(hash [32]byte) string { return strings.TrimRight(string(hash[:]), "\x00") }

// found are facts of a domain on its host, which was pruned a week apart so far,
// as the functions add to them.
func found(add ...func(*facts)) *facts {
	f := &facts{
		host: "h", own: true, now: start, announce: 7 * day,
		objects: map[deletion.ObjectID]object{}, damaged: map[deletion.ObjectID]bool{},
		deletions: &deletion.Deletions{Newest: 9}, published: said{}, binding: said{},
		recent: map[deletion.ObjectID]bool{}, indexed: map[[32]byte]uint64{},
	}
	for _, a := range add {
		a(f)
	}
	return f
}

// said is what was published of objects.
type said map[deletion.ObjectID]deletion.Status

func (s said) Of(id deletion.ObjectID) deletion.Status            { return s[id] }
func (s said) All() iter.Seq2[deletion.ObjectID, deletion.Status] { return maps.All(s) }

// stored is an object of 10 bytes that the store took so long ago.
func stored(name string, ago time.Duration) func(*facts) {
	return func(f *facts) { f.objects[named(name)] = object{10, start.Add(-ago)} }
}

// indexed is a pack that a live index run names.
func indexed(name string, ago time.Duration) func(*facts) {
	return func(f *facts) {
		stored(name, ago)(f)
		f.indexed[named(name).Hash] = 10
	}
}

// keeps is a kept snapshot whose manifest names the objects; "a=b+c" is an object for
// which others stand, by a repack.
func keeps(names ...string) func(*facts) {
	return func(f *facts) {
		m := &manifest{Snapshot: &history.Snapshot{Root: &statement.Root{Environment: "web", Number: 3}}, stands: map[deletion.ObjectID][]deletion.ObjectID{}}
		var objects []pack.Object
		for _, name := range names {
			name, into, rewritten := strings.Cut(name, "=")
			id := named(name)
			objects = append(objects, pack.Object{Kind: id.Kind, Hash: id.Hash})
			if rewritten {
				m.stands[id] = nil
				for _, n := range strings.FieldsFunc(into, func(r rune) bool { return r == '+' }) {
					m.stands[id] = append(m.stands[id], named(n))
				}
			}
		}
		f.add(m, objects)
	}
}

// protectedOnly makes the last snapshot one that its host forgot, and that the
// policy of the run keeps.
func protectedOnly(f *facts) { f.manifests[len(f.manifests)-1].forgotten = true }

func published(name string, state deletion.State, ago time.Duration, serial uint64) func(*facts) {
	return func(f *facts) {
		s := deletion.Status{State: state, Serial: serial, At: start.Add(-ago)}
		f.binding.(said)[named(name)], f.published.(said)[named(name)] = s, s
	}
}

// publishedByHost is what a host published and somebody else reads.
func publishedByHost(name string, state deletion.State, ago time.Duration, serial uint64) func(*facts) {
	return func(f *facts) {
		f.published.(said)[named(name)] = deletion.Status{State: state, Serial: serial, At: start.Add(-ago)}
	}
}

func elsewhere(f *facts) { f.own = false }

func captureRuns(f *facts) { f.running = true }

// text is a plan as the table below has it.
func (p *plan) text(f *facts) string {
	list := func(of []statement.Object) string {
		var out []string
		for _, o := range of {
			out = append(out, nameOf(o.Hash))
		}
		slices.Sort(out)
		return strings.Join(out, " ")
	}
	var remove []statement.Object
	for _, id := range p.remove {
		remove = append(remove, statement.Object{Kind: id.Kind, Hash: id.Hash})
	}
	var out []string
	add := func(what, s string) {
		if s != "" {
			out = append(out, what+" "+s)
		}
	}
	add("announce", list(p.announced))
	add("spare", list(p.spared))
	add("publish as deleted", list(append(p.deleted, f.carried(p.since)...)))
	add("delete", list(remove))
	if p.waiting.Objects > 0 {
		out = append(out, fmt.Sprintf("wait %v", p.due.Sub(f.now)))
	}
	if p.young.Objects > 0 {
		out = append(out, fmt.Sprintf("%d young", p.young.Objects))
	}
	if p.changes {
		out = append(out, fmt.Sprintf("since %d", p.since))
	}
	return strings.Join(out, ", ")
}

func TestPlan(t *testing.T) {
	const announced, deleted, spared = deletion.Announced, deletion.Deleted, deletion.Spared
	for _, c := range []struct {
		name string
		f    *facts
		want string
	}{
		// Which objects are needed.
		{"nothing is done with what a kept snapshot needs", found(indexed("a", 99*day), stored("m", 99*day), keeps("a", "m")), ""},
		{"a container is announced once nothing needs it", found(stored("m1", 3*day), stored("m2", 3*day), keeps("m1")), "announce m2, since 10"},
		{"nothing is deleted while an object of a kept snapshot is missing", found(stored("b", 99*day), published("b", announced, 8*day, 5), keeps("a")), "refused: missing, needed by web@3"},
		{"nothing is deleted while an object of a kept snapshot is damaged", found(stored("a", 99*day), func(f *facts) { f.damaged[named("a")] = true }, keeps("a")), "refused: needed by web@3"},
		{"what a forgotten snapshot lacks that only the policy keeps blocks nothing", found(stored("b", 99*day), published("b", announced, 8*day, 5), keeps("a"), protectedOnly), "publish as deleted b, delete b, since 10"},
		{"what a forgotten snapshot needs that only the policy keeps is not announced", found(indexed("a", 99*day), keeps("a"), protectedOnly), ""},
		{"the host needs the new packs in the place of one that was rewritten", found(indexed("a", 99*day), indexed("b", 99*day), keeps("a=b")), "announce a, since 10"},
		{"the host needs nothing in the place of a pack of which nothing was needed", found(indexed("a", 99*day), keeps("a=")), "announce a, since 10"},
		{"somebody else keeps a pack that its host says was rewritten", found(elsewhere, indexed("a", 99*day), indexed("b", 99*day), keeps("a=b")), ""},
		{"somebody else keeps all that a pack which is gone was ever rewritten into", found(elsewhere, indexed("b", 99*day), indexed("c", 99*day), indexed("d", 99*day), keeps("a=b"),
			func(f *facts) {
				f.rewrites = deletion.Rewrites{named("a").Hash: {{named("b").Hash}, {named("c").Hash}}, named("c").Hash: {{named("d").Hash}}}
			}), ""},
		{"somebody else neither deletes nor spares what its host says was rewritten", found(elsewhere, indexed("a", 99*day), indexed("b", 99*day), published("a", announced, 99*day, 4), keeps("a=b")), ""},

		// When an object is announced.
		{"an object is announced when it is 48 hours old", found(indexed("a", 48*hour)), "announce a, since 10"},
		{"an object that is younger than 48 hours is left alone", found(indexed("a", 48*hour-1)), "1 young"},
		{"a pack that no index run names is left alone while a capture is under way", found(captureRuns, stored("a", 5*day), stored("b", hour)), "2 young"},
		{"a pack that no index run names is announced when no capture is under way", found(stored("a", 5*day), stored("b", hour)), "announce a, 1 young, since 10"},
		{"a pack that an index run names is announced while a capture is under way", found(captureRuns, indexed("a", 5*day), stored("b", hour)), "announce a, 1 young, since 10"},
		{"a container that the capture under way may have written is left alone", found(captureRuns, stored("a", 5*day), stored("m1", 6*day), stored("m2", 7*day)), "announce m2, 2 young, since 10"},
		{"what is announced is not announced again", found(indexed("a", 9*day), published("a", announced, day, 5)), "wait 144h0m0s"},
		{"what was spared is announced again once nothing needs it", found(indexed("a", 9*day), published("a", spared, day, 5)), "announce a, since 10"},
		{"what only the host announced somebody else announces", found(elsewhere, indexed("a", 99*day), publishedByHost("a", announced, 90*day, 5)), "announce a, since 10"},

		// When it is deleted.
		{"an object is deleted when it was announced long enough ago", found(indexed("a", 99*day), published("a", announced, 7*day, 5)), "publish as deleted a, delete a, since 10"},
		{"an object is not deleted before its time", found(indexed("a", 99*day), published("a", announced, 7*day-time.Second, 5)), "wait 1s"},
		{"an object that is needed again is spared", found(indexed("a", 99*day), published("a", announced, 9*day, 5), keeps("a")), "spare a, since 10"},
		{"what a snapshot needs that was forgotten since waits as long again", found(indexed("a", 99*day), published("a", announced, 9*day, 5), func(f *facts) { f.recent[named("a")] = true }), "wait 168h0m0s"},
		{"what is named deleted and still there is deleted after as long again", found(indexed("a", 99*day), published("a", deleted, 7*day, 5)), "delete a, since 5"},
		{"what is named deleted and still there is not deleted before", found(indexed("a", 99*day), published("a", deleted, 6*day, 5)), "wait 24h0m0s"},
		{"what is named deleted, still there and needed is spared", found(indexed("a", 99*day), published("a", deleted, 9*day, 5), keeps("a")), "spare a, since 10"},
		{"what was announced and is gone is published as deleted", found(published("a", announced, day, 5)), "publish as deleted a, since 10"},
		{"what is deleted and gone is over", found(published("a", deleted, 99*day, 5)), ""},

		// Which statements are still read.
		{"statements are read from the first with an object that waits", found(indexed("a", 99*day), indexed("b", 99*day), published("a", announced, 9*day, 4), published("b", announced, day, 6)), "publish as deleted a, delete a, wait 144h0m0s, since 6"},
		{"a deleted pack that an index run names is named again", found(indexed("b", 99*day), published("a", deleted, 99*day, 4), func(f *facts) { f.indexed[named("a").Hash] = 1 }), "announce b, publish as deleted a, since 10"},
		{"a deleted pack is named again while there are other index runs", found(indexed("b", 99*day), published("a", deleted, 99*day, 4), func(f *facts) { f.moreIndexed = true }), "announce b, publish as deleted a, since 10"},
		{"a deleted pack that no index run names is not named again", found(indexed("b", 99*day), published("a", deleted, 99*day, 4)), "announce b, since 10"},
		{"a deleted container is not named again", found(indexed("b", 99*day), published("m", deleted, 99*day, 4), func(f *facts) { f.moreIndexed = true }), "announce b, since 10"},
		{"somebody else reads on from the first repack of the host", found(elsewhere, indexed("b", 99*day), func(f *facts) { f.deletions.Repacks = []deletion.Repack{{Serial: 7}, {Serial: 3}} }), "announce b, since 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if err := c.f.findNeeds(); err != nil {
				if !authentic.Damaged(err) {
					t.Errorf("the error is not of damage: %v", err)
				}
				got = "refused: " + err.Error()
				if c.want != "" && strings.HasPrefix(c.want, "refused") && strings.Contains(err.Error(), strings.TrimPrefix(c.want, "refused: ")) {
					got = c.want
				}
			} else {
				got = makePlan(c.f).text(c.f)
			}
			if got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestPlans(t *testing.T) {
	t.Run("plan reads forgotten snapshots", testPlanReadsForgottenSnapshots)
}

func testPlanReadsForgottenSnapshots(t *testing.T) {
	first, last := start, start.Add(5*day)
	for _, c := range []struct {
		name           string
		root           time.Time
		again, retaken bool
		want           bool
	}{
		{"a snapshot from long before the announcement needs nothing that was announced", first.Add(-2 * hour), false, false, false},
		{"a root that came up to 25 hours after an announcement may need what it names", last.Add(25*hour - 1), false, false, true},
		{"a root that came later looked at the announcement before", last.Add(25 * hour), false, false, false},
		{"a snapshot that was taken back since may need it", first.Add(-99 * day), false, true, true},
		{"a root that may have been put again may need it", last.Add(99 * day), true, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := mayNeed(c.root, first, last, c.again, c.retaken); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
