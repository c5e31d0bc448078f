package prune_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/internal/wire"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/prune"
	"knowngood/snapshot/retention"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// forger is a host that was taken over after some good snapshots, with every key that it
// has, and what others saw before.
type forger struct {
	*world
	versions bool
	key      *trust.Host // as its attacker has it
	trees    []treetest.Tree
	bodies   []*statement.RootBody
	needed   map[string][]byte // objects of the good snapshots
	witness  string            // state directory of a machine that saw these
}

const (
	goodOnes = 4
	// attackTime is less than the time of an announcement: nothing that the good
	// snapshots need may be gone before it is over.
	attackTime = 6*day + 12*time.Hour
)

func TestForgedHistory(t *testing.T) {
	seeds := uint64(2)
	switch {
	case enginetest.Slow():
		seeds = 200
	case testing.Short():
		seeds = 1
	}
	for name, store := range map[string]func() storage.Store{"with versions": memory, "without versions": plainMemory} {
		t.Run(name+" what was captured before is restored or named, and not deleted early", func(t *testing.T) {
			for seed := range seeds {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					simulated(t, store, func(w *world) {
						w.rand = rand.New(rand.NewPCG(seed, 11))
						f := newForger(w, strings.HasPrefix(name, "with "))
						for end := time.Now().Add(attackTime); time.Now().Before(end); {
							f.act()
							if f.rand.IntN(4) == 0 {
								time.Sleep(min(time.Duration(1+f.rand.IntN(30))*time.Hour, time.Until(end)))
								f.prune()
							}
						}
						f.judge()
					})
				})
			}
		})
	}
}

func newForger(w *world, versions bool) *forger {
	f := &forger{world: w, versions: versions, needed: map[string][]byte{}, witness: treetest.TempDir(w.t)}
	for i := range goodOnes {
		w.write("file", 30<<10)
		w.write("marker", 100+i)
		f.bodies = append(f.bodies, w.capture("web").Body)
		f.trees = append(f.trees, treetest.Snapshot(w.t, w.dir))
		time.Sleep(day)
	}
	for _, key := range w.objects() {
		f.needed[key] = w.copyOf(key)
	}
	for _, err := range f.remembers().Snapshots(w.Ctx, enginetest.Host, "web") {
		w.check(err)
	}
	var err error
	f.key, err = w.host().Host(w.Ctx)
	w.check(err)
	return f
}

// remembers is the machine that saw the good snapshots.
func (f *forger) remembers() *repository.Repository {
	r := f.Open(f.witness)
	r.Unlock(f.ID)
	return r
}

// keys of the host's objects below a prefix of its own, hidden ones included.
func (f *forger) keys(prefix string) (keys []string) {
	for o, err := range f.Store.List(f.Ctx, storage.ListOptions{Prefix: "hosts/" + enginetest.Host + "/" + prefix, Hidden: true}) {
		f.check(err)
		keys = append(keys, o.Key)
	}
	return keys
}

func (f *forger) pick(keys []string) string { return keys[f.rand.IntN(len(keys))] }

// put puts an object as whoever has the host's credentials does: over another one, or at
// a key that is free.
func (f *forger) put(key string, object []byte) {
	if err := f.Store.Put(f.Ctx, key, object, storage.PutOptions{}); errors.Is(err, storage.ErrExists) {
		f.overwrite(key, object)
	} else {
		f.check(err)
	}
}

// kinds are those of the objects that the attacker changes: without versions what it
// destroys of content is gone.
func (f *forger) kinds() []string {
	kinds := []string{"roots/", "tombstones/", "pending/", "index/", "acceptances/", "catalogues/", "marks/"}
	if f.versions {
		kinds = append(kinds, "packs/", "manifests/")
	}
	return slices.DeleteFunc(kinds, func(k string) bool { return len(f.keys(k)) == 0 })
}

