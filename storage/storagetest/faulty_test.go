package storagetest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"knowngood/storage"
	"knowngood/storage/storagetest"
)

func TestFaulty(t *testing.T) {
	t.Run("keeps the contract without rules", testAFaultyStoreWithoutRulesKeepsTheContract)
	t.Run("faults have the effect that they name", testFaultsHaveTheEffectTheySay)
	t.Run("bodies are damaged where the rule has it", testBodiesAreDamagedWhereTheRuleSays)
	t.Run("a stall lasts until the context ends", testAStallLastsUntilTheContextEnds)
	t.Run("a stopped store stays stopped", testAStoppedStoreStaysStopped)
	t.Run("listings and capabilities fail too", testListingsAndCapabilitiesFailToo)
}

func testAFaultyStoreWithoutRulesKeepsTheContract(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store {
		return storagetest.NewFaulty(storagetest.NewMemory())
	}, storagetest.Versions, storagetest.Locks, storagetest.Checksums)
	storagetest.Run(t, func(*testing.T) storage.Store { return storagetest.NewFaulty(storagetest.NewPlainMemory()) }, storagetest.Checksums)
}

func testFaultsHaveTheEffectTheySay(t *testing.T) {
	for _, c := range []struct {
		name    string
		fault   storagetest.Fault
		want    error
		created bool
	}{
		{"error before", storagetest.FailBefore(nil), storagetest.ErrInjected, false},
		{"error after", storagetest.FailAfter(io.ErrClosedPipe), io.ErrClosedPipe, true},
		{"lost reply", storagetest.LostReply(), storage.ErrUnavailable, true},
		{"throttled", storagetest.Throttled(), storage.ErrUnavailable, false},
		{"disk full", storagetest.DiskFull(), storage.ErrFull, false},
	} {
		memory := storagetest.NewMemory()
		s := storagetest.NewFaulty(memory, storagetest.Rule{Op: storagetest.Put, Prefix: "packs/", Nth: 2, Fault: c.fault})
		for i, key := range []string{"packs/1", "other", "packs/2", "packs/3"} {
			err := s.Put(t.Context(), key, []byte("x"), storage.PutOptions{})
			if i == 2 != errors.Is(err, c.want) || i != 2 && err != nil {
				t.Errorf("%s: put %s: %v", c.name, key, err)
			}
		}
		if created := len(memory.Keys()) == 4; created != c.created {
			t.Errorf("%s: the store holds %v", c.name, memory.Keys())
		}
	}
}

func testBodiesAreDamagedWhereTheRuleSays(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789"), 1000)
	flippedAt := func(i int) []byte {
		b := bytes.Clone(body)
		b[i] ^= 1
		return b
	}
	for _, c := range []struct {
		fault storagetest.Fault
		want  []byte
		err   error
	}{
		{storagetest.Truncated(0), nil, nil},
		{storagetest.Truncated(777), body[:777], nil},
		{storagetest.FlippedBit(0), flippedAt(0), nil},
		{storagetest.FlippedBit(9999), flippedAt(9999), nil},
		{storagetest.FlippedBit(10_000), body, nil},
		{storagetest.Broken(5000), body[:5000], io.ErrUnexpectedEOF},
	} {
		s := storagetest.NewFaulty(storagetest.NewMemory())
		if err := s.Put(t.Context(), "k", body, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		s.Add(storagetest.Rule{Op: storagetest.Get, Fault: c.fault})
		r, err := s.Get(t.Context(), "k", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		have, err := io.ReadAll(r)
		if !bytes.Equal(have, c.want) || !errors.Is(err, c.err) {
			t.Errorf("read %d bytes, %v; want %d, %v", len(have), err, len(c.want), c.err)
		}
	}
}

func testAStallLastsUntilTheContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storagetest.NewFaulty(storagetest.NewMemory())
		if err := s.Put(t.Context(), "k", make([]byte, 40<<10), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		s.Add(storagetest.Rule{Nth: 1, Fault: storagetest.Stalled(3)})
		s.Add(storagetest.Rule{Nth: 2, Fault: storagetest.Slow(4 << 10)})
		s.Add(storagetest.Rule{Nth: 3, Fault: storagetest.Delayed(time.Hour)})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		if _, err := storage.Append(ctx, nil, s, "k", 0, -1); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Minute {
			t.Errorf("a stalled read ended with %v after %v", err, time.Since(begin))
		}
		begin = time.Now()
		if _, err := storage.Append(t.Context(), nil, s, "k", 0, -1); err != nil || time.Since(begin).Round(time.Second) != 9*time.Second {
			t.Errorf("a slow read of ten pieces ended with %v after %v", err, time.Since(begin))
		}
		begin = time.Now()
		if _, err := storage.Append(t.Context(), nil, s, "k", 0, -1); err != nil || time.Since(begin) != time.Hour {
			t.Errorf("a delayed read ended with %v after %v", err, time.Since(begin))
		}
	})
}

