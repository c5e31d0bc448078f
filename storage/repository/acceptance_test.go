package repository_test

import (
	"testing"
	"time"

	"knowngood/storage"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// suspectBody is the body of a snapshot whose source collapsed.
func suspectBody(n uint64) *statement.RootBody {
	b := body(n)
	b.Started = b.Started.Add(time.Duration(n) * time.Minute)
	b.Sources, b.Suspect = []statement.SourceCounts{{Tag: [8]byte{1}}}, []statement.Suspicion{{Source: 0, Reason: statement.Shrank}}
	return b
}

func commitSuspect(t *testing.T, h host) *history.Snapshot {
	t.Helper()
	s, err := h.Commit(t.Context(), "web", suspectBody, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func accept(t *testing.T, r *repository.Repository, snapshots ...*history.Snapshot) *statement.Acceptance {
	t.Helper()
	var list []statement.Accepted
	for _, s := range snapshots {
		list = append(list, statement.Accepted{Number: s.Number, ID: s.ID})
	}
	x, err := r.Accept(t.Context(), "web-1", "web", list, "meant", now)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// wantSuspect demands which of some snapshots are suspect, and who accepted the
// others; a letter each: s suspect, h by the host, o by the owner, b by both.
func wantSuspect(t *testing.T, r *repository.Repository, want string, snapshots ...*history.Snapshot) {
	t.Helper()
	a, err := r.Acceptances(t.Context(), "web-1", "web")
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, s := range snapshots {
		host, owner := a.Host.Names(s.Number, s.ID), a.Owner.Names(s.Number, s.ID)
		letter := map[[2]bool]string{{false, false}: "s", {true, false}: "h", {false, true}: "o", {true, true}: "b"}[[2]bool{host, owner}]
		if a.Suspect(s) != (letter == "s") {
			t.Errorf("%s: suspect is %v, by %s", s.Ref(), a.Suspect(s), letter)
		}
		got += letter
	}
	if got != want {
		t.Errorf("accepted are %s, want %s", got, want)
	}
}

func TestAcceptance(t *testing.T) {
	t.Run("the host and the owner accept each for themselves", func(t *testing.T) {
		w := newWorld(t)
		h := w.m.host(t, w.store)
		first, a, b, c := commit(t, h, "web"), commitSuspect(t, h), commitSuspect(t, h), commitSuspect(t, h)
		host := w.m.open(t, w.store)
		if history.Flagged(first) || !history.Flagged(a) {
			t.Error("flagged is what is not, or the other way round")
		}
		wantSuspect(t, host, "sss", a, b, c)
		accept(t, host, a)
		if x := accept(t, w.operator(t), c); x.Serial != 2 || x.Certificate != nil || len(x.Accepted) != 1 {
			t.Errorf("the owner's says %+v", x)
		}
		if x := accept(t, host, b); x.Serial != 3 || len(x.Accepted) != 2 {
			t.Errorf("the host's second says %+v", x)
		}
		wantSuspect(t, w.operator(t), "hho", a, b, c)
		accept(t, w.operator(t), b)
		wantSuspect(t, host, "hbo", a, b, c)

		if s, err := host.NewestGood(t.Context(), "web-1", "web"); err != nil || s.Number != c.Number {
			t.Errorf("the newest good one is %v, %v", s, err)
		}
		commitSuspect(t, h)
		if s, err := host.NewestGood(t.Context(), "web-1", "web"); err != nil || s.Number != c.Number {
			t.Errorf("with a suspect one after it the newest good one is %v, %v", s, err)
		}
		if _, err := newMachine(t).open(t, w.store).Accept(t.Context(), "web-1", "web", []statement.Accepted{{Number: a.Number, ID: a.ID}}, "", now); err == nil {
			t.Error("a machine that is neither accepts")
		}
	})

	// Who can put objects, or took the host's old key, accepts nothing thereby.
	t.Run("what does not verify accepts nothing and blocks nothing", func(t *testing.T) {
		w := newWorld(t)
		h := w.m.host(t, w.store)
		a, b := commitSuspect(t, h), commitSuspect(t, h)
		x := accept(t, w.m.open(t, w.store), a)
		key := func(n uint64) string { return layout.KeyAcceptance("web-1", "web", n) }
		w.store.Overwrite(key(1), []byte("rubbish")) // beneath which it is found
		for n, object := range map[uint64][]byte{5: []byte("rubbish"), 7: x.Bytes(), layout.MaxNumber: x.Bytes()} {
			if err := w.store.Put(t.Context(), key(n), object, storage.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		r := w.m.open(t, w.store)
		wantSuspect(t, r, "hs", a, b)
		wantWarning(t, r, key(5))
		r = w.m.open(t, w.store)
		wantSuspect(t, r, "hs", a, b)
		wantWarning(t, r, "it belongs at "+key(1))
		if y := accept(t, w.m.open(t, w.store), b); y.Serial != 2 || y.Previous != x.Hash() {
			t.Errorf("the next one has serial %d after %x", y.Serial, y.Previous)
		}
		wantSuspect(t, w.m.open(t, w.store), "hh", a, b)

		again := machine{t.TempDir(), "reinstalled"}
		operator := again.open(t, w.store)
		operator.Unlock(w.id)
		if _, err := operator.Join(t.Context(), trust.JoinOptions{Host: "web-1", Reenrol: true, Now: now}); err != nil {
			t.Fatal(err)
		}
		wantSuspect(t, w.operator(t), "ss", a, b)
	})

	t.Run("is of one snapshot and of no other at its number", func(t *testing.T) {
		w := newWorld(t)
		a := commitSuspect(t, w.m.host(t, w.store))
		other := *a
		other.ID[0] ^= 1
		accept(t, w.m.open(t, w.store), &other)
		wantSuspect(t, w.m.open(t, w.store), "s", a)
	})
}
