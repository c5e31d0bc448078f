package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"
	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/jobfiles"
	"knowngood/internal/userdir"
	"knowngood/internal/wire"
	"knowngood/snapshot/check"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/trust"
)

// checked is what is known of the state of what this host stored, besides the runs
// of the check.
type checked struct {
	Repository string `json:"repository,omitempty"`
	// Began is when the newest check began that looked at everything, and Command
	// what it was; "" is the daemon's own. The others are what it found.
	Began   time.Time `json:"began,omitzero"`
	Command string    `json:"command,omitempty"`
	Finding
	Notes []string `json:"notes,omitempty"`
	// Suspects are the keys of objects whose bytes were not those of their names.
	// Each check reads these, until they are right or needed by nothing.
	Suspects []string `json:"suspects,omitempty"`

	Data    rotation  `json:"data"`
	ByHand  time.Time `json:"by_hand,omitzero"` // when a command began to read everything
	Objects int       `json:"objects,omitempty"`
	Stored  uint64    `json:"stored,omitempty"` // bytes of these, when the last check began
}

// Finding is the damage that a check found. The zero value is none.
type Finding struct {
	Damaged  int      `json:"damaged,omitempty"` // objects
	First    []string `json:"first,omitempty"`   // some of them, and what they hurt
	Tampered bool     `json:"tampered,omitempty"`
}

// Bounds of what is remembered.
const (
	checkedFile  = "checked.state"
	checkedSize  = 96 << 10
	mostSuspects = 200 // with so many the reading in turn waits
	mostFirst    = 5
	mostNotes    = 5
	saveEvery    = 32 << 20 // bytes that are read anew at most after a crash
)

// FindingOf sums up what a check found of a host.
func FindingOf(r *check.Report, host string) (f Finding) {
	for _, d := range r.Damage {
		if strings.HasPrefix(d.Object, layout.PrefixHosts) && !strings.HasPrefix(d.Object, layout.PrefixHost(host)) {
			continue // another host's
		}
		f.Damaged++
		f.Tampered = f.Tampered || errors.As(d.Err, new(*authentic.TamperError))
		if len(f.First) >= mostFirst {
			continue
		}
		text := shortened(firstLine(d.Err.Error()))
		if !strings.Contains(text, d.Object) {
			text = d.Object + ": " + text
		}
		if d.Count > 0 {
			text += "; hurts " + shortened(d.Hurts[0].String())
		}
		if d.Count > 1 {
			text += " and " + english.Plural(d.Count-1, "more file", "")
		}
		f.First = append(f.First, text)
	}
	return f
}

func shortened(text string) string {
	if len(text) > maxErrorText/mostFirst {
		return strings.ToValidUTF8(text[:maxErrorText/mostFirst], "") + "…"
	}
	return text
}

// checkRun is one run of the check.
type checkRun struct {
	d      *Daemon
	r      *running
	config *configs.Config
	host   string
	next   time.Time // when the check is due after this one
	repo   *repository.Repository
	began  time.Time
	sealed bool
	notes  []string
}

// check is a run of the check job, over what this host stored, as it is configured
// when it begins. It takes no place of a capture.
func (d *Daemon) check(j *job, r *running) func(context.Context) error {
	return func(ctx context.Context) (err error) {
		defer func() { err = because(ctx, err) }()
		d.mu.Lock()
		k := &checkRun{d: d, r: r, config: d.config, began: d.Now()}
		if j.timing != nil {
			k.next = j.due(k.began).next
		}
		d.mu.Unlock()
		d.Log.Info("check started", zap.String("trigger", r.run.Trigger))
		r.live.enter("check")
		r.run.Attempts = 1

		_, host, err := d.repository(ctx) // which makes sure that this machine is that host
		if err != nil {
			return err
		}
		k.host = host.Name
		if err := k.open(ctx); err != nil {
			return err
		}
		defer k.repo.Close()
		d.mu.Lock()
		d.checkedOf(k.repo.ID())
		d.mu.Unlock()

		if err := k.readData(ctx); err != nil {
			return err
		}
		return k.structure(ctx)
	}
}

// open opens the repository for this run alone, whose warnings are findings; with
// the identity where one is configured and can be used without asking.
func (k *checkRun) open(ctx context.Context) (err error) {
	if k.config.Identity != "" && k.d.Unlocked != nil {
		if k.repo, err = k.d.Unlocked(ctx, k.config); err == nil {
			return nil
		}
		k.note("the identity cannot be used, so the lists of files were not looked at: %v", err)
	}
	k.sealed = true
	k.repo, err = k.d.Open(ctx, k.config)
	return err
}

