package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"knowngood/daemon/notify"
	"knowngood/daemon/report"
)

// messages are what was told, in order.
func messages(t *testing.T, file string) []notify.Message {
	t.Helper()
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []notify.Message
	for d := json.NewDecoder(f); ; {
		var m notify.Message
		if err := d.Decode(&m); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
			return list
		}
		list = append(list, m)
	}
}

func kinds(list []notify.Message) (out []notify.Kind) {
	for _, m := range list {
		out = append(out, m.Kind)
	}
	return out
}

func TestDamageAndFailuresAreToldOnce(t *testing.T) {
	t.Parallel()
	repo := filepath.Join(t.TempDir(), "repo")
	m := newMachine(t, repo)
	down, told := filepath.Join(t.TempDir(), "down"), filepath.Join(t.TempDir(), "told")
	s := newService(t, m, "environments: {web: {sources: [{command: [sh, -c, \"echo rows; test ! -e %s\"], as: dump}]}}\nnotify: {command: [sh, -c, \"cat >>%s\"]}\n", down, told)
	s.up(t)
	s.take(t, "web")
	roots, err := filepath.Glob(filepath.Join(repo, "hosts/*/roots/web/*"))
	if err != nil || len(roots) != 1 {
		t.Fatalf("roots: %v, %v", roots, err)
	}
	root, err := os.ReadFile(roots[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := range root {
		root[i] ^= 0x55
	}
	replaceFile(t, roots[0], root)
	for range 3 {
		s.take(t, "web") // which needs nothing of it
	}
	r := s.until(t, "the damage is in the report", func(r *report.Report) bool { return len(r.Warnings) > 0 })
	if w := r.Warnings[0]; len(r.Warnings) > 1 || !w.Tampering || !strings.Contains(w.Text, "damaged root hosts/") {
		t.Errorf("the warnings: %+v", r.Warnings)
	}
	if o := s.ask(t, "status"); !strings.Contains(o.stdout.String(), "The repository was tampered with, see the warnings.") {
		t.Errorf("status: %s", &o.stdout)
	}

	if err := os.WriteFile(down, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		run, err := s.client.Snapshot(t.Context(), "web", nil)
		if err != nil {
			t.Fatal(err)
		}
		if run.Result != report.Failed || run.Error == "" {
			t.Fatalf("of a source that fails: %+v", run)
		}
	}
	if err := os.Remove(down); err != nil {
		t.Fatal(err)
	}
	if run := s.take(t, "web"); run.Snapshot != "web@5" {
		t.Errorf("the run after it: %+v", run)
	}
	waitFor(t, "the recovery is told", func() bool { return slices.Contains(kinds(messages(t, told)), notify.Recovery) })
	s.stop(t)
	if list := kinds(messages(t, told)); !slices.Equal(list, []notify.Kind{notify.Damage, notify.Failure, notify.Recovery}) {
		t.Errorf("told: %v", list)
	}
}

// replaceFile writes a file that may be read-only.
func replaceFile(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file+".new", content, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func TestABrokenPromiseIsToldOnceAndMetAgainOnce(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	told := filepath.Join(t.TempDir(), "told")
	s := newService(t, m, "environments: {web: {rpo: 3s, sources: [{path: %s}]}}\nnotify: {command: [sh, -c, \"cat >>%s\"]}\n", t.TempDir(), told)
	s.up(t)
	// Without a snapshot it is broken when there was time for one.
	s.until(t, "there was time", func(r *report.Report) bool { return r.Now.Sub(r.Started) > environmentOf(r, "web").RPO() })
	s.hup(t)
	waitFor(t, "the broken promise is told", func() bool { return len(messages(t, told)) > 0 })
	for range 3 { // further looks tell nothing
		s.hup(t)
	}
	if o := s.ask(t, "status"); o.code != exitFailed {
		t.Errorf("status ends with %d while a promise is broken", o.code)
	}
	s.take(t, "web")
	waitFor(t, "the met promise is told", func() bool { return len(messages(t, told)) > 1 })
	if list := kinds(messages(t, told)); !slices.Equal(list[:2], []notify.Kind{notify.RPO, notify.RPOMet}) {
		t.Errorf("told: %v", list)
	}
	s.until(t, "the promise is broken again", func(r *report.Report) bool { return environmentOf(r, "web").RPOBroken })
	s.hup(t)
	waitFor(t, "that is told", func() bool { return len(messages(t, told)) > 2 })
	s.stop(t)
	if list := kinds(messages(t, told)); !slices.Equal(list, []notify.Kind{notify.RPO, notify.RPOMet, notify.RPO}) {
		t.Errorf("told: %v", list)
	}
}
