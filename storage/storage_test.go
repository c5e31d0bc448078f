package storage_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"knowngood/storage"
	"knowngood/storage/storagetest"
)

func TestContract(t *testing.T) {
	t.Run("keys are segments of plain characters", testKeysAreSegmentsOfPlainCharacters)
	t.Run("a joined lock is as long and strong as both", testAJoinedLockIsAsLongAndStrongAsBoth)
	t.Run("a decorator has what it decorates has", testADecoratorHasWhatItDecoratesHas)
	t.Run("an error has what failed, where, and what to do", testAnErrorSaysWhatWhereAndWhatToDo)
}

func testKeysAreSegmentsOfPlainCharacters(t *testing.T) {
	for _, key := range []string{"a", "a/b", "A-Z.0_9=", "...", ".a", "a.", "-", strings.Repeat("s", 255)} {
		if err := storage.CheckKey(key); err != nil {
			t.Errorf("%q: %v", key, err)
		}
	}
	for _, key := range []string{"", "/", "a/", "/a", "a//b", ".", "..", "a/..", "a b", "ä", "a\x00", strings.Repeat("s", 256), strings.Repeat("s/", 320) + "s"} {
		if err := storage.CheckKey(key); !errors.Is(err, storage.ErrInvalidKey) {
			t.Errorf("%q: %v, want ErrInvalidKey", key, err)
		}
	}
}

func testAJoinedLockIsAsLongAndStrongAsBoth(t *testing.T) {
	now := time.Now()
	none := storage.Retention{}
	lock := func(m storage.RetentionMode, hours int) storage.Retention {
		return storage.Retention{Mode: m, Until: now.Add(time.Duration(hours) * time.Hour)}
	}
	c, g := storage.Compliance, storage.Governance
	for _, x := range []struct{ a, b, want storage.Retention }{
		{none, none, none},
		{none, lock(g, 1), lock(g, 1)},
		{lock(c, 1), none, lock(c, 1)},
		{lock(c, 1), lock(g, 2), lock(c, 2)},
		{lock(g, 2), lock(c, 1), lock(c, 2)},
		{lock(c, 2), lock(c, 1), lock(c, 2)},
		{lock(g, 1), lock(g, 2), lock(g, 2)},
	} {
		if have := x.a.Join(x.b); have != x.want {
			t.Errorf("%v joined with %v is %v, want %v", x.a, x.b, have, x.want)
		}
	}
}

// hiding is a decorator that forwards nothing itself.
type hiding struct{ storage.Store }

func (h hiding) Unwrap() storage.Store { return h.Store }

func testADecoratorHasWhatItDecoratesHas(t *testing.T) {
	memory := storagetest.NewMemory()
	if v, ok := storage.Capability[storage.Versioner](hiding{hiding{memory}}); !ok || v != storage.Versioner(memory) {
		t.Error("the capability was not found beneath two decorators")
	}
	faulty := storagetest.NewFaulty(hiding{memory})
	if v, ok := storage.Capability[storage.Versioner](hiding{faulty}); !ok || v != storage.Versioner(faulty) {
		t.Error("the forwarding decorator was passed over")
	}
	if _, ok := storage.Capability[storage.Versioner](storagetest.NewFaulty(storagetest.NewPlainMemory())); ok {
		t.Error("a decorator has versions where the store has none")
	}
}

func testAnErrorSaysWhatWhereAndWhatToDo(t *testing.T) {
	err := &storage.Error{Op: "put", Key: "a/b", Store: "file:///x", Err: storage.ErrFull, Hint: "free some space"}
	if have, want := err.Error(), "put a/b in file:///x: no space left in the store (free some space)"; have != want {
		t.Errorf("have %q, want %q", have, want)
	}
	if !errors.Is(err, storage.ErrFull) {
		t.Error("the sentinel is lost")
	}
}