func (k *checkRun) note(format string, args ...any) {
	k.notes = append(k.notes, shortened(fmt.Sprintf(format, args...)))
}

// readData reads what is due of the stored data, and remembers how far it got.
func (k *checkRun) readData(ctx context.Context) error {
	objects, err := check.ListStored(ctx, k.repo.Store(), k.host)
	if err != nil {
		return err
	}
	stored := uint64(0)
	for _, o := range objects {
		stored += uint64(o.Size)
	}

	d := k.d
	d.mu.Lock()
	d.checked.Objects, d.checked.Stored = len(objects), stored
	how := readingOf(k.config.Check, k.config.Identity != "")
	var due []check.Stored
	var end string
	if how != nil && len(d.checked.Suspects) < mostSuspects {
		due, end = d.checked.Data.due(how, objects, k.began, k.next.Sub(k.began))
	}
	d.keepChecked()
	d.mu.Unlock()
	if end == "" {
		return nil
	}

	unsaved := int64(0)
	err = check.CompareStored(ctx, k.repo, k.host, due, func(o check.Stored, damage error) error {
		k.r.checking.Bytes.Add(uint64(o.Size))
		k.r.run.ReadBytes += uint64(o.Size)
		unsaved += o.Size
		d.mu.Lock()
		defer d.mu.Unlock()
		if damage != nil {
			d.Log.Warn("an object is missing or damaged; the check finds out what needs it", zap.Error(damage))
			d.checked.Suspects = append(d.checked.Suspects, keyOf(k.host, o))
		}
		d.checked.Data.advance(fmt.Sprintf("%x", o.Hash), uint64(o.Size), k.began)
		if unsaved >= saveEvery || damage != nil {
			unsaved = 0
			d.keepChecked()
		}
		if len(d.checked.Suspects) >= mostSuspects {
			return errManySuspects
		}
		return nil
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	if errors.Is(err, errManySuspects) {
		k.note("%d objects are missing or damaged; no further data is read until these are dealt with", mostSuspects)
		err = nil
	} else if err == nil {
		d.checked.Data.advance(end, 0, k.began)
	}
	d.keepChecked()
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

// structure checks everything but the data that is not due, and takes in what
// comes of it.
func (k *checkRun) structure(ctx context.Context) error {
	k.d.mu.Lock()
	suspects := slices.Clone(k.d.checked.Suspects)
	k.d.mu.Unlock()
	read := map[deletion.ObjectID]bool{}
	for _, key := range suspects {
		if id, _, ok := objectOf(key); ok {
			read[id] = true
		}
	}
	o := check.Options{Host: k.host, Sealed: k.sealed, Progress: &k.r.checking, Read: func(id deletion.ObjectID) bool { return read[id] }}
	report, err := check.Run(ctx, k.repo, o)
	if errors.Is(err, trust.ErrNoUsableIdentity) && !k.sealed {
		k.note("the identity opens not every snapshot, so the lists of files were not looked at: %v", err)
		o.Sealed, k.sealed = true, true
		report, err = check.Run(ctx, k.repo, o)
	}
	if err != nil {
		return err
	}
	for _, n := range report.Notes {
		k.note("%s", n)
		k.d.Log.Warn("note of the check: " + n)
	}
	k.tellHost(ctx, report)
	return k.take(report, suspects)
}

// tellHost has the next capture look at what is damaged, and store again what it
// held.
func (k *checkRun) tellHost(ctx context.Context, report *check.Report) {
	keys := slices.Clone(report.Spoiled)
	for _, d := range report.Damage {
		k.d.Log.Error("the check found damage", zap.String("object", d.Object), zap.Error(d.Err), zap.Int("hurts", d.Count))
		keys = append(keys, d.Object)
	}
	objects := map[seal.DomainID][]deletion.ObjectID{}
	for _, key := range keys {
		if id, domain, ok := objectOf(key); ok {
			objects[domain] = append(objects[domain], id)
		}
	}
	for domain, ids := range objects {
		if _, err := k.repo.TellHost(ctx, k.host, domain, ids, k.began); err != nil && !errors.Is(err, trust.ErrNoUsableIdentity) {
			k.note("what is damaged could not be noted for the next snapshot (%v): run knowngood snapshot NAME --verify=data", err)
		}
	}
}

// take takes in the result. The error says that there is damage.
func (k *checkRun) take(report *check.Report, suspects []string) error {
	still := map[string]bool{}
	for _, key := range report.Suspects {
		still[key] = true
	}
	found := FindingOf(report, k.host)
	d := k.d
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &d.checked
	c.Suspects = slices.DeleteFunc(c.Suspects, func(key string) bool { return slices.Contains(suspects, key) && !still[key] })
	c.Began, c.Command, c.Finding = k.began, "", found
	c.Notes = k.notes[:min(len(k.notes), mostNotes)]
	if more := len(k.notes) - mostNotes; more > 0 {
		c.Notes = append(slices.Clone(c.Notes), fmt.Sprintf("and %d more, in the log", more))
	}
	d.keepChecked()
	k.r.run.Damaged = found.Damaged
	if found.Damaged > 0 {
		return errors.New(found.String())
	}
	return nil
}

// String is the damage in words.
func (f Finding) String() string {
	text := english.Plural(f.Damaged, "object is", "objects are") + " missing or damaged: " + strings.Join(f.First, "; ")
	if more := f.Damaged - len(f.First); more > 0 {
		text += fmt.Sprintf("; and %d more, which knowngood check names", more)
	}
	return text
}

// checkedOf makes what is remembered that of a repository; mu is held.
func (d *Daemon) checkedOf(id seal.RepositoryID) {
	if d.checked.Repository != id.String() {
		d.checked = checked{Repository: id.String()}
	}
}

// keepChecked writes it down; mu is held.
func (d *Daemon) keepChecked() {
	if d.checkedSlots != nil {
		d.keep(d.checkedSlots, &d.checked)
	}
}

// openChecked reads it; mu is held.
func (d *Daemon) openChecked() {
	if d.checkedSlots != nil {
		return
	}
	var err error
	d.checkedSlots, err = jobfiles.OpenSlots(jobsDir(d.config.StateDir), checkedFile, checkedSize, &d.checked)
	d.read(d.checkedSlots, err)
}

func jobsDir(stateDir string) userdir.Dir { return userdir.At(stateDir).In("daemon", "jobs") }

// ByHand is a check that a command made, of what this host stored.
type ByHand struct {
	Repository string    `json:"repository"`
	Began      time.Time `json:"began"`
	Command    string    `json:"command"`
	Structure  bool      `json:"structure"` // it looked at everything but the data
	Data       bool      `json:"data"`      // it read all data
	Finding
}

// byHandFile is where commands leave the newest one of each kind.
const byHandFile = "checked-by-hand"

type byHand struct {
	Structure, Data ByHand
}

// Record leaves a check by hand for the daemon of a state directory.
func (h ByHand) Record(stateDir string) error {
	dir := jobsDir(stateDir)
	if err := dir.Make(); err != nil {
		return err
	}
	all := readByHand(stateDir)
	if h.Structure {
		all.Structure = h
	}
	if h.Data {
		all.Data = h
	}
	b, err := json.Marshal(&all)
	if err != nil {
		return err
	}
	return dir.Replace(byHandFile, b)
}

// readByHand reads what commands left; nothing where that cannot be read.
func readByHand(stateDir string) (all byHand) {
	b, err := jobsDir(stateDir).ReadFile(byHandFile)
	if err != nil || json.Unmarshal(b, &all) != nil {
		return byHand{}
	}
	return all
}

// takeByHand takes in checks by hand that the daemon does not know yet.
func (d *Daemon) takeByHand(repo *repository.Repository) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := readByHand(d.config.StateDir)
	if d.checkedSlots == nil {
		return
	}
	changed, id := false, repo.ID().String()
	c := &d.checked
	if h := all.Data; h.Repository == id && h.Began.After(c.ByHand) {
		d.checkedOf(repo.ID())
		c.ByHand, changed = h.Began, true
		c.Data.readAll(h.Began)
		if h.Damaged == 0 {
			c.Suspects = nil
		}
	}
	if h := all.Structure; h.Repository == id && h.Began.After(c.Began) {
		d.checkedOf(repo.ID())
		changed = true
		if h.Damaged > 0 || len(c.Suspects) == 0 { // else what it did not read is still damaged
			c.Began, c.Command, c.Finding, c.Notes = h.Began, h.Command, h.Finding, nil
		}
	}
	if changed {
		d.keepChecked()
	}
}
