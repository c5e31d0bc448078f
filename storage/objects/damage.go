package objects

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/inventory"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// examinedAtOnce is how many objects are fetched at once to be compared with
// their names. None is held in memory.
const examinedAtOnce = 4

// reportAgain is after what time an object that is still damaged is reported once
// more: a host looks at reports within a day.
const reportAgain = 48 * time.Hour

// damageFile is where objects are noted that were found to be damaged on the
// host itself: a line each, the kind and the hash.
func (r *Objects) damageFile(domain seal.DomainID) string {
	return r.t.State.OfStore(filepath.Join("damage", domain.String()))
}

// TellHost tells a host that objects of a domain were found to be missing or
// damaged, so that its next run looks at them and stores again what they held.
// On that host they are noted in the state directory, and noted is true;
// elsewhere a report is put into the store, which takes the owner key. The
// error is trust.ErrNoUsableIdentity when the identity at hand does not open that.
func (r *Objects) TellHost(ctx context.Context, host string, domain seal.DomainID, objects []ID, now time.Time) (noted bool, err error) {
	own, err := r.t.Owns(host, domain)
	if err != nil {
		return false, err
	}
	if own {
		return true, r.noteDamage(domain, objects)
	}
	return false, r.reportDamage(ctx, host, domain, objects, now)
}

// noteDamage adds to what is noted.
func (r *Objects) noteDamage(domain seal.DomainID, objects []ID) error {
	return r.t.State.Locked(func() error {
		noted, err := r.notedDamage(domain)
		if err != nil {
			return err
		}
		for _, id := range objects {
			noted[id] = true
		}
		return r.writeDamage(domain, noted)
	})
}

// notedDamage is what is noted. A line that cannot be read is passed over.
func (r *Objects) notedDamage(domain seal.DomainID) (map[ID]bool, error) {
	b, err := r.t.State.Read(r.damageFile(domain))
	noted := map[ID]bool{}
	for line := range strings.Lines(string(b)) {
		kind, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		hash, herr := hex.DecodeString(text)
		if herr != nil || len(hash) != 32 {
			continue
		}
		for _, k := range [...]wire.Kind{wire.KindPack, wire.KindManifest} {
			if k.String() == kind {
				noted[ID{Kind: k, Hash: [32]byte(hash)}] = true
			}
		}
	}
	return noted, err
}

func (r *Objects) writeDamage(domain seal.DomainID, noted map[ID]bool) error {
	if len(noted) == 0 {
		return r.t.State.Remove(r.damageFile(domain))
	}
	var lines []string
	for id := range noted {
		lines = append(lines, fmt.Sprintf("%v %x\n", id.Kind, id.Hash))
	}
	slices.Sort(lines)
	return r.t.State.Write(r.damageFile(domain), []byte(strings.Join(lines, "")))
}

// forgetDamage takes out what was dealt with.
func (r *Objects) forgetDamage(domain seal.DomainID, objects []ID) error {
	return r.t.State.Locked(func() error {
		noted, err := r.notedDamage(domain)
		if err != nil {
			return err
		}
		for _, id := range objects {
			delete(noted, id)
		}
		return r.writeDamage(domain, noted)
	})
}

// reportDamage puts reports that the owner signs. They are not locked: they
// protect nothing, and who restores need not have the right to lock.
func (r *Objects) reportDamage(ctx context.Context, host string, domain seal.DomainID, objects []ID, now time.Time) error {
	owner, err := r.t.OwnerKey(ctx)
	if err != nil {
		return err
	}
	reported, err := r.reportedOfLate(ctx, host, domain, now)
	if err != nil {
		return err
	}
	var list []statement.Object
	for _, id := range objects {
		if !reported[id] {
			list = append(list, statement.Object{Kind: id.Kind, Hash: id.Hash})
		}
	}
	slices.SortFunc(list, statement.CompareObjects)
	list = slices.Compact(list)
	for part := range slices.Chunk(list, statement.MaxDeletionObjects) {
		x := &statement.DamageReport{Repository: r.t.ID(), Host: host, Domain: domain, Made: now, Damaged: part}
		object, err := x.Encode(owner)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(object)
		if err := r.t.Store().Put(ctx, layout.KeyDamageReport(host, domain, sum), object, storage.PutOptions{SHA256: sum}); err != nil {
			return err
		}
	}
	return nil
}

// reportedOfLate are the objects that were reported and that the host may not have
// looked at yet: nobody else knows whether it did.
func (r *Objects) reportedOfLate(ctx context.Context, host string, domain seal.DomainID, now time.Time) (map[ID]bool, error) {
	reported := map[ID]bool{}
	for o, err := range r.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixDamageReports(host, domain)}) {
		if errors.Is(err, storage.ErrDenied) {
			return reported, nil
		}
		if err != nil {
			return nil, err
		}
		_, _, hash, ok := layout.ParseDamageReportKey(o.Key)
		if !ok || now.Sub(o.Modified) > reportAgain {
			continue
		}
		report, err := r.damageReport(ctx, host, domain, o.Key, hash)
		if err != nil {
			continue // what does not count for the host counts for nobody
		}
		for _, d := range report.Damaged {
			reported[ID{Kind: d.Kind, Hash: d.Hash}] = true
		}
	}
	return reported, nil
}

