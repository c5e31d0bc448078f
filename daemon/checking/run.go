package checking

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/internal/wire"
	"knowngood/snapshot/check"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/trust"
)

// Bounds of a check.
const (
	mostSuspects = 200 // with so many, no further data is read
	mostNotes    = 5
	saveEvery    = 32 << 20 // bytes that are read again at most after a crash
)

// Open opens the repository of a configuration, which reports to findings.
type Open func(ctx context.Context, c *configs.Config, findings *authentic.Findings) (*repository.Repository, error)

// Options of one check.
type Options struct {
	Config *configs.Config
	Host   string // whose objects are checked: this machine
	Began  time.Time
	Next   time.Time // when the check is due after this one; zero: unknown
	// Open opens the repository only for this check, Unlocked with the identity of
	// the configuration.
	Open, Unlocked Open
	Progress       *check.Progress
	Log            *zap.Logger
}

// run is one check.
type run struct {
	Options
	s      *State
	out    *report.Run
	repo   *repository.Repository
	sealed bool // without an identity
	notes  []string

	findings authentic.Findings // of repo
}

// Run checks what is stored, and fills in out. Damage is an error.
func (s *State) Run(ctx context.Context, o Options, out *report.Run) error {
	k := &run{Options: o, s: s, out: out}
	if err := k.open(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	s.of(k.repo.ID())
	s.mu.Unlock()

	if err := k.readData(ctx); err != nil {
		return err
	}
	return k.structure(ctx)
}

// open opens the repository; with the identity where one is configured and works
// without a question. The check has a repository of its own because its warnings
// are findings.
func (k *run) open(ctx context.Context) (err error) {
	if k.Config.Identity != "" && k.Unlocked != nil {
		if k.repo, err = k.Unlocked(ctx, k.Config, &k.findings); err == nil {
			return nil
		}
		k.note("the identity cannot be used, so the lists of files were not checked: %v", err)
	}
	k.sealed = true
	k.repo, err = k.Open(ctx, k.Config, &k.findings)
	return err
}

func (k *run) note(format string, args ...any) {
	k.notes = append(k.notes, shortened(fmt.Sprintf(format, args...)))
}

// readData reads the stored data that is due, and saves how far it got.
func (k *run) readData(ctx context.Context) error {
	objects, err := check.ListStored(ctx, k.repo.Store(), k.Host)
	if err != nil {
		return err
	}
	stored := uint64(0)
	for _, o := range objects {
		stored += uint64(o.Size)
	}

	k.s.mu.Lock()
	k.s.known.Objects, k.s.known.Stored = len(objects), stored
	how := readingOf(k.Config.Check, k.Config.Identity != "")
	var due []check.Stored
	var end string
	if how != nil && len(k.s.known.Suspects) < mostSuspects {
		due, end = k.s.known.Data.due(how, objects, k.Began, k.Next.Sub(k.Began))
	}
	k.s.save()
	k.s.mu.Unlock()
	if end == "" {
		return nil
	}

	unsaved := int64(0)
	err = check.CompareStored(ctx, k.repo, k.Host, due, func(o check.Stored, damage error) error {
		k.Progress.Bytes.Add(uint64(o.Size))
		k.out.ReadBytes += uint64(o.Size)
		unsaved += o.Size

		k.s.mu.Lock()
		defer k.s.mu.Unlock()
		if damage != nil {
			k.Log.Warn("an object is missing or damaged; the check finds out what needs it", zap.Error(damage))
			k.s.known.Suspects = append(k.s.known.Suspects, keyOf(k.Host, o))
		}
		k.s.known.Data.advance(fmt.Sprintf("%x", o.Hash), uint64(o.Size), k.Began)
		if unsaved >= saveEvery || damage != nil {
			unsaved = 0
			k.s.save()
		}
		if len(k.s.known.Suspects) >= mostSuspects {
			return errManySuspects
		}
		return nil
	})

	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	if errors.Is(err, errManySuspects) {
		k.note("%d objects are missing or damaged; no further data is read until these are dealt with", mostSuspects)
		err = nil
	} else if err == nil {
		k.s.known.Data.advance(end, 0, k.Began)
	}
	k.s.save()
	return err
}

var errManySuspects = errors.New("many objects are damaged")

func keyOf(host string, o check.Stored) string {
	if o.Kind == wire.KindManifest {
		return layout.KeyManifest(host, o.Domain, o.Hash)
	}
	return layout.KeyPack(host, o.Domain, o.Hash)
}

// objectOf is the object of a key.
func objectOf(key string) (id deletion.ObjectID, domain seal.DomainID, ok bool) {
	id.Kind = wire.KindPack
	if _, domain, id.Hash, ok = layout.ParsePackKey(key); !ok {
		id.Kind = wire.KindManifest
		_, domain, id.Hash, ok = layout.ParseManifestKey(key)
	}
	return id, domain, ok
}

// structure checks everything except the data that is not due, and saves the result.
func (k *run) structure(ctx context.Context) error {
	k.s.mu.Lock()
	suspects := slices.Clone(k.s.known.Suspects)
	k.s.mu.Unlock()
	read := map[deletion.ObjectID]bool{}
	for _, key := range suspects {
		if id, _, ok := objectOf(key); ok {
			read[id] = true
		}
	}

	o := check.Options{Host: k.Host, Found: k.findings.Take(), Sealed: k.sealed, Progress: k.Progress, Read: func(id deletion.ObjectID) bool { return read[id] }}
	found, err := check.Run(ctx, k.repo, o)
	if errors.Is(err, trust.ErrNoUsableIdentity) && !k.sealed {
		k.note("the identity does not open every snapshot, so the lists of files were not checked: %v", err)
		o.Sealed, k.sealed = true, true
		found, err = check.Run(ctx, k.repo, o)
	}
	if err != nil {
		return err
	}

	for _, n := range found.Notes {
		k.note("%s", n)
		k.Log.Warn("note of the check: " + n)
	}
	k.requestRepair(ctx, found)
	return k.finish(found, suspects)
}

// requestRepair makes the next capture store the content of damaged objects again.
func (k *run) requestRepair(ctx context.Context, found *check.Report) {
	keys := slices.Clone(found.Spoiled)
	for _, d := range found.Damage {
		k.Log.Error("the check found damage", zap.String("object", d.Object), zap.Error(d.Err), zap.Int("affects", d.Count))
		keys = append(keys, d.Object)
	}
	if err := k.repo.NoteDamagedKeys(keys); err != nil {
		k.note("the next snapshot may not notice wrapped keys that are missing or damaged: %v", err)
	}
	objects := map[seal.DomainID][]deletion.ObjectID{}
	for _, key := range keys {
		if id, domain, ok := objectOf(key); ok {
			objects[domain] = append(objects[domain], id)
		}
	}
	for domain, ids := range objects {
		if _, err := k.repo.ReportDamage(ctx, k.Host, domain, ids, k.Began); err != nil && !errors.Is(err, trust.ErrNoUsableIdentity) {
			k.note("the next snapshot could not be made to store the damaged objects again (%v): run knowngood snapshot NAME --verify=data", err)
		}
	}
}

// finish saves the result of a complete check. Damage is an error.
func (k *run) finish(report *check.Report, suspects []string) error {
	still := map[string]bool{}
	for _, key := range report.Suspects {
		still[key] = true
	}
	found := FindingOf(report, k.Host)

	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	s := &k.s.known
	s.Suspects = slices.DeleteFunc(s.Suspects, func(key string) bool { return slices.Contains(suspects, key) && !still[key] })
	s.Began, s.Command, s.Finding = k.Began, "", found
	s.Notes = k.notes[:min(len(k.notes), mostNotes)]
	if more := len(k.notes) - mostNotes; more > 0 {
		s.Notes = append(slices.Clone(s.Notes), fmt.Sprintf("and %d more, in the log", more))
	}
	k.s.save()
	k.out.Damaged = found.Damaged
	if found.Damaged > 0 {
		return errors.New(found.String())
	}
	return nil
}
