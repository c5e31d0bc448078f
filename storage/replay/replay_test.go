package replay_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/replay"
	"knowngood/storage/seal"
	"knowngood/storage/storagetest"
)

func TestReplay(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"keeps the contract": func(t *testing.T) {
			storagetest.Run(t, func(*testing.T) storage.Store { return replay.New(storagetest.NewMemory(), &replay.Replies{}) },
				storagetest.Versions, storagetest.Locks, storagetest.Checksums)
		},
		"a listing is replayed once, and not when it is too old": testAListingIsReplayedOnce,
		"an index run that was put is replayed":                  testAnIndexRunThatWasPutIsReplayed,
		"of two processes the newer listing counts":              testTheNewerListingCounts,
		"statements are replayed, and other objects are not":     testStatementsAreReplayed,
	} {
		t.Run(name, test)
	}
}

// handed is what another process gets.
func handed(t *testing.T, r *replay.Replies) *replay.Replies {
	t.Helper()
	b, err := json.Marshal(r.Copy())
	if err != nil {
		t.Fatal(err)
	}
	other := &replay.Replies{}
	if err := json.Unmarshal(b, other); err != nil {
		t.Fatal(err)
	}
	return other
}

func keys(t *testing.T, s storage.Store, prefix string) (keys []string) {
	t.Helper()
	for o, err := range s.List(t.Context(), storage.ListOptions{Prefix: prefix}) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

func put(t *testing.T, s storage.Store, key string) {
	t.Helper()
	if err := s.Put(t.Context(), key, []byte(key), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

func run(generation uint64) string {
	return layout.KeyIndexRun("h", seal.DomainID{}, generation, [32]byte{byte(generation)})
}

var runs = layout.PrefixIndexRuns("h", seal.DomainID{})

func testAListingIsReplayedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for prefix, lasts := range map[string]time.Duration{layout.PrefixCertificates("h"): time.Minute, layout.PrefixEpochs: time.Hour, runs: 6 * time.Hour,
			layout.PrefixDeletions("h", seal.DomainID{}): 6 * time.Hour, layout.PrefixRoots("h", "web"): 0, layout.PrefixPacks("h", seal.DomainID{}): 0} {
			memory, replies := storagetest.NewMemory(), &replay.Replies{}
			put(t, memory, prefix+"a")
			asked := time.Now()
			if got := keys(t, replay.Record(memory, replies), prefix); len(got) != 1 {
				t.Errorf("%s: %q", prefix, got)
			}
			put(t, memory, prefix+"b")
			time.Sleep(lasts - time.Second)
			s := replay.New(memory, handed(t, replies))
			if at := replay.ListedAt(s, prefix); lasts > 0 && !at.Round(0).Equal(asked.Round(0)) {
				t.Errorf("%s was listed at %v, and counts from %v", prefix, asked, at)
			}
			want := 1
			if lasts == 0 {
				want = 2
			}
			if got := keys(t, s, prefix); len(got) != want {
				t.Errorf("%s, that may be replayed for %v: %q", prefix, lasts, got)
			}
			if replayed := replay.Distrust(s, prefix); replayed != (lasts > 0) {
				t.Errorf("%s was replayed: %v", prefix, replayed)
			}
			if got := keys(t, s, prefix); len(got) != 2 || replay.Distrust(s, prefix) {
				t.Errorf("%s, once more: %q", prefix, got)
			}
			time.Sleep(time.Second)
			old := replay.New(memory, handed(t, replies))
			if at := replay.ListedAt(old, prefix); !at.Equal(time.Now()) {
				t.Errorf("%s counts from %v, and is to be asked for", prefix, at)
			}
			if got := keys(t, old, prefix); len(got) != 2 {
				t.Errorf("%s, too old: %q", prefix, got)
			}
		}
	})
}

func testAnIndexRunThatWasPutIsReplayed(t *testing.T) {
	memory, replies := storagetest.NewMemory(), &replay.Replies{}
	put(t, memory, run(1))
	keys(t, replay.Record(memory, replies), runs)
	one, two := handed(t, replies), handed(t, replies)
	put(t, replay.New(memory, one), run(3))
	put(t, replay.New(memory, two), run(2))
	replies.Merge(one)
	replies.Merge(two)
	asked := storagetest.NewFaulty(memory)
	if got, want := keys(t, replay.New(asked, handed(t, replies)), runs), []string{run(3), run(2), run(1)}; !slices.Equal(got, want) {
		t.Errorf("replayed are %q, want %q", got, want)
	}
	if log := asked.Log(); len(log) > 0 {
		t.Errorf("the store was asked for %v", log)
	}
}

func testTheNewerListingCounts(t *testing.T) {
	memory, older := storagetest.NewMemory(), &replay.Replies{}
	put(t, memory, run(1))
	keys(t, replay.Record(memory, older), runs)
	if err := memory.Delete(t.Context(), run(1)); err != nil {
		t.Fatal(err)
	}
	newer := &replay.Replies{}
	put(t, memory, run(2))
	keys(t, replay.Record(memory, newer), runs)
	for _, order := range [][2]*replay.Replies{{older, newer}, {newer, older}} {
		merged := handed(t, order[0])
		merged.Merge(order[1])
		if got := keys(t, replay.New(memory, merged), runs); !slices.Equal(got, []string{run(2)}) {
			t.Errorf("replayed are %q", got)
		}
	}
}

func testStatementsAreReplayed(t *testing.T) {
	memory, replies := storagetest.NewFaulty(storagetest.NewMemory()), &replay.Replies{}
	kept := []string{layout.KeyDescriptor, layout.KeyCertificate("h", 1), layout.KeyEpoch(1)}
	all := append([]string{layout.KeyRoot("h", "web", 1)}, kept...)
	for _, key := range all {
		put(t, memory, key)
		if b, err := storage.Append(t.Context(), nil, replay.Record(memory, replies), key, 0, int64(len(key))); err != nil || string(b) != key {
			t.Fatalf("%s is %q, %v", key, b, err)
		}
	}
	if n := len(replies.Objects); n > 0 {
		t.Errorf("%d objects are kept that may be longer than what was read", n)
	}
	read := func(s storage.Store) (reads int) {
		t.Helper()
		before := len(memory.Log())
		for _, key := range all {
			body, err := s.Get(t.Context(), key, 0, 1000)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 2000)
			n, _ := body.Read(b) // which the next line compares
			if string(b[:n]) != key {
				t.Errorf("%s is %q", key, b[:n])
			}
			body.Close()
		}
		return len(memory.Log()) - before
	}
	if n := read(replay.Record(memory, replies)); n != len(all) {
		t.Errorf("%d objects were read from the store, want %d", n, len(all))
	}
	if n := read(replay.New(memory, handed(t, replies))); n != 1 {
		t.Errorf("%d objects were read from the store again, want the root alone", n)
	}
	if got := fmt.Sprint(len(replies.Objects)); got != fmt.Sprint(len(kept)) {
		t.Errorf("%s objects are kept", got)
	}
}