func testAStoppedStoreStaysStopped(t *testing.T) {
	for _, effect := range []bool{false, true} {
		memory := storagetest.NewMemory()
		s := storagetest.NewFaulty(memory)
		s.StopAt(3, effect)
		for i := range 5 {
			err := s.Put(t.Context(), fmt.Sprint(i), nil, storage.PutOptions{})
			if i < 2 != (err == nil) || err != nil && !errors.Is(err, storagetest.ErrStopped) {
				t.Errorf("operation %d: %v", i+1, err)
			}
		}
		want := 2
		if effect {
			want = 3
		}
		if have := memory.Keys(); len(have) != want {
			t.Errorf("stopped at the third operation, effect %v: %v were created", effect, have)
		}
		if log := s.Log(); len(log) != 5 || log[4] != (storagetest.Operation{Op: storagetest.Put, Key: "4"}) {
			t.Errorf("the log is %v", log)
		}
		s.Clear()
		if err := s.Put(t.Context(), "5", nil, storage.PutOptions{}); err != nil {
			t.Errorf("after Clear: %v", err)
		}
	}
}

func testListingsAndCapabilitiesFailToo(t *testing.T) {
	s := storagetest.NewFaulty(storagetest.NewMemory())
	for i := range 5 {
		if err := s.Put(t.Context(), fmt.Sprint(i), nil, storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	list := func() (n int, err error) {
		for _, err = range s.List(t.Context(), storage.ListOptions{}) {
			if err == nil {
				n++
			}
		}
		return n, err
	}
	s.Add(storagetest.Rule{Op: storagetest.List, Nth: 1, Fault: storagetest.Truncated(2)})
	s.Add(storagetest.Rule{Op: storagetest.List, Nth: 2, Fault: storagetest.FailAfter(nil)})
	s.Add(storagetest.Rule{Op: storagetest.GetVersion, Fault: storagetest.FailBefore(nil)})
	s.Add(storagetest.Rule{Op: storagetest.ListOfKey, Fault: storagetest.FailBefore(nil)})
	s.Add(storagetest.Rule{Op: storagetest.Retain, Fault: storagetest.FailBefore(nil)})
	s.Add(storagetest.Rule{Op: storagetest.Retention, Fault: storagetest.FailBefore(nil)})
	if n, err := list(); n != 2 || err != nil {
		t.Errorf("a truncated listing has %d, %v", n, err)
	}
	if n, err := list(); n != 5 || !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("a listing that fails at its end has %d, %v", n, err)
	}
	v, _ := storage.Capability[storage.Versioner](s)
	if _, err := v.GetVersion(t.Context(), "0", "", 0, -1); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("get version: %v", err)
	}
	for _, err := range v.Versions(t.Context(), "0") {
		if !errors.Is(err, storagetest.ErrInjected) {
			t.Errorf("versions: %v", err)
		}
	}
	r, _ := storage.Capability[storage.Retainer](s)
	if err := r.Retain(t.Context(), "0", "", storage.Retention{}); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("retain: %v", err)
	}
	if _, err := r.Retention(t.Context(), "0", ""); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("retention: %v", err)
	}
}
