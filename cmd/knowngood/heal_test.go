package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"

	"knowngood/cmd/knowngood/exit"
	"knowngood/daemon/report"
	"knowngood/storage/storagetest"
)

// losingStores runs a test on a directory and on a bucket, with what removes
// the objects whose keys contain a text, and returns how many there were.
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

func TestHeal(t *testing.T) {
	t.Parallel()
	t.Run("a lost pack is noticed, named and healed", testALostPackIsNoticedNamedAndHealed)
	t.Run("a daemon heals damage that was found on its host", testADaemonHealsDamageThatWasFoundOnItsHost)
	t.Run("a check notices that an index run is gone", testACheckNoticesThatAnIndexRunIsGone)
}

func testALostPackIsNoticedNamedAndHealed(t *testing.T) {
	t.Parallel()
	losingStores(t, func(t *testing.T, m *machine, lose func(part string) int) {
		src := t.TempDir()
		grow(t, src, "one", 1_500_000) // each pack is too large for the manifest
		first, before := m.snapshot(t, "web", src), contents(t, src)
		grow(t, src, "two", 1_400_000)
		second := m.snapshot(t, "web", src)
		packs := lose("/packs/")
		if packs != 2 {
			t.Fatalf("%d packs are lost", packs)
		}
		check := m.run(t, "check")
		if out := check.exits(t, exit.Damage); strings.Count(out, "DAMAGED hosts/") != 2 || !strings.Contains(out, "affects "+second.Ref+":"+filepath.Join(src, "two")) {
			t.Errorf("check: %s", out)
		}

		o := m.run(t, "snapshot", "--env", "web", "--verify", src)
		o.exits(t, exit.Done)
		if says := o.stderr.String(); !strings.Contains(says, "healed: the store had lost 2 packs or manifests, 2.8 MiB stored again; ") || !strings.Contains(says, " refers to 2 objects that are not in the store") {
			t.Errorf("it says %s", says)
		}
		for _, machine := range []*machine{m, m.bare(t)} {
			restores(t, machine, first.Ref, src, before)
			restores(t, machine, second.Ref, src, contents(t, src))
			restores(t, machine, "web@3", src, contents(t, src))
		}
		if out := m.must(t, "check", "--read-data"); !strings.Contains(out, "no damage found") || !strings.Contains(out, "note: 2 objects are missing or damaged and affect nothing") {
			t.Errorf("check: %s", out)
		}
		if s := m.snapshot(t, "web", "--verify", src); s.NewBytes != 0 || s.ReadFiles != 0 || s.HealedPacks != 0 {
			t.Errorf("the next one: %+v", s)
		}

		lose("/packs/")
		if s := m.snapshot(t, "web", "--reread", src); s.HealedPacks == 0 {
			t.Errorf("the one that reads all anew: %+v", s)
		}
		restores(t, m.bare(t), "web@3", src, contents(t, src))

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

// flipPacks changes a bit in the middle of each pack of a directory.
func flipPacks(t *testing.T, repo string) {
	t.Helper()
	packs, err := filepath.Glob(filepath.Join(repo, "hosts", "*", "packs", "*", "*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("%v, %v", packs, err)
	}
	for _, path := range packs {
		b, err := os.ReadFile(path)
		if err == nil {
			b[len(b)/2] ^= 1
			err = os.Chmod(path, 0o600)
		}
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func testADaemonHealsDamageThatWasFoundOnItsHost(t *testing.T) {
	t.Parallel()
	for name, find := range map[string]func(s *service, src string) *outcome{
		"by a check": func(s *service, _ string) *outcome { return s.run(t, "check", "--read-data") },
		"by a restore": func(s *service, src string) *outcome {
			return s.run(t, "restore", "web:"+src, "--target", filepath.Join(s.dir, "out"))
		},
		"by cat": func(s *service, src string) *outcome { return s.run(t, "cat", "web:"+filepath.Join(src, "one")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
			src := t.TempDir()
			grow(t, src, "one", 200_000)
			s := newService(t, m, "environments: {web: {sources: [{path: %s}]}}\n", src)
			s.up(t)
			first := s.take(t, "web")
			flipPacks(t, m.repo)
			if run := s.take(t, "web"); run.HealedPacks != 0 {
				t.Errorf("nobody told, and it healed %+v", run)
			}

			o := find(s, src)
			o.exits(t, exit.Damage)
			if !strings.Contains(o.stderr.String(), "is missing or damaged: the next snapshot of this host stores again what is still here") {
				t.Errorf("it says %s", &o.stderr)
			}
			if run := s.take(t, "web"); run.HealedPacks != 1 || run.HealedBytes != 200_000 {
				t.Errorf("the next run healed %d packs, %d bytes", run.HealedPacks, run.HealedBytes)
			}
			if log := s.log(t); !strings.Contains(log, "healed_packs") {
				t.Errorf("the log does not tell it: %s", log)
			}
			restores(t, m.bare(t), first.Snapshot, src, contents(t, src))
			m.must(t, "check", "--read-data")
			if run := s.take(t, "web"); run.HealedPacks != 0 || run.NewBytes != 0 {
				t.Errorf("the run after it healed %d packs, and stored %d bytes", run.HealedPacks, run.NewBytes)
			}
			r := s.until(t, "a warning", func(r *report.Report) bool { return len(r.Warnings) > 0 })
			if w := r.Warnings[0]; !strings.Contains(w.Text, " refers to 1 object that is not in the store") || w.Tampering {
				t.Errorf("it warns of %+v", w)
			}
		})
	}
}

func testACheckNoticesThatAnIndexRunIsGone(t *testing.T) {
	t.Parallel()
	losingStores(t, func(t *testing.T, m *machine, lose func(part string) int) {
		src := t.TempDir()
		growMany(t, src)
		m.snapshot(t, "web", src)
		if n := lose("/index/"); n != 1 {
			t.Fatalf("%d runs are lost", n)
		}
		if out := m.run(t, "check").exits(t, exit.Damage); !strings.Contains(out, "DAMAGED hosts/") || !strings.Contains(out, "/index/") || !strings.Contains(out, "missing, seen by web@1") {
			t.Errorf("check: %s", out)
		}
		if s := m.snapshot(t, "web", src); s.NewBytes != 0 {
			t.Errorf("the next snapshot: %+v", s)
		}
		m.must(t, "check")
		grow(t, src, "two", 100)
		if s := m.snapshot(t, "db", src); s.NewBytes != 100 {
			t.Errorf("another environment stores %d bytes", s.NewBytes)
		}
	})
}