func (f *forger) act() {
	newest := uint64(len(f.keys("roots/web/")))
	some := func() statement.Numbers {
		var list []uint64
		for n := range newest + 2 {
			if f.rand.IntN(3) > 0 {
				list = append(list, n+1)
			}
		}
		return statement.NumbersOf(append(list, 1+f.rand.Uint64N(newest))...)
	}
	body := func() *statement.RootBody { return f.bodies[f.rand.IntN(len(f.bodies))] }
	when := func() time.Time { return time.Now().Add(-time.Duration(f.rand.IntN(20*24)) * time.Hour) }
	hash := func(n uint64) [32]byte {
		if n == 0 {
			return [32]byte{}
		}
		if f.rand.IntN(2) == 0 || !slices.Contains(f.keys("roots/web/"), key(n)) {
			return [32]byte{1 + byte(f.rand.IntN(9))}
		}
		return sha256.Sum256(f.current(key(n)))
	}
	serial := func(prefix string) uint64 {
		if f.rand.IntN(8) == 0 {
			return 1 << 30
		}
		return uint64(1 + f.rand.IntN(len(f.keys(prefix))+2))
	}

	switch f.rand.IntN(12) {
	case 0: // signs one root again, or a new one
		n := 1 + f.rand.Uint64N(newest+2)
		if f.rand.IntN(2) == 0 {
			n = newest + 1
		}
		object, _ := f.forge(n, hash(n-1), body(), when())
		f.put(key(n), object)
	case 1: // signs the history again from some root on
		first := 1 + f.rand.Uint64N(newest)
		previous := hash(first - 1)
		for n := first; n <= newest; n++ {
			var object []byte
			object, previous = f.forge(n, previous, body(), when())
			f.put(key(n), object)
		}
	case 2: // captures a tree of its own
		f.write("file", 1+f.rand.IntN(100))
		if res, err := f.Capture("web", nil, f.dir); err == nil {
			f.bodies = append(f.bodies, res.Snapshot.Body)
		}
	case 3: // removes
		f.check(f.Store.Delete(f.Ctx, f.pick(f.keys(f.pick(f.kinds())))))
	case 4: // puts rubbish over
		f.put(f.pick(f.keys(f.pick(f.kinds()))), []byte("rubbish"))
	case 5: // replays an object in the place of another, or where it was
		keys := f.keys(f.pick(f.kinds()))
		from, to := f.pick(keys), f.pick(keys)
		f.put([]string{from, to}[f.rand.IntN(2)], f.current(from))
	case 6, 7: // forgets
		x := &statement.Tombstone{Repository: f.Bare().ID(), Host: enginetest.Host, Environment: "web", Serial: serial("tombstones/"), Made: when(), Certificate: f.key.Certificate, Forgotten: some()}
		x.Free = []uint64{0, newest + 1, math.MaxInt64}[f.rand.IntN(3)]
		object, err := x.Encode(f.key.SigningKey())
		f.check(err)
		f.put(layout.KeyTombstone(enginetest.Host, "web", x.Serial), object)
	case 8, 9: // claims what it likes as announced, deleted and rewritten
		x := &statement.Deletion{Repository: f.Bare().ID(), Host: enginetest.Host, Domain: f.domain(), Serial: serial("pending/"), Made: when(), Certificate: f.key.Certificate}
		x.Since = 1 + f.rand.Uint64N(x.Serial)
		var packs [][32]byte
		for _, k := range f.objects() {
			id, _ := deletion.ParseKey(k)
			if id.Kind == wire.KindPack {
				packs = append(packs, id.Hash)
			}
			o := statement.Object{Kind: id.Kind, Hash: id.Hash, Size: 1}
			list := []*[]statement.Object{&x.Announced, &x.Deleted, &x.Spared}[f.rand.IntN(3)]
			if list != &x.Announced {
				o.Size = 0
			}
			*list = append(*list, o)
		}
		for _, list := range []*[]statement.Object{&x.Announced, &x.Deleted, &x.Spared} {
			slices.SortFunc(*list, statement.CompareObjects)
		}
		if len(packs) > 1 && f.rand.IntN(2) == 0 {
			slices.SortFunc(packs, deletion.CompareHashes)
			r := statement.Repack{Moves: []statement.Move{{Old: packs[:1+f.rand.IntN(len(packs)-1)]}}}
			for _, b := range f.bodies {
				r.Manifests = append(r.Manifests, b.Manifest.Hash)
			}
			slices.SortFunc(r.Manifests, deletion.CompareHashes)
			r.Manifests = slices.Compact(r.Manifests)
			x.Repacks = []statement.Repack{r}
		}
		object, err := x.Encode(f.key.SigningKey())
		f.check(err)
		f.put(layout.KeyDeletion(enginetest.Host, x.Domain, x.Serial), object)
	case 10: // accepts what is suspect
		x := &statement.Acceptance{Repository: f.Bare().ID(), Host: enginetest.Host, Environment: "web", Serial: serial("acceptances/"), Made: when(), Certificate: f.key.Certificate}
		for n := range newest {
			x.Accepted = append(x.Accepted, statement.Accepted{Number: n + 1, ID: [32]byte{byte(n)}})
		}
		object, err := x.Encode(f.key.SigningKey())
		f.check(err)
		f.put(layout.KeyAcceptance(enginetest.Host, "web", x.Serial), object)
	case 11: // repeats other roots in a catalogue
		var roots [][]byte
		for n := range uint64(15) {
			object, _ := f.forge(n+1, hash(n), body(), when())
			roots = append(roots, object)
		}
		object, err := statement.EncodeCatalogue(roots)
		f.check(err)
		f.put(layout.KeyCatalogue(enginetest.Host, "web", 15), object)
	}
}

