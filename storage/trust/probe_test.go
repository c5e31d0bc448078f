package trust_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"knowngood/storage"
	"knowngood/storage/dir"
	"knowngood/storage/identity"
	"knowngood/storage/s3"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

var now = time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)

// enforced is a store whose rules forbid puts without a condition.
type enforced struct{ *storagetest.Plain }

func (enforced) PlainPut(context.Context, string, []byte) error { return storage.ErrDenied }

// kept is a store without versions whose rules forbid deleting: what was put is
// in view for ever, unless it is replaced.
type kept struct{ *storagetest.Plain }

func (kept) Delete(context.Context, string) error { return storage.ErrDenied }

// keptEnforced has versions that nothing ever covers.
type keptEnforced struct{ *storagetest.Memory }

func (keptEnforced) Delete(context.Context, string) error           { return storage.ErrDenied }
func (keptEnforced) PlainPut(context.Context, string, []byte) error { return storage.ErrDenied }

func initIn(t *testing.T, store storage.Store, protected bool) (*trust.Trust, *trust.InitResult, error) {
	t.Helper()
	key, err := identity.Generate(identity.X25519)
	if err != nil {
		t.Fatal(err)
	}
	return trust.Init(t.Context(), store, trust.InitOptions{
		Recipients: []string{key.Recipient}, Host: "web-1", StateDir: t.TempDir(), URL: "test:", MachineID: "test", Now: now, Protected: protected})
}

func TestProbe(t *testing.T) {
	t.Run("a probe claims what it saw", testAProbeClaimsWhatItSaw)
	t.Run("of two probes the newer is known", testOfTwoProbesTheNewerIsKnown)
}

func testAProbeClaimsWhatItSaw(t *testing.T) {
	for name, test := range map[string]struct {
		open               func(t *testing.T) storage.Store
		versions, enforced bool
	}{
		"versions":                       {func(*testing.T) storage.Store { return storagetest.NewMemory() }, true, false},
		"no versions":                    {func(*testing.T) storage.Store { return storagetest.NewPlainMemory() }, false, false},
		"enforced create":                {func(*testing.T) storage.Store { return enforced{storagetest.NewPlainMemory()} }, false, true},
		"no versions and no deleting":    {func(*testing.T) storage.Store { return kept{storagetest.NewPlainMemory()} }, false, false},
		"versions that nothing covers":   {func(*testing.T) storage.Store { return keptEnforced{storagetest.NewMemory()} }, false, true},
		"a directory":                    {directory, false, false},
		"minio with versions":            {bucket(storagetest.MinIO, storagetest.VersionedBucket), true, false},
		"minio with locks":               {bucket(storagetest.MinIO, storagetest.LockBucket), true, false},
		"minio without versions":         {bucket(storagetest.MinIO, storagetest.PlainBucket), false, false},
		"versitygw with locks":           {bucket(storagetest.VersityGW, storagetest.LockBucket), true, false},
		"versitygw with a plain bucket":  {bucket(storagetest.VersityGW, storagetest.PlainBucket), false, false},
		"versitygw that has no versions": {bucket(storagetest.PlainVersityGW, storagetest.PlainBucket), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			store := test.open(t)
			want := statement.Probe{SecondCreateRefused: true, VersionsKept: test.versions, PlainPutRefused: test.enforced, At: now}
			if !test.versions && !test.enforced {
				if _, _, err := initIn(t, store, true); !errors.Is(err, trust.ErrUnprotected) {
					t.Errorf("a write-only set-up: %v, want ErrUnprotected", err)
				}
			}
			r, made, err := initIn(t, store, test.versions || test.enforced)
			if err != nil {
				t.Fatal(err)
			}
			if !same(made.Probe, want) || !same(*r.Probed(), want) {
				t.Errorf("init saw %+v, the descriptor has %+v; want %+v", made.Probe, *r.Probed(), want)
			}
			if got := made.Probe.Unprotected(); got != (!test.versions && !test.enforced) {
				t.Errorf("unprotected: %v", got)
			}

			want.At = now.Add(time.Hour)
			p, err := r.Probe(t.Context(), "web-1", want.At)
			if err != nil || !same(*p, want) || !same(*r.Probed(), want) {
				t.Errorf("a probe of the host saw %+v, %v; remembered is %+v; want %+v", p, err, *r.Probed(), want)
			}
		})
	}
}

func same(a, b statement.Probe) bool {
	return a.SecondCreateRefused == b.SecondCreateRefused && a.VersionsKept == b.VersionsKept && a.PlainPutRefused == b.PlainPutRefused && a.At.Equal(b.At)
}

func testOfTwoProbesTheNewerIsKnown(t *testing.T) {
	store := storagetest.NewPlainMemory()
	r, _, err := initIn(t, store, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Probe(t.Context(), "web-1", now.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if p := r.Probed(); !p.At.Equal(now) {
		t.Errorf("known is a probe of %v", p.At)
	}
}

func directory(t *testing.T) storage.Store {
	s, err := dir.Create(t.TempDir() + "/repo")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bucket starts a server and makes a bucket in it.
func bucket(start func(testing.TB) *storagetest.Server, kind storagetest.BucketKind) func(t *testing.T) storage.Store {
	return func(t *testing.T) storage.Store {
		server := start(t)
		server.Setenv(t)
		server.Bucket(t, "bucket", kind)
		s, err := s3.Open(t.Context(), s3.Config{Bucket: "bucket", Prefix: "prod", Endpoint: server.Endpoint, Region: storagetest.Region})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}
}