// reportedDamage reads the damage reports that were not dealt with yet. What
// does not verify is warned of once, and counts as dealt with.
func (x *Index) reportedDamage(ctx context.Context) (objects map[ID]bool, reports [][32]byte, err error) {
	known := map[[32]byte]bool{}
	x.inventory.with(func(v *inventory.Inventory) { known = maps.Clone(v.Reports) })
	objects = map[ID]bool{}
	for o, err := range x.repo.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixDamageReports(x.host, x.domain.ID)}) {
		if err != nil {
			return nil, nil, err
		}
		_, _, hash, ok := layout.ParseDamageReportKey(o.Key)
		if !ok || known[hash] {
			continue
		}
		report, err := x.repo.damageReport(ctx, x.host, x.domain.ID, o.Key, hash)
		if authentic.Damaged(err) || errors.Is(err, wire.ErrNewer) || errors.Is(err, storage.ErrNotFound) {
			x.repo.t.Warn(fmt.Errorf("a damage report counts for nothing: %w", err))
		} else if err != nil {
			return nil, nil, err
		}
		reports = append(reports, hash)
		if report != nil {
			for _, d := range report.Damaged {
				objects[ID{Kind: d.Kind, Hash: d.Hash}] = true
			}
		}
	}
	return objects, reports, nil
}

func (r *Objects) damageReport(ctx context.Context, host string, domain seal.DomainID, key string, hash [32]byte) (*statement.DamageReport, error) {
	object, err := r.t.Read.Hashed("damage report", trust.MaxStatement).Whole(ctx, nil, key, hash)
	if err != nil {
		return nil, err
	}
	report, err := statement.ParseDamageReport(object)
	if errors.Is(err, wire.ErrNewer) {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	if err == nil {
		err = report.Verify(r.t.ID(), r.t.Descriptor().Owner)
	}
	if err == nil && (report.Host != host || report.Domain != domain) {
		err = fmt.Errorf("it is about domain %v of host %s", report.Domain, report.Host)
	}
	if err != nil {
		return nil, &authentic.DamageError{Key: key, What: "damage report", Err: err}
	}
	return report, nil
}

// followHints looks at the objects that somebody found to be damaged: here,
// where they are noted, or elsewhere, by reports. Those that are take effect as
// lost ones do.
func (x *Index) followHints(ctx context.Context, noted map[ID]bool) error {
	objects, reports, err := x.reportedDamage(ctx)
	if err != nil {
		return err
	}
	maps.Copy(objects, noted)
	unread, err := x.examine(ctx, slices.Collect(maps.Keys(objects)), nil)
	if err != nil {
		return err
	}
	for _, id := range unread {
		delete(noted, id)
	}
	if len(noted) > 0 {
		if err := x.repo.forgetDamage(x.domain.ID, slices.Collect(maps.Keys(noted))); err != nil {
			x.repo.t.Warn(err)
		}
	}
	if len(unread) == 0 && len(reports) > 0 {
		x.inventory.with(func(v *inventory.Inventory) {
			for _, hash := range reports {
				v.Reports[hash] = true
			}
			x.inventory.unsaved = true
		})
		x.saveInventory()
	}
	return nil
}

// examine fetches objects and compares their SHA-256 with their names. Those
// that differ are lost from now on. What cannot be read now is warned of and
// returned: nothing is known of it. done, when set, is told how many bytes were
// read, concurrently.
func (x *Index) examine(ctx context.Context, ids []ID, done func(bytes int)) (unread []ID, err error) {
	var mu sync.Mutex
	var damaged []loss
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(examinedAtOnce)
	for _, id := range ids {
		there := false
		x.inventory.with(func(v *inventory.Inventory) { _, there = v.Size(id) })
		if !there {
			continue // a loss of its own, if something refers to it
		}
		g.Go(func() error {
			key := deletion.Key(x.host, x.domain.ID, ID{Kind: id.Kind, Hash: id.Hash})
			same, err := x.hasItsName(gctx, key, id, done)
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				unread = append(unread, id)
				x.repo.t.Warn(fmt.Errorf("whether an object is damaged could not be looked at: %w", err))
			case !same:
				damaged = append(damaged, loss{inventory.Object{ID: id}, inventory.Damaged})
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	x.lose(damaged)
	return unread, nil
}

// DamagedObjects are those of a domain of this host that are in the store and that
// it found to be damaged, as far as it remembers.
func (r *Objects) DamagedObjects(domain seal.DomainID) map[ID]bool {
	damaged := map[ID]bool{}
	b, err := r.t.State.Read(r.inventoryOf(domain).name)
	if err != nil || b == nil {
		return damaged
	}
	if v, err := inventory.Parse(b); err == nil {
		for id := range v.Spoiled() {
			damaged[id] = true
		}
	}
	return damaged
}

// hasItsName reports whether the bytes of an object are those of its name.
func (x *Index) hasItsName(ctx context.Context, key string, id ID, done func(bytes int)) (bool, error) {
	body, err := x.repo.t.Store().Get(ctx, key, 0, -1)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer body.Close()
	sum := sha256.New()
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		sum.Write(buf[:n])
		if done != nil {
			done(n)
		}
		if err == io.EOF {
			return [32]byte(sum.Sum(nil)) == id.Hash, nil
		}
		if err != nil {
			return false, err
		}
	}
}
