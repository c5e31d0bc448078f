package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"knowngood/storage/storagetest"
)

// losingStores runs a test on a directory and on a bucket, with what removes
// the objects whose keys contain a text, and tells how many there were.
func losingStores(t *testing.T, test func(t *testing.T, m *machine, lose func(part string) int)) {
	t.Run("directory", func(t *testing.T) {
		t.Parallel()
		repo := filepath.Join(t.TempDir(), "repo")
		test(t, newMachine(t, repo), func(part string) (n int) {
			err := filepath.WalkDir(repo, func(path string, d os.DirEntry, err error) error {
				if err != nil || d.IsDir() || !strings.Contains(path, part) {
					return err
				}
				n++
				return os.Remove(path)
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		})
	})
	t.Run("versitygw", func(t *testing.T) {
		t.Parallel()
		server := storagetest.VersityGW(t)
		server.Bucket(t, "backups", storagetest.VersionedBucket)
		client := server.Client(t)
		test(t, newMachine(t, server.URL("backups", "prod"), server.Env(t)...), func(part string) (n int) {
			for o := range client.ListObjects(t.Context(), "backups", minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
				if o.Err != nil {
					t.Fatal(o.Err)
				}
				if !strings.Contains(o.Key, part) {
					continue
				}
				n++
				if err := client.RemoveObject(t.Context(), "backups", o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID}); err != nil {
					t.Fatal(err)
				}
			}
			return n
		})
	})
}

func TestALostPackIsNoticedNamedAndHealed(t *testing.T) {
	t.Parallel()
	losingStores(t, func(t *testing.T, m *machine, lose func(part string) int) {
		src := t.TempDir()
		grow(t, src, "one", 200_000)
		first, before := m.snapshot(t, "web", src), contents(t, src)
		grow(t, src, "two", 100_000)
		second := m.snapshot(t, "web", src)
		packs := lose("/packs/")
		if packs != 2 {
			t.Fatalf("%d packs are lost", packs)
		}
		check := m.run(t, "check")
		if out := check.exits(t, exitDamage); strings.Count(out, "DAMAGED hosts/") != 2 || !strings.Contains(out, "hurts "+second.Ref+":"+filepath.Join(src, "two")) {
			t.Errorf("check: %s", out)
		}

		o := m.run(t, "snapshot", "--env", "web", "--verify", src)
		o.exits(t, exitDone)
		if says := o.stderr.String(); !strings.Contains(says, "healed: the store had lost 2 packs or manifests, 293 KiB stored again; ") || !strings.Contains(says, "2 of the objects that host ") {
			t.Errorf("it says %s", says)
		}
		for _, machine := range []*machine{m, m.bare(t)} {
			restores(t, machine, first.Ref, src, before)
			restores(t, machine, second.Ref, src, contents(t, src))
			restores(t, machine, "web@3", src, contents(t, src))
		}
		if out := m.must(t, "check", "--read-data"); !strings.Contains(out, "no damage found") || !strings.Contains(out, "note: 2 objects are missing or damaged and hurt nothing") {
			t.Errorf("check: %s", out)
		}
		if s := m.snapshot(t, "web", "--verify", src); s.NewBytes != 0 || s.ReadFiles != 0 || s.HealedPacks != 0 {
			t.Errorf("the next one: %+v", s)
		}

		// And once more, when nothing here knows of the packs any more.
		lose("/packs/")
		lose("/index/")
		if err := os.RemoveAll(filepath.Join(m.state, "repos")); err != nil {
			t.Fatal(err)
		}
		m.must(t, "init", "--join", "--reenrol")
		s := m.snapshot(t, "web", src)
		restores(t, m.bare(t), s.Ref, src, contents(t, src))
	})
}
