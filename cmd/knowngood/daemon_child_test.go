package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"knowngood/cmd/knowngood/exit"
	"knowngood/daemon/report"
	"knowngood/internal/treetest"
	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/stores"
	"knowngood/storage/trust"
)

func TestProcessOfARun(t *testing.T) {
	t.Run("leaves no secret of it in the memory of the daemon", testNoSecretOfARunIsInTheDaemon)
	t.Run("that is killed leaves a run that died", testAProcessThatIsKilled)
	t.Run("ends with the daemon", testAProcessEndsWithTheDaemon)
	t.Run("is started by a daemon alone", testOnlyADaemonStartsOne)
	t.Run("keeps one limit together with two others", testThreeKeepOneLimit)
}

// Whoever takes the host after a run must not find in the daemon's memory what
// opens the run's packs.
func testNoSecretOfARunIsInTheDaemon(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may read the memory of a process that cannot be dumped")
	}
	t.Parallel()
	dir := t.TempDir()
	src, hang := filepath.Join(dir, "src"), filepath.Join(dir, "hang")
	if err := os.Mkdir(src, 0o755); err != nil {
		t.Fatal(err)
	}
	grow(t, src, "file", 1_000_000)
	m := newMachine(t, filepath.Join(dir, "repo"))
	s := newService(t, m, `environments:
  web:
    sources: [{path: %s}]
  slow:
    sources: [{path: %[1]s}, {command: [sh, -c, "touch %[2]s.on; while test -e %[2]s; do sleep 0.1; done; echo rows"], as: dump}]
`, src, hang)
	s.up(t)
	if err := os.WriteFile(hang, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, body := s.fetch(t, "POST", "/api/v1/environments/slow/snapshot"); code != 202 {
		t.Fatalf("%d %s", code, body)
	}
	waitFor(t, "the source hangs", func() bool { _, err := os.Stat(hang + ".on"); return err == nil })
	child := s.children(t)[0]
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child)); err != nil || string(name) == "exe\n" {
		t.Errorf("the kernel calls the process of the run %q; %v", name, err)
	}
	during := memoryOf(t, child)
	if err := os.Remove(hang); err != nil {
		t.Fatal(err)
	}
	s.captured(t, "slow", 1)
	if left := s.children(t); len(left) > 0 {
		t.Errorf("processes %v are there after the run", left)
	}
	s.take(t, "web")

	secrets := m.secrets(t)
	if len(secrets) < 4 { // of each session the secret, and the key of an object at least
		t.Fatalf("%d secrets", len(secrets))
	}
	seen, after := 0, memoryOf(t, s.cmd.Process.Pid)
	for what, secret := range secrets {
		if bytes.Contains(during, secret) {
			seen++
		}
		if bytes.Contains(after, secret) {
			t.Errorf("the daemon's memory has %s", what)
		}
	}
	if seen == 0 {
		t.Errorf("nothing is found in %d bytes of the process of the run either: the search is broken", len(during))
	}
	if !bytes.Contains(after, []byte(s.socket())) {
		t.Errorf("%d bytes of the daemon's memory have not even the name of its socket", len(after))
	}
	t.Logf("%d secrets; %d of them in %d bytes of the run, none in %d of the daemon", len(secrets), seen, len(during), len(after))
}

// children are the processes that the daemon started, and that are there.
func (s *service) children(t *testing.T) (pids []int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		b, _ := os.ReadFile(list) // the thread may have ended
		for _, field := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// memoryOf is what a process can write in its memory.
func memoryOf(t *testing.T, pid int) (all []byte) {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		b := make([]byte, to-from)
		n, err := mem.ReadAt(b, from)
		if err != nil && n == 0 { // such as [vvar]
			continue
		}
		all = append(all, b[:n]...)
	}
	return all
}

