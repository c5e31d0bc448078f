package objects

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/layout"
	"knowngood/storage/localstate"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// reportAgain is after what time an object that is still damaged is reported once
// more: a host reads reports within a day.
const reportAgain = 48 * time.Hour

// ReportDamage makes the next capture of a host examine objects of a domain that
// were found to be missing or damaged, and store again what they held. On that
// host they are noted in the state directory, and noted is true; elsewhere a
// report is put into the store, which takes the owner key. The error is
// trust.ErrNoUsableIdentity when the identity at hand does not open that.
func (r *Objects) ReportDamage(ctx context.Context, host string, domain seal.DomainID, objects []ID, now time.Time) (noted bool, err error) {
	own, err := r.t.Owns(host, domain)
	if err != nil {
		return false, err
	}
	if own {
		return true, r.damageNotes(domain).add(objects)
	}
	return false, r.damageReports(host, domain).put(ctx, objects, now)
}

// damageNotes are the objects of a domain of this host that were found to be
// damaged on the host itself: a file of a line each, the kind and the hash.
type damageNotes struct {
	state *localstate.State
	file  string
}

func (r *Objects) damageNotes(domain seal.DomainID) damageNotes {
	return damageNotes{r.t.State, r.t.State.OfStore(filepath.Join("damage", domain.String()))}
}

func (h *Holdings) notes() damageNotes { return h.repo.damageNotes(h.ID) }

// add notes objects.
func (n damageNotes) add(objects []ID) error {
	return n.change(func(noted map[ID]bool) {
		for _, id := range objects {
			noted[id] = true
		}
	})
}

// remove removes objects that were dealt with.
func (n damageNotes) remove(objects []ID) error {
	return n.change(func(noted map[ID]bool) {
		for _, id := range objects {
			delete(noted, id)
		}
	})
}

// Damaged reports whether a snapshot needs an object of which is known that it is
// missing or damaged: on its own host by what was found here and not dealt with yet,
// else by what was reported after a time. A drill that passed after a report restored
// every byte all the same.
func (r *Objects) Damaged(ctx context.Context, s *history.Snapshot, after time.Time) (bool, error) {
	if s.Body == nil {
		return false, nil
	}
	own, err := r.t.Owns(s.Host, s.Root.Domain)
	if err != nil {
		return false, err
	}
	known, err := r.damageReports(s.Host, s.Root.Domain).since(ctx, after)
	if err != nil {
		return false, err
	}
	if own {
		noted, err := r.damageNotes(s.Root.Domain).read()
		if err != nil {
			return false, err
		}
		maps.Copy(known, noted)
	}
	if len(known) == 0 {
		return false, nil
	}
	needs, err := r.Needs().Of(ctx, s)
	if authentic.Damaged(err) {
		return true, nil
	}
	for id := range needs {
		if known[id] {
			return true, nil
		}
	}
	return false, err
}

func (n damageNotes) change(do func(noted map[ID]bool)) error {
	return n.state.Locked(func() error {
		noted, err := n.read()
		if err != nil {
			return err
		}
		do(noted)
		return n.write(noted)
	})
}

// read returns what is noted. A line that cannot be read is ignored.
func (n damageNotes) read() (map[ID]bool, error) {
	b, err := n.state.Read(n.file)
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

func (n damageNotes) write(noted map[ID]bool) error {
	if len(noted) == 0 {
		return n.state.Remove(n.file)
	}
	var lines []string
	for id := range noted {
		lines = append(lines, fmt.Sprintf("%v %x\n", id.Kind, id.Hash))
	}
	slices.Sort(lines)
	return n.state.Write(n.file, []byte(strings.Join(lines, "")))
}

// damageReports are the statements by which an owner reports damaged objects to
// the host that they belong to.
type damageReports struct {
	repo   *Objects
	host   string
	domain seal.DomainID
}

func (r *Objects) damageReports(host string, domain seal.DomainID) damageReports {
	return damageReports{r, host, domain}
}

// put puts reports that the owner signs. They are not locked: they
// protect nothing, and who restores need not have the right to lock.
func (d damageReports) put(ctx context.Context, objects []ID, now time.Time) error {
	owner, err := d.repo.t.OwnerKey(ctx)
	if err != nil {
		return err
	}
	reported, err := d.since(ctx, now.Add(-reportAgain)) // which the host may not have examined yet
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
		x := &statement.DamageReport{Repository: d.repo.t.ID(), Host: d.host, Domain: d.domain, Made: now, Damaged: part}
		object, err := x.Encode(owner)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(object)
		if err := d.repo.t.Store().Put(ctx, layout.KeyDamageReport(d.host, d.domain, sum), object, storage.PutOptions{SHA256: sum}); err != nil {
			return err
		}
	}
	return nil
}

// since are the objects that were reported at a time, by the store's clock, or later:
// nobody else knows what their host found out about them.
func (d damageReports) since(ctx context.Context, at time.Time) (map[ID]bool, error) {
	reported := map[ID]bool{}
	for o, err := range d.repo.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixDamageReports(d.host, d.domain)}) {
		if errors.Is(err, storage.ErrDenied) {
			return reported, nil
		}
		if err != nil {
			return nil, err
		}
		_, _, hash, ok := layout.ParseDamageReportKey(o.Key)
		if !ok || o.Modified.Before(at) {
			continue
		}
		report, err := d.read(ctx, o, hash)
		if err != nil {
			continue // what does not count for the host counts for nobody
		}
		for _, o := range report.Damaged {
			reported[ID{Kind: o.Kind, Hash: o.Hash}] = true
		}
	}
	return reported, nil
}

// readNew reads the reports that are not known yet. What does not verify counts as
// read, after a warning.
func (d damageReports) readNew(ctx context.Context, known map[[32]byte]bool) (objects map[ID]bool, reports [][32]byte, err error) {
	objects = map[ID]bool{}
	for o, err := range d.repo.t.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixDamageReports(d.host, d.domain)}) {
		if err != nil {
			return nil, nil, err
		}
		_, _, hash, ok := layout.ParseDamageReportKey(o.Key)
		if !ok || known[hash] {
			continue
		}
		report, err := d.read(ctx, o, hash)
		if authentic.Damaged(err) || errors.Is(err, wire.ErrVersion) || errors.Is(err, storage.ErrNotFound) {
			d.repo.t.Warn(fmt.Errorf("a damage report counts for nothing: %w", err))
		} else if err != nil {
			return nil, nil, err
		}
		reports = append(reports, hash)
		if report != nil {
			for _, o := range report.Damaged {
				objects[ID{Kind: o.Kind, Hash: o.Hash}] = true
			}
		}
	}
	return objects, reports, nil
}

func (d damageReports) read(ctx context.Context, o storage.Object, hash [32]byte) (*statement.DamageReport, error) {
	object, err := d.repo.t.Read.Hashed("damage report", trust.MaxStatement).Whole(ctx, nil, o.Key, hash, o.Size)
	if err != nil {
		return nil, err
	}
	report, err := statement.ParseDamageReport(object)
	if errors.Is(err, wire.ErrVersion) {
		return nil, fmt.Errorf("%s: %w", o.Key, err)
	}
	if err == nil {
		err = report.Verify(d.repo.t.ID(), d.repo.t.Descriptor().Owner)
	}
	if err == nil && (report.Host != d.host || report.Domain != d.domain) {
		err = fmt.Errorf("it is about domain %v of host %s", report.Domain, report.Host)
	}
	if err != nil {
		return nil, &authentic.DamageError{Key: o.Key, What: "damage report", Err: err}
	}
	return report, nil
}
