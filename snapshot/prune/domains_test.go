package prune_test

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"knowngood/internal/enginetest"
	"knowngood/snapshot/prune"
	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/storagetest"
)

// Whoever may put objects can make any number of folders that look like domains.
func TestFalseDomains(t *testing.T) {
	t.Run("are asked for many at once", func(t *testing.T) {
		log := storagetest.NewFaulty(storagetest.NewMemory())
		simulated(t, func() storage.Store { return log }, func(w *world) {
			const latency = 20 * time.Millisecond
			w.days(2)
			run := func() (requests int, took time.Duration, report *prune.Report) {
				log.Add(storagetest.Rule{Fault: storagetest.Delayed(latency)})
				defer log.Clear()
				before, began := len(log.Log()), time.Now()
				report, err := prune.Run(w.Ctx, w.host(), prune.Options{})
				w.check(err)
				return len(log.Log()) - before, time.Since(began), report
			}
			run()
			without, alone, _ := run()
			const count = 200
			for i := range count {
				sum := sha256.Sum256(fmt.Append(nil, i))
				id := seal.DomainID(sum[:len(seal.DomainID{})])
				w.put(layout.KeyPack(enginetest.Host, id, [32]byte{1}), []byte("rubbish"))
				w.put(layout.KeyManifest(enginetest.Host, id, [32]byte{2}), []byte("rubbish"))
			}
			for _, x := range []struct {
				what  string
				most  int // requests for a domain
				found func(prune.Domain) uint64
				next  time.Duration
			}{
				{"young", 4, func(d prune.Domain) uint64 { return d.Young.Objects }, 3 * day},
				{"announced", 4, func(d prune.Domain) uint64 { return d.Announced.Objects }, 3 * day},
				{"waiting", 3, func(d prune.Domain) uint64 { return d.Waiting.Objects }, 5 * day},
				{"deleted", 15, func(d prune.Domain) uint64 { return d.Deleted.Objects }, day},
			} {
				requests, took, report := run()
				t.Logf("%s: %d requests, %v", x.what, requests, took)
				objects := uint64(0)
				for _, d := range report.Domains {
					if d.ID != w.domain() {
						objects += x.found(d)
					}
				}
				if objects != 2*count {
					t.Errorf("%d objects are %s, want %d", objects, x.what, 2*count)
				}
				if more := requests - without; more > x.most*count || took > alone+time.Duration(more)*latency/8 {
					t.Errorf("%s: %d requests more in %v, %v without them", x.what, more, took, alone)
				}
				time.Sleep(x.next)
			}
			if _, took, report := run(); len(report.Domains) != 1 || took != alone {
				t.Errorf("%d domains in %v, not %v as before", len(report.Domains), took, alone)
			}
			w.Clean()
		})
	})
}