// secrets are those of all sessions, and the keys derived from them, by what they
// are: with the identity, as a restore has them.
func (m *machine) secrets(t *testing.T) map[string][]byte {
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
	file, err := identity.Load(m.identity, func() ([]byte, error) { return nil, io.EOF })
	if err != nil {
		t.Fatal(err)
	}
	r.Unlock(file)
	host, err := r.Host(ctx)
	if err != nil {
		t.Fatal(err)
	}
	reader := r.NewReader(host.Name, host.Domain)
	defer reader.Close()

	secrets, id, domain := map[string][]byte{}, r.ID(), host.Domain.ID
	for o, err := range store.List(ctx, storage.ListOptions{Prefix: layout.PrefixHost(host.Name)}) {
		if err != nil {
			t.Fatal(err)
		}
		kind := wire.KindPack
		_, _, hash, ok := layout.ParsePackKey(o.Key)
		if !ok {
			kind = wire.KindManifest
			if _, _, hash, ok = layout.ParseManifestKey(o.Key); !ok {
				continue
			}
		}
		tail, _, err := reader.Contents(ctx, kind, hash, o.Size)
		if err != nil {
			t.Fatal(err)
		}
		epoch, err := r.EpochSecret(ctx, tail.Session.Epoch)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := epoch.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		key, err := hpke.MLKEM768X25519().NewPrivateKey(plain)
		if err != nil {
			t.Fatal(err)
		}
		info := append(append(append([]byte("knowngood v1 session"), id[:]...), tail.Session.Epoch[:]...), tail.Session.ID[:]...)
		session, err := hpke.Open(key, hpke.HKDFSHA256(), hpke.AES256GCM(), info, tail.Session.Sealed)
		if err != nil {
			t.Fatal(err)
		}
		of := append([]byte("knowngood v1 frames"), byte(kind))
		derived, err := hkdf.Key(sha256.New, session, tail.Salt[:], string(append(append(of, id[:]...), domain[:]...)), 32)
		if err != nil {
			t.Fatal(err)
		}
		secrets[fmt.Sprintf("the secret of session %v", tail.Session.ID)] = session
		secrets["the key of "+o.Key] = derived
	}
	return secrets
}

func testAProcessThatIsKilled(t *testing.T) {
	t.Parallel()
	m := newMortal(t)
	m.up(t)
	daemon := m.cmd.Process.Pid
	m.dies(t, m.hang, func() {
		if code, body := m.fetch(t, "POST", "/api/v1/environments/web/snapshot"); code != 202 {
			t.Fatalf("%d %s", code, body)
		}
	}, func() { m.killChild(t) })

	run := m.captured(t, "web", 1)[0]
	if run.Result != report.Failed || !run.Died || !strings.Contains(run.Error, "signal: killed") {
		t.Errorf("the run: %+v", run)
	}
	m.said(t, "before web since hand", "after web died since hand", "on_failure web died since hand")
	waitFor(t, "somebody is notified", func() bool {
		b, err := os.ReadFile(m.told)
		return err == nil && bytes.Contains(b, []byte(`"web"`)) && bytes.Contains(b, []byte("died"))
	})
	if m.cmd.Process.Pid != daemon {
		t.Errorf("the daemon is process %d, it was %d", m.cmd.Process.Pid, daemon)
	}
	m.take(t, "web")
	m.said(t, "before web since hand", "after web success since hand")
	m.stop(t)
}

// killChild kills the one process of a run that the daemon has.
func (s *service) killChild(t *testing.T) {
	t.Helper()
	pids := s.children(t)
	if len(pids) != 1 {
		t.Fatalf("the daemon has the children %v", pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func testAProcessEndsWithTheDaemon(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *mortal){
		"that is killed":  func(_ *testing.T, m *mortal) { m.kill() },
		"that is stopped": func(t *testing.T, m *mortal) { m.stop(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMortal(t)
			m.up(t)
			var child int
			m.dies(t, m.hang, func() {
				if code, body := m.fetch(t, "POST", "/api/v1/environments/web/snapshot"); code != 202 {
					t.Fatalf("%d %s", code, body)
				}
			}, func() {
				child = m.children(t)[0]
				end(t, m)
			})
			waitFor(t, "the process of the run ends", func() bool { return syscall.Kill(child, 0) != nil })
			m.up(t)
			run := m.captured(t, "web", 1)[0]
			if killed := name == "that is killed"; run.Died != killed || !killed && run.Result != report.Interrupted {
				t.Errorf("the run: %+v", run)
			}
		})
	}
}

func testOnlyADaemonStartsOne(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	m.run(t, "internal", "capture").exits(t, exit.Usage)
}

// Each in a process of its own.
func testThreeKeepOneLimit(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	const each, limit = 1 << 20, 1 << 20 // bytes, and bytes a second
	text := "limits: {upload: 1MiB}\nmax_runs: 3\nenvironments:\n"
	names := []string{"one", "two", "three"}
	for _, name := range names {
		src := treetest.TempDir(t)
		grow(t, src, name, each)
		text += fmt.Sprintf("  %s: {sources: [{path: %s}]}\n", name, src)
	}
	s := newService(t, m, "%s", text)
	s.up(t)
	began := time.Now()
	for _, name := range names {
		if code, body := s.fetch(t, "POST", "/api/v1/environments/"+name+"/snapshot"); code != 202 {
			t.Fatalf("%d %s", code, body)
		}
	}
	for _, name := range names {
		if run := s.captured(t, name, 1)[0]; run.Result != report.Success {
			t.Errorf("the run of %s: %+v", name, run)
		}
	}
	// Faster than this no three could be that share the limit: a part of a second
	// passes at once.
	if took := time.Since(began); took < 2500*time.Millisecond {
		t.Errorf("%d bytes took %v at %d bytes a second", len(names)*each, took, limit)
	}
}