// current is what the current view of a key shows, or the newest version beneath.
func (f *forger) current(key string) []byte {
	for o, err := range f.Store.List(f.Ctx, storage.ListOptions{Prefix: key, Hidden: true, Limit: 1}) {
		f.check(err)
		if !o.Hidden {
			return f.copyOf(key)
		}
	}
	return []byte("hidden")
}

// prune prunes on one of the machines that may, which are not the attacker's.
func (f *forger) prune() {
	r := f.Bare()
	o := prune.Options{}
	switch f.rand.IntN(4) {
	case 0:
		r = f.remembers()
	case 1:
		r = f.host()
	case 2:
		o.Policy = func(string, string) *retention.Policy { return &retention.Policy{Daily: 30} }
	}
	if !f.versions && f.rand.IntN(8) > 0 {
		r = f.remembers() // without versions nobody else knows what was there before
	}
	if _, err := prune.Run(f.Ctx, r, o); err != nil && !errors.Is(err, storage.ErrExists) && !errors.Is(err, prune.ErrChanged) {
		f.t.Errorf("prune: %v", err)
	}
	f.Warnings()
}

// judge demands what must hold at the end of the attack.
func (f *forger) judge() {
	for k, object := range f.needed {
		if !f.versions {
			if string(f.current(k)) != string(object) {
				f.t.Errorf("%s is gone before the time of an announcement is over", k)
			}
			continue
		}
		there := false
		for _, v := range f.versionsOf(k) {
			there = there || string(v) == string(object)
		}
		if !there {
			f.t.Errorf("%s is gone before the time of an announcement is over", k)
		}
	}
	good := statement.Numbers{{First: 1, Last: goodOnes}}
	if _, err := f.remembers().Forget(f.Ctx, enginetest.Host, "web", history.Change{Undo: good, Now: time.Now()}); err != nil && f.versions {
		f.t.Errorf("what was forgotten is not taken back: %v", err)
	}
	for n := uint64(1); n <= goodOnes; n++ {
		for name, open := range map[string]func() *repository.Repository{"a machine without memory": f.Bare, "a machine with memory": f.remembers} {
			f.Warnings()
			content, err := f.content(open(), n)
			found := slices.ContainsFunc(f.Warnings(), authentic.Tampered)
			right := content == f.bodies[n-1].Content
			switch {
			case f.versions && (err != nil || !right):
				f.t.Errorf("on %s web@%d is not restored: %v", name, n, err)
			case name == "a machine with memory" && !right && err == nil:
				f.t.Errorf("on %s web@%d is another, and tampering is reported: %v", name, n, found)
			}
		}
		if f.versions {
			f.Restores(fmt.Sprintf("web@%d", n), f.dir, f.trees[n-1])
		}
	}
}

func (f *forger) versionsOf(key string) (all [][]byte) {
	v := f.Store.(storage.Versioner)
	for x, err := range v.Versions(f.Ctx, key) {
		f.check(err)
		if !x.Marker {
			body, err := v.GetVersion(f.Ctx, key, x.ID, 0, -1)
			f.check(err)
			b := make([]byte, x.Size)
			_, err = body.Read(b)
			f.check(err)
			f.check(body.Close())
			all = append(all, b)
		}
	}
	return all
}

// content is the digest of what a snapshot restores to, once a dry run of that succeeds.
func (f *forger) content(r *repository.Repository, n uint64) (digest [32]byte, err error) {
	ref, _, err := history.ParseRef(fmt.Sprintf("web@%d", n))
	f.check(err)
	s, err := r.Resolve(f.Ctx, ref, enginetest.Host)
	if err != nil {
		return digest, err
	}
	tree, err := snapshot.OpenTree(f.Ctx, r, s)
	if err != nil {
		return digest, err
	}
	defer tree.Reader.Close()
	_, err = restore.Run(f.Ctx, restore.Options{Tree: tree, Under: enginetest.Under(f.dir), Target: treetest.TempDir(f.t)})
	return s.Body.Content, err
}
