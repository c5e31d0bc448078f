package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"knowngood/cmd/knowngood/exit"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
	"knowngood/storage/stores"
	"knowngood/storage/trust"
)

// resign signs the history of web again, with the keys in the state directory of a
// host, so that every snapshot has the content of the newest.
func resign(t *testing.T, m *machine) (keys []string, roots [][]byte) {
	t.Helper()
	ctx := context.Background()
	store, err := stores.Open(ctx, m.repo, stores.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := repository.Open(ctx, store, repository.Options{Options: trust.Options{StateDir: m.state, URL: m.repo, Now: time.Now()}})
	if err != nil {
		t.Fatal(err)
	}
	h, err := r.Host(ctx)
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[uint64]*statement.RootBody{}
	for s, err := range r.Snapshots(ctx, h.Name, "web") {
		if err != nil {
			t.Fatal(err)
		}
		bodies[s.Number] = s.Body // which the host reads with its domain secret
	}
	epoch, err := r.CurrentEpoch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := h.Domain.SealTo(epoch, r.ID(), h.Name)
	if err != nil {
		t.Fatal(err)
	}
	var previous [32]byte
	newest := uint64(len(bodies))
	for n := uint64(1); n <= newest; n++ {
		b := *bodies[n] // times and counts stay those of the good one
		b.Manifest, b.Content = bodies[newest].Manifest, bodies[newest].Content
		record, err := b.AppendRecord(nil)
		if err != nil {
			t.Fatal(err)
		}
		x := &statement.Root{Repository: r.ID(), Host: h.Name, Environment: "web", Number: n, Previous: previous, Certificate: h.Certificate, Domain: h.Domain.ID, Epoch: epoch.ID, SealedDomain: sealed, Salt: seal.NewSalt()}
		x.SealedBody = seal.Once(h.Domain.RootKey(x.Salt), record, nil)
		object, err := x.Encode(h.SigningKey())
		if err != nil {
			t.Fatal(err)
		}
		previous = sha256.Sum256(object)
		keys, roots = append(keys, layout.KeyRoot(h.Name, "web", n)), append(roots, object)
	}
	return keys, roots
}

func TestForged(t *testing.T) {
	t.Run("a history signed again is not believed", testAHistorySignedAgainIsNotBelieved)
	t.Run("keys with escapes do not reach the terminal", testKeysWithEscapesDoNotReachTheTerminal)
}

// A host that was taken over signs its history again and puts it over the old one,
// which its policy allows on a bucket with versions. Machines without memory, with
// nothing but the URL and the identity, restore what was there before, and print what
// happened.
func testAHistorySignedAgainIsNotBelieved(t *testing.T) {
	for name, c := range map[string]struct {
		server func(testing.TB) *storagetest.Server
		bucket storagetest.BucketKind
		flags  []string
	}{
		"minio with locks":        {storagetest.MinIO, storagetest.LockBucket, []string{"--lock", "compliance", "--lock-keep", "30d"}},
		"versitygw with versions": {storagetest.VersityGW, storagetest.VersionedBucket, nil},
	} {
		t.Run(name, func(t *testing.T) {
			server := c.server(t)
			server.Setenv(t)
			bucket := "forged-history"
			server.Bucket(t, bucket, c.bucket)
			w := newIAMWorld(t, server, bucket, c.flags...)
			client := server.Client(t)
			if strings.Contains(name, "minio") {
				host := policy(t, "host-policy.json", bucket)
				allDone(t, w.join(t, host))
				client = w.client(t, host)
				w.web = w.with(t, w.web, host)
			} else {
				w.web.env = server.Env(t)
				w.web.identity = w.admin.identity
				w.web.must(t, "init", "--join", "--host", iamHost)
				w.web.identity = ""
			}
			src := t.TempDir()
			file := filepath.Join(src, "payroll.db")
			put := func(content string) {
				t.Helper()
				if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				w.web.run(t, "snapshot", "--host", iamHost, "--env", "web", src).exits(t, exit.Done)
			}
			for i := range 3 {
				put(fmt.Sprintf("the good data of day %d", i+1))
			}

			// From here the attacker has the state directory and the credentials.
			put("the attacker was here")
			keys, roots := resign(t, w.web)
			for i, key := range keys {
				if _, err := client.PutObject(t.Context(), bucket, "prod/"+key, bytes.NewReader(roots[i]), int64(len(roots[i])), minio.PutObjectOptions{SendContentMd5: true}); err != nil {
					t.Fatal(err)
				}
			}

			bare := w.admin.bare(t)
			o := bare.run(t, "list", "--all-hosts")
			o.exits(t, exit.Damage)
			for _, key := range keys {
				if !strings.Contains(o.stderr.String(), key+": remembered the object, found other bytes in its place since ") {
					t.Errorf("list does not name %s: %s", key, &o.stderr)
				}
			}
			for n := 1; n <= 3; n++ {
				out := filepath.Join(t.TempDir(), "out")
				w.admin.bare(t).run(t, "restore", fmt.Sprintf("%s/web@%d:%s", iamHost, n, src), "--target", out).exits(t, exit.Damage)
				if got, err := os.ReadFile(filepath.Join(out, "payroll.db")); err != nil || string(got) != fmt.Sprintf("the good data of day %d", n) {
					t.Errorf("web@%d has %q, %v", n, got, err)
				}
			}
			w.admin.bare(t).run(t, "check", "--read-data=100%").exits(t, exit.Damage)
			if o := w.admin.bare(t).run(t, "prune", "--all-hosts", "--dry-run"); o.code != exit.Damage {
				t.Errorf("prune exits with %d: %s", o.code, &o.stderr)
			}
		})
	}
}

// Whoever may put objects chooses their keys.
func testKeysWithEscapesDoNotReachTheTerminal(t *testing.T) {
	server := storagetest.MinIO(t)
	bucket := "escapes"
	server.Bucket(t, bucket, storagetest.VersionedBucket)
	w := newIAMWorld(t, server, bucket)
	host := policy(t, "host-policy.json", bucket)
	allDone(t, w.join(t, host))
	w.with(t, w.web, host).run(t, "snapshot", "--host", iamHost, "--env", "web", iamSource(t)).exits(t, exit.Done)
	c := w.client(t, host)
	for _, name := range []string{"\x1b]0;PWNED\x07\x1b[31m", "x\rknowngood: all is well                         "} {
		if _, err := c.PutObject(t.Context(), bucket, "prod/"+layout.PrefixRoots(iamHost, "web")+name, strings.NewReader("x"), 1, minio.PutObjectOptions{}); err != nil {
			t.Logf("the server refuses %q: %v", name, err)
		}
	}
	for _, args := range [][]string{{"list", "--all-hosts"}, {"check"}, {"prune", "--all-hosts", "--dry-run"}} {
		o := w.admin.bare(t).run(t, args...)
		if out := o.stdout.String() + o.stderr.String(); strings.ContainsAny(out, "\x1b\x07\r") {
			t.Errorf("%v prints %q", args, out)
		}
	}
}
