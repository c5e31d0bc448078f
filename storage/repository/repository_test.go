package repository_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/localstate"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

var now = time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)

const url = "s3://bucket/repo"

// machine is a machine of a test: a state directory and an ID.
type machine struct {
	state, id string
}

func newMachine(t *testing.T) machine { return machine{t.TempDir(), t.Name()} }

func (m machine) open(t *testing.T, store storage.Store) *repository.Repository {
	t.Helper()
	r, err := opened(t, store, repository.Options{Options: trust.Options{StateDir: m.state, URL: url, MachineID: m.id, Now: now}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// opened opens a repository whose warnings can be asked for.
func opened(t *testing.T, store storage.Store, o repository.Options) (*repository.Repository, error) {
	found := &authentic.Findings{}
	o.Report = found.Add
	r, err := repository.Open(t.Context(), store, o)
	if err == nil {
		findings.Store(r, found)
	}
	return r, err
}

// findings of each repository that a test opened.
var findings sync.Map

// warnings takes what a repository reported since the last call.
func warnings(r *repository.Repository) (errs []error) {
	if found, ok := findings.Load(r); ok {
		for _, f := range found.(*authentic.Findings).Take() {
			errs = append(errs, f.Err)
		}
	}
	return errs
}

func (m machine) host(t *testing.T, store storage.Store) host {
	t.Helper()
	return hostOf(t, m.open(t, store))
}

// host is a host of a repository that is open.
type host struct {
	*trust.Host
	repo *repository.Repository
}

func hostOf(t *testing.T, r *repository.Repository) host {
	t.Helper()
	h, err := r.Host(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return host{h, r}
}

func (h host) Commit(ctx context.Context, env string, body func(uint64) *statement.RootBody, now time.Time) (*history.Snapshot, error) {
	c, err := h.repo.Begin(ctx, h.Host, env)
	if err != nil {
		return nil, err
	}
	for {
		number, err := c.Next(ctx)
		if err != nil {
			return nil, err
		}
		if s, taken, err := c.Put(ctx, body(number), someRuns(number), now); !taken {
			return s, err
		}
	}
}

// someRuns are the live index runs at a number: each run publishes one, and merges
// those before it now and then.
func someRuns(number uint64) (runs [][32]byte) {
	for n := number - number%8; n <= number; n++ {
		runs = append(runs, sha256.Sum256(binary.BigEndian.AppendUint64(nil, n)))
	}
	slices.SortFunc(runs, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	return runs
}

// newIdentity makes an identity file of the quick kind.
func newIdentity(t *testing.T, kind identity.Kind) *identity.File {
	t.Helper()
	k, err := identity.Generate(kind)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "identity")
	if err := identity.WriteFile(path, k, identity.WriteOptions{Created: now}); err != nil {
		t.Fatal(err)
	}
	f, err := identity.Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// world is a repository with one host, web-1, and the identity that reads it.
type world struct {
	store *storagetest.Memory
	m     machine
	id    *identity.File
	made  *trust.InitResult
}

func initIn(t *testing.T, store storage.Store, m machine, recipients ...string) (*repository.Repository, *trust.InitResult) {
	t.Helper()
	found := &authentic.Findings{}
	r, made, err := repository.Init(t.Context(), store, trust.InitOptions{
		Recipients: recipients, Host: "web-1", StateDir: m.state, URL: url, MachineID: m.id, Now: now, Report: found.Add})
	if err != nil {
		t.Fatal(err)
	}
	findings.Store(r, found)
	return r, made
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{store: storagetest.NewMemory(), m: newMachine(t), id: newIdentity(t, identity.X25519)}
	_, w.made = initIn(t, w.store, w.m, w.id.Recipients...)
	return w
}

// operator opens the repository with the identity and a fresh memory.
func (w *world) operator(t *testing.T) *repository.Repository {
	t.Helper()
	r := newMachine(t).open(t, w.store)
	r.Unlock(w.id)
	return r
}

// body is a body that holds little.
func body(uint64) *statement.RootBody {
	return &statement.RootBody{Started: now, Status: statement.Complete, Manifest: statement.ManifestRef{
		Kind: wire.KindManifest, Size: 100, Offset: 8, Length: 20}}
}

func commit(t *testing.T, h host, env string) *history.Snapshot {
	t.Helper()
	s, err := h.Commit(t.Context(), env, body, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// list is the references of the snapshots of an environment, and the errors met.
func list(ctx context.Context, r *repository.Repository, host, env string) (refs []string, errs []error) {
	for s, err := range r.Snapshots(ctx, host, env) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		refs = append(refs, s.Ref())
	}
	return refs, errs
}

func wantList(t *testing.T, r *repository.Repository, want ...string) {
	t.Helper()
	if refs, errs := list(t.Context(), r, "web-1", "web"); !slices.Equal(refs, want) || errs != nil {
		t.Errorf("listed %v, %v; want %v", refs, errs, want)
	}
}

func wantWarning(t *testing.T, r *repository.Repository, part string) {
	t.Helper()
	found := warnings(r)
	if !slices.ContainsFunc(found, func(err error) bool { return strings.Contains(err.Error(), part) }) {
		t.Errorf("warnings %v lack %q", found, part)
	}
}

func asTampered(err error) bool { var e *authentic.TamperError; return errors.As(err, &e) }
func asDamaged(err error) bool  { var e *authentic.DamageError; return errors.As(err, &e) }

func TestRepository(t *testing.T) {
	t.Run("a new repository opens and its host commits", func(t *testing.T) {
		w := newWorld(t)
		if p := w.made.Probe; !p.SecondCreateRefused || !p.VersionsKept || !p.At.Equal(now) {
			t.Errorf("probe %+v", p)
		}
		r := w.m.open(t, w.store)
		if _, first := r.TrustedOnFirstUse(); first || r.Pin() != w.made.Pin || r.OwnerFingerprint() != w.made.OwnerFingerprint {
			t.Errorf("pin %x, want %x; first use %v", r.Pin(), w.made.Pin, first)
		}
		if d := r.Descriptor(); d.PackSize != 16<<20 || d.ChunkAverage != 1<<20 {
			t.Errorf("descriptor %+v", d)
		}
		h := w.m.host(t, w.store)
		first, second := commit(t, h, "web"), commit(t, h, "web")
		if first.Ref() != "web@1" || second.Ref() != "web@2" || second.Root.Previous != first.ID || second.Body == nil || !second.Body.Finished.Equal(now) {
			t.Errorf("committed %s, %s: %+v", first.Ref(), second.Ref(), second.Body)
		}
		commit(t, h, "db")
		third := commit(t, h, "web")
		if w := third.Body.Witnesses; len(w) != 1 || w[0].Environment != "db" || w[0].Number != 1 {
			t.Errorf("witnesses %+v", w)
		}
		wantList(t, r, "web@3", "web@2", "web@1")
		if envs, err := r.Environments(t.Context(), "web-1"); err != nil || !slices.Equal(envs, []string{"db", "web"}) {
			t.Errorf("environments %v, %v", envs, err)
		}
		if got := warnings(r); got != nil {
			t.Errorf("warnings %v", got)
		}
	})

	t.Run("init refuses a repository a store that replaces and nonsense", func(t *testing.T) {
		w := newWorld(t)
		o := trust.InitOptions{Recipients: w.id.Recipients, Host: "web-1", StateDir: t.TempDir(), Now: now}
		if _, _, err := repository.Init(t.Context(), w.store, o); !errors.Is(err, trust.ErrRepositoryExists) {
			t.Errorf("a second init: %v", err)
		}
		unsafe := replacing{storagetest.NewMemory()}
		if _, _, err := repository.Init(t.Context(), unsafe, o); !errors.Is(err, trust.ErrUnsafeStore) {
			t.Errorf("a store that replaces: %v", err)
		}
		if keys := unsafe.Keys(); len(keys) > 0 {
			t.Errorf("left in the unsafe store: %v", keys)
		}
		for name, spoil := range map[string]func(*trust.InitOptions){
			"no recipients":         func(o *trust.InitOptions) { o.Recipients = nil },
			"a bad recipient":       func(o *trust.InitOptions) { o.Recipients = []string{"hello"} },
			"a bad host":            func(o *trust.InitOptions) { o.Host = "Web 1" },
			"no state directory":    func(o *trust.InitOptions) { o.StateDir = "" },
			"half a lock":           func(o *trust.InitOptions) { o.Lock.Mode = storage.Compliance },
			"a strange lock":        func(o *trust.InitOptions) { o.Lock = trust.Lock{Mode: "x", Keep: time.Hour} },
			"a full state dir":      func(o *trust.InitOptions) { o.StateDir = "/dev/null/state" },
			"chunks that cannot be": func(o *trust.InitOptions) { o.Chunker.Min = 7 },
		} {
			t.Run(name, func(t *testing.T) {
				store, o := storagetest.NewMemory(), o
				spoil(&o)
				if _, _, err := repository.Init(t.Context(), store, o); err == nil {
					t.Fatal("it went through")
				}
				if keys := store.Keys(); len(keys) > 0 {
					t.Errorf("left behind: %v", keys)
				}
			})
		}
	})

	t.Run("an init that stops anywhere leaves a store that can be used", func(t *testing.T) {
		id := newIdentity(t, identity.X25519)
		for _, effect := range []bool{false, true} {
			for puts := 0; ; puts++ {
				m := newMachine(t)
				left := puts
				store := stopping{storagetest.NewPlainMemory(), &left, effect}
				o := trust.InitOptions{Recipients: id.Recipients, Host: "web-1", StateDir: m.state, URL: url, MachineID: m.id, Now: now}
				_, _, err := repository.Init(t.Context(), store, o)
				if err == nil {
					break
				}
				left = 1000
				if _, _, err = repository.Init(t.Context(), store, o); errors.Is(err, trust.ErrRepositoryExists) {
					r := m.open(t, store)
					if _, err = r.Host(t.Context()); errors.Is(err, trust.ErrNotEnrolled) {
						r.Unlock(id)
						_, err = r.Join(t.Context(), trust.JoinOptions{Host: "web-1", Now: now})
					}
				}
				if err != nil {
					t.Fatalf("after %d puts (effect %v): %v", puts, effect, err)
				}
				commit(t, m.host(t, store), "web")
			}
		}
	})

	t.Run("open holds the repository to what is known of it", func(t *testing.T) {
		w := newWorld(t)
		open := func(store storage.Store, o repository.Options) error {
			_, err := repository.Open(t.Context(), store, o)
			return err
		}
		if err := open(storagetest.NewMemory(), repository.Options{Options: trust.Options{URL: url}}); !errors.Is(err, trust.ErrNoRepository) || !strings.Contains(err.Error(), url) {
			t.Errorf("an empty store: %v", err)
		}
		if err := open(w.store, repository.Options{Options: trust.Options{Given: &localstate.Pin{Descriptor: w.made.Pin, Source: "--pin"}}}); err != nil {
			t.Errorf("the right pin: %v", err)
		}
		if err := open(w.store, repository.Options{Options: trust.Options{Given: &localstate.Pin{Descriptor: [32]byte{1}, Source: "--pin"}}}); !asTampered(err) || !strings.Contains(err.Error(), fmt.Sprintf("%x", w.made.Pin)) || !strings.Contains(err.Error(), "0100000000") {
			t.Errorf("a wrong pin: %v", err)
		}

		m := newMachine(t)
		if _, first := m.open(t, w.store).TrustedOnFirstUse(); !first {
			t.Error("nothing vouches, yet it is not said")
		}
		if since, first := m.open(t, w.store).TrustedOnFirstUse(); !first || !since.Equal(now) {
			t.Errorf("what was only seen counts as a pin: %v, %v", first, since)
		}
		other := storagetest.NewMemory()
		_, made := initIn(t, other, newMachine(t), w.id.Recipients...)
		if err := open(other, repository.Options{Options: trust.Options{StateDir: m.state, URL: url}}); !asTampered(err) {
			t.Errorf("another repository at the same URL: %v", err)
		}
		if err := open(other, repository.Options{Options: trust.Options{StateDir: m.state, URL: url, Given: &localstate.Pin{Descriptor: made.Pin, Source: "--pin"}}}); !asTampered(err) {
			t.Errorf("a pin other than the one remembered: %v", err)
		}
		if err := open(other, repository.Options{Options: trust.Options{StateDir: m.state, URL: "spelled otherwise", Place: url}}); !asTampered(err) {
			t.Errorf("another repository at the same place: %v", err)
		}
	})

	t.Run("a repository is known by its pin wherever it is", func(t *testing.T) {
		w, m := newWorld(t), newMachine(t)
		m.open(t, w.store)
		_, made := initIn(t, storagetest.NewMemory(), newMachine(t), w.id.Recipients...)
		for name, c := range map[string]struct {
			o     repository.Options
			first bool
		}{
			"nothing is known":               {repository.Options{Options: trust.Options{URL: url}}, true},
			"a pin of another place":         {repository.Options{Options: trust.Options{URL: url, Known: [][32]byte{made.Pin, w.made.Pin}}}, false},
			"pins of other repositories":     {repository.Options{Options: trust.Options{URL: url, Known: [][32]byte{made.Pin}}}, true},
			"remembered at the place":        {repository.Options{Options: trust.Options{StateDir: w.m.state, URL: "spelled otherwise", Place: url}}, false},
			"remembered at another place":    {repository.Options{Options: trust.Options{StateDir: w.m.state, URL: "a copy"}}, false},
			"only seen at the place":         {repository.Options{Options: trust.Options{StateDir: m.state, URL: url}}, true},
			"only seen at another place":     {repository.Options{Options: trust.Options{StateDir: m.state, URL: "another copy"}}, true},
			"remembered by another machine":  {repository.Options{Options: trust.Options{StateDir: newMachine(t).state, URL: url}}, true},
			"two pins that are the same one": {repository.Options{Options: trust.Options{URL: url, Pins: []localstate.Pin{{Descriptor: w.made.Pin}, {Descriptor: w.made.Pin}}}}, false},
		} {
			r, err := repository.Open(t.Context(), w.store, c.o)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, first := r.TrustedOnFirstUse(); first != c.first {
				t.Errorf("%s: %v, want trusted on first use: %v", name, err, c.first)
			}
		}
	})

	t.Run("a replaced or hidden descriptor is found beneath", func(t *testing.T) {
		w := newWorld(t)
		w.store.Overwrite(layout.KeyDescriptor, []byte("rubbish"))
		wantWarning(t, w.m.open(t, w.store), "descriptor")
		r, err := opened(t, w.store, repository.Options{})
		if err != nil {
			t.Fatalf("without memory: %v", err)
		}
		wantWarning(t, r, "descriptor")
		if err := w.store.Delete(t.Context(), layout.KeyDescriptor); err != nil {
			t.Fatal(err)
		}
		wantWarning(t, w.m.open(t, w.store), "delete marker")
	})

	t.Run("another version of the format is no damage", func(t *testing.T) {
		store := storagetest.NewMemory()
		initIn(t, store, newMachine(t), newIdentity(t, identity.X25519).Recipients...)
		for _, version := range []byte{1, 3} {
			store.Edit(layout.KeyDescriptor, func(b []byte) []byte { b[5] = version; return b })
			_, err := repository.Open(t.Context(), store, repository.Options{})
			if !errors.Is(err, wire.ErrVersion) || authentic.Damaged(err) {
				t.Errorf("version %d: %v", version, err)
			}
		}
	})

	t.Run("what another repository signed counts for nothing", func(t *testing.T) {
		w, v := newWorld(t), newWorld(t)
		commit(t, w.m.host(t, w.store), "web")
		commit(t, v.m.host(t, v.store), "web")
		for _, key := range []string{layout.KeyRoot("web-1", "web", 1), layout.KeyCertificate("web-1", 1), layout.KeyEpoch(1)} {
			b, err := storage.Append(t.Context(), nil, v.store, key, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			plain := storagetest.NewPlainMemory()
			for _, k := range w.store.Keys() {
				own, err := storage.Append(t.Context(), nil, w.store, k, 0, -1)
				if err != nil {
					t.Fatal(err)
				}
				if k == key {
					own = b
				}
				if err := plain.Put(t.Context(), k, own, storage.PutOptions{SHA256: sha256.Sum256(own)}); err != nil {
					t.Fatal(err)
				}
			}
			r, err := opened(t, plain, repository.Options{Options: trust.Options{Given: &localstate.Pin{Descriptor: w.made.Pin, Source: "--pin"}}})
			if err != nil {
				t.Fatal(err)
			}
			_, headErr := r.Head(t.Context(), "web-1", "web")
			_, epochErr := r.CurrentEpoch(t.Context())
			switch warnings := fmt.Sprint(warnings(r)); {
			case strings.Contains(key, "/roots/") && !errors.Is(headErr, statement.ErrOtherRepository):
				t.Errorf("its root: %v", headErr)
			case strings.HasPrefix(key, "certs/") && !strings.Contains(warnings, "other"):
				t.Errorf("its certificate: warnings %v", warnings)
			case strings.HasPrefix(key, "epochs/") && !asDamaged(epochErr):
				t.Errorf("its epoch: %v", epochErr)
			}
		}
	})

	t.Run("a state directory that cannot be written is named with the flag", func(t *testing.T) {
		w := newWorld(t)
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := repository.Open(t.Context(), w.store, repository.Options{})
		if err != nil {
			t.Fatal(err)
		}
		r.Unlock(w.id)
		if _, err := r.Join(t.Context(), trust.JoinOptions{Host: "web-2", Now: now}); err == nil || !strings.Contains(err.Error(), "--state-dir") {
			t.Errorf("no state directory: %v", err)
		}
		_, err = repository.Open(t.Context(), w.store, repository.Options{Options: trust.Options{StateDir: file, URL: url}})
		if err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "--state-dir") {
			t.Errorf("a state directory that is a file: %v", err)
		}
	})
}

// replacing is a store that does not know conditional puts.
type replacing struct{ *storagetest.Memory }

func (s replacing) Put(ctx context.Context, key string, b []byte, o storage.PutOptions) error {
	if err := s.Memory.Put(ctx, key, b, o); errors.Is(err, storage.ErrExists) {
		s.Overwrite(key, b)
	}
	return nil
}

// stopping is a store that fails for good after some puts.
type stopping struct {
	*storagetest.Plain
	left   *int
	effect bool // whether the put that fails takes effect
}

var errStopped = errors.New("the store stopped")

func (s stopping) Put(ctx context.Context, key string, b []byte, o storage.PutOptions) error {
	if *s.left--; *s.left < 0 {
		if s.effect && *s.left == -1 {
			return errors.Join(s.Plain.Put(ctx, key, b, o), errStopped)
		}
		return errStopped
	}
	return s.Plain.Put(ctx, key, b, o)
}
