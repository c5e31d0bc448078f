package prune_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/internal/wire"
	"knowngood/snapshot/prune"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/localstate"
	"knowngood/storage/pack"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"

	"github.com/klauspost/compress/zstd"
)

// What somebody who can write to the store, or holds a host's key, tries in vain.
func TestAttacksThatFail(t *testing.T) {
	m := storagetest.NewMemory()
	simulated(t, func() storage.Store { return m }, func(w *world) {
		verdict := func(name string, ok bool, detail any) {
			t.Helper()
			if !ok {
				t.Errorf("%s: %v", name, detail)
			}
		}
		for range 3 {
			w.write("file", 1<<20)
			w.capture("web")
			time.Sleep(time.Hour)
		}
		w.capture("db")
		r := w.host()
		h, err := r.Host(w.Ctx)
		w.check(err)
		desc := r.Descriptor()
		root2 := w.copyOf(key(2))

		// statements
		mall := bytes.Clone(root2)
		s := mall[len(mall)-32:]
		le := func(b []byte) *big.Int {
			c := bytes.Clone(b)
			for i, j := 0, len(c)-1; i < j; i, j = i+1, j-1 {
				c[i], c[j] = c[j], c[i]
			}
			return new(big.Int).SetBytes(c)
		}
		L, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
		x := new(big.Int).Add(le(s), L).FillBytes(make([]byte, 32))
		for i := range 32 {
			s[i] = x[31-i]
		}
		p, err := statement.ParseRoot(mall)
		if err == nil {
			err = statement.CheckRootCertificate(p, nil, desc.Owner, r.ID())
		}
		verdict("signature malleability S+L", errors.Is(err, statement.ErrSignature), err)

		_, err = statement.ParseTombstone(root2)
		verdict("type confusion: a root as a tombstone", err != nil, err)
		kind := bytes.Clone(root2)
		kind[4] = byte(wire.KindTombstone)
		_, err = statement.ParseTombstone(kind)
		verdict("type confusion: kind byte changed", err != nil, err)
		_, err = statement.ParseRoot(append(bytes.Clone(root2), 0))
		verdict("bytes after a statement", err != nil, err)
		_, err = statement.ParseRoot(root2[:len(root2)-1])
		verdict("a statement cut short", err != nil, err)

		_, evil, _ := ed25519.GenerateKey(nil)
		own := *h.Certificate
		own.Serial = 2
		b, err := own.Encode(evil)
		w.check(err)
		c, _ := statement.ParseCertificate(b)
		verdict("a certificate signed by somebody else", c.Verify(r.ID(), desc.Owner) != nil, c.Verify(r.ID(), desc.Owner))
		b, err = own.Encode(h.SigningKey())
		w.check(err)
		c, _ = statement.ParseCertificate(b)
		verdict("a certificate that the host signs for itself", c.Verify(r.ID(), desc.Owner) != nil, "")
		w.put(layout.KeyCertificate("other", 1), w.copyOf(layout.KeyCertificate("h", 1)))
		rr := w.Bare()
		_, err = rr.Head(w.Ctx, "other", "web")
		verdict("a certificate copied to another host's place", err != nil, err)

		// roots out of place
		w.put(layout.KeyRoot(enginetest.Host, "db", 9), root2)
		sn, err := w.Bare().Head(w.Ctx, enginetest.Host, "db")
		verdict("a root of web replayed as db@9", sn == nil && authentic.Damaged(err), err)
		m.Forget(layout.KeyRoot(enginetest.Host, "db", 9))
		w.put(layout.KeyRoot("other", "web", 1), w.copyOf(key(1)))
		_, err = w.Bare().Head(w.Ctx, "other", "web")
		verdict("a root replayed under another host", authentic.Damaged(err), err)
		m.Forget(layout.KeyRoot("other", "web", 1))
		m.Forget(layout.KeyCertificate("other", 1))
		w.put(key(50), root2)
		_, err = w.Bare().Head(w.Ctx, enginetest.Host, "web")
		verdict("an old root replayed as web@50", authentic.Damaged(err), err)
		m.Forget(key(50))

		// roll-back, with memory
		state := treetest.TempDir(t)
		q := w.Open(state)
		_, err = q.Head(w.Ctx, enginetest.Host, "web")
		w.check(err)
		saved := w.copyOf(key(3))
		m.Forget(key(3))
		_, err = w.Open(state).Head(w.Ctx, enginetest.Host, "web")
		var tamper *authentic.TamperError
		verdict("the newest root removed, for a machine with memory", errors.As(err, &tamper), err)
		w.put(key(3), saved)
		w.check(m.Delete(w.Ctx, key(3)))
		sn, err = w.Bare().Head(w.Ctx, enginetest.Host, "web")
		verdict("a delete marker over the newest root, no memory", err == nil && sn.Number == 3, err)
		m.Forget(key(3))
		w.put(key(3), saved)
		m.Forget(key(2))
		var errs []error
		for _, err := range w.Bare().Snapshots(w.Ctx, enginetest.Host, "web") {
			if err != nil {
				errs = append(errs, err)
			}
		}
		verdict("a root removed from the middle", len(errs) == 1, errs)
		w.put(key(2), root2)

		// a fork signed with the host's key, without versions to put it under
		forged, _ := w.forge(2, sha256.Sum256(w.copyOf(key(1))), mustBody(w, 3), time.Now())
		m.Forget(key(2))
		w.put(key(2), forged)
		errs = nil
		for _, err := range w.Bare().Snapshots(w.Ctx, enginetest.Host, "web") {
			if err != nil {
				errs = append(errs, err)
			}
		}
		verdict("one forged root in place of a real one, no versions", len(errs) == 1 && errors.As(errs[0], &tamper), errs)
		m.Forget(key(2))
		w.put(key(2), root2)

		// tombstones
		tomb := func(n ...uint64) *statement.Tombstone {
			return &statement.Tombstone{Repository: r.ID(), Host: h.Name, Environment: "web", Serial: 1, Forgotten: statement.NumbersOf(n...), Made: time.Now(), Certificate: h.Certificate}
		}
		b, err = tomb(1, 2, 3).Encode(h.SigningKey())
		w.check(err)
		w.put(layout.KeyTombstone("h", "web", 1), b)
		sn, err = w.Bare().Head(w.Ctx, "h", "web")
		verdict("a tombstone for the newest snapshot too", err == nil && sn.Number == 3, err)
		m.Forget(layout.KeyTombstone("h", "web", 1))
		w.put(layout.KeyTombstone("h", "db", 1), b)
		ts, err := w.Bare().Tombstone(w.Ctx, "h", "db")
		verdict("a tombstone of web put at db", ts == nil, err)
		m.Forget(layout.KeyTombstone("h", "db", 1))
		b, err = tomb(1).Encode(evil)
		w.check(err)
		w.put(layout.KeyTombstone("h", "web", 1), b)
		ts, err = w.Bare().Tombstone(w.Ctx, "h", "web")
		verdict("a tombstone signed by somebody else", ts == nil, err)
		m.Forget(layout.KeyTombstone("h", "web", 1))

		// epochs
		sec, _ := seal.NewEpochSecret()
		e := &statement.Epoch{Repository: r.ID(), Number: 2, PublicKey: sec.Public(), Recipients: []string{"age1evil"}, Created: time.Now()}
		for name, key := range map[string]ed25519.PrivateKey{"a host": h.SigningKey(), "the attacker": evil} {
			b, err = e.Encode(key)
			w.check(err)
			w.put(layout.KeyEpoch(2), b)
			got, err := w.Open("").CurrentEpoch(w.Ctx)
			verdict("an epoch with the attacker as recipient, signed by "+name, err == nil && got.ID != sec.ID, err)
			m.Forget(layout.KeyEpoch(2))
		}

		// descriptor
		d := *desc
		d.Owner = evil.Public().(ed25519.PublicKey)
		b, err = d.Encode(evil)
		w.check(err)
		orig := w.copyOf(layout.KeyDescriptor)
		m.Forget(layout.KeyDescriptor)
		w.put(layout.KeyDescriptor, b)
		_, err = repository.Open(w.Ctx, m, repository.Options{Options: trust.Options{Pins: []localstate.Pin{{Descriptor: w.Pin}}}})
		verdict("another owner's descriptor, for a machine with the pin", errors.As(err, &tamper), err)
		_, err = repository.Open(w.Ctx, m, repository.Options{Options: trust.Options{StateDir: w.State, URL: "test"}})
		verdict("another owner's descriptor, for a machine that remembers", errors.As(err, &tamper), err)
		m.Forget(layout.KeyDescriptor)
		w.put(layout.KeyDescriptor, orig)

		// frames
		z, _ := zstd.NewWriter(nil)
		bomb := append([]byte{1}, wire.AppendUvarint(nil, 1000)...)
		bomb = z.EncodeAll(make([]byte, 512<<20), bomb)
		_, err = pack.NewDecompressor().Content(nil, wire.KindPack, bomb)
		verdict("a zstd bomb of 512 MiB in a frame that says 1000 bytes", err != nil, err)
		bomb = append([]byte{1}, wire.AppendUvarint(nil, 1<<40)...)
		_, err = pack.NewDecompressor().Content(nil, wire.KindPack, bomb)
		verdict("a frame that says a terabyte", err != nil, err)

		// packs
		var packKey string
		for _, k := range m.Keys() {
			if _, _, _, ok := layout.ParsePackKey(k); ok {
				packKey = k
			}
		}
		body := w.copyOf(packKey)
		flip := bytes.Clone(body)
		flip[100] ^= 1
		m.Overwrite(packKey, flip)
		rr, sn, err = w.Snapshot("web@3")
		w.check(err)
		err = rr.Whole(w.Ctx, sn)
		verdict("a bit flipped in a pack, put over it (versions)", err == nil, err)
		m.Forget(packKey)
		w.put(packKey, flip)
		report, _ := prune.Run(w.Ctx, w.Bare(), prune.Options{})
		verdict("prune with a damaged pack deletes nothing", len(report.Domains) > 0 && report.Domains[0].Deleted.Objects == 0, report.Blocked)
		m.Forget(packKey)
		w.put(packKey, body)

		// false deletions, by the host's key, of what is needed
		w.announceAll()
		time.Sleep(30 * day)
		before, _ := w.stored()
		w.owner()
		after, _ := w.stored()
		verdict("announcing what is needed, a month before", before == after, fmt.Sprint(before, after))
		dd, _ := w.host().Deletions(w.Ctx, enginetest.Host, h.Domain.ID)
		del := &statement.Deletion{Repository: r.ID(), Host: "h", Domain: h.Domain.ID, Serial: dd.Newest + 1, Since: dd.Newest + 1, Made: time.Now(), Certificate: h.Certificate}
		for id := range dd.All() {
			del.Deleted = append(del.Deleted, statement.Object{Kind: id.Kind, Hash: id.Hash})
		}
		slices.SortFunc(del.Deleted, statement.CompareObjects)
		b, err = del.Encode(h.SigningKey())
		w.check(err)
		w.put(layout.KeyDeletion("h", h.Domain.ID, del.Serial), b)
		time.Sleep(30 * day)
		w.owner()
		after, _ = w.stored()
		verdict("calling what is needed deleted already", before == after, fmt.Sprint(before, after))
	})
}

func mustBody(w *world, n uint64) *statement.RootBody {
	_, s, err := w.Snapshot(fmt.Sprintf("web@%d", n))
	w.check(err)
	return s.Body
}
