package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"knowngood/cmd/knowngood/exit"
	"knowngood/internal/treetest"
	"knowngood/snapshot/walk"
)

// damage harms an object in a copy of the repository and of the state of one
// host. A restore then gives back what it reports, a check reports what
// any restore misses, and the host makes its next snapshot whole.
func (w *world) damage() {
	h, e := w.environment()
	if e.newest == 0 {
		return
	}
	copied := *w
	copied.repo = filepath.Join(w.dir, "damaged")
	state := filepath.Join(w.dir, "damaged-state")
	defer w.discard(copied.repo)
	defer w.discard(state)
	must(w.t, "cp", "-a", w.repo, copied.repo)
	must(w.t, "cp", "-a", h.state, state)
	m := *h.machine
	m.repo, m.state = copied.repo, state
	host := &torturedHost{name: h.name, machine: &m}
	key, how := copied.harm()
	w.log("in a copy of the repository, %s: %s", how, key)

	hurt := copied.hurt()
	o := copied.run(host, "check", "--read-data")
	if o.code != exit.Damage {
		o.exits(w.t, exit.Done)
		if hurt > 0 {
			w.t.Errorf("step %d: %d snapshots cannot be restored whole, and a check finds no damage", w.step, hurt)
		}
	} else if !strings.Contains(o.stdout.String()+o.stderr.String(), filepath.Base(key)) {
		w.t.Errorf("step %d: a check does not name %s:\n%s%s", w.step, key, &o.stdout, &o.stderr)
	}

	// The check has left a report for the host of what is lost.
	tree := treetest.Snapshot(w.t, e.src)
	if o = copied.run(host, "snapshot", "--env", e.name, e.src); o.code != exit.Done && !o.suspect() {
		if strings.Contains(key, "/packs/") || strings.Contains(key, "/manifests/") || strings.Contains(key, "/index/") {
			o.exits(w.t, exit.Done)
		}
		return
	}
	s := &snapshotModel{ref: h.name + "/" + strings.TrimSpace(o.stdout.String()), src: e.src, tree: tree}
	copied.restores(copied.anybody(), s)
}

// harm damages a random object and returns its key.
func (w *world) harm() (key, how string) {
	w.t.Helper()
	var files []string
	err := filepath.WalkDir(w.repo, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	// Packs are few beside all that is small.
	var packs []string
	for _, f := range files {
		if strings.Contains(f, "/packs/") {
			packs = append(packs, f)
		}
	}
	if len(packs) > 0 && w.random.IntN(2) == 0 {
		files = packs
	}
	file := files[w.random.IntN(len(files))]
	content, err := os.ReadFile(file)
	if err == nil {
		err = os.Remove(file)
	}
	switch how = []string{"removed", "cut", "a bit flipped", "emptied"}[w.random.IntN(4)]; how {
	case "removed":
		content = nil
	case "cut":
		content = content[:w.random.IntN(max(1, len(content)))]
	case "a bit flipped":
		if len(content) > 0 {
			content[w.random.IntN(len(content))] ^= 1 << w.random.IntN(8)
		}
	case "emptied":
		content = content[:0]
	}
	if err == nil && how != "removed" {
		err = os.WriteFile(file, content, 0o644)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimPrefix(file, w.repo+"/"), how
}

// partial counts the snapshots that do not restore whole. What a restore leaves
// out it names, and it reports that it did.
func (w *world) hurt() (hurt int) {
	w.t.Helper()
	anybody := w.anybody()
	w.all(func(_ *torturedHost, _ *environment, _ int, s *snapshotModel) bool {
		if s.forgotten {
			return true
		}
		out := w.scratch()
		o := w.run(anybody, "restore", "--json", s.ref+":"+s.src, "--target", out)
		if s.restored(w.t, o) {
			w.equal(s, out)
			w.discard(out)
			return !w.t.Failed()
		}
		hurt++
		if _, err := os.Stat(out); err != nil {
			return true // it did not begin
		}
		problems, lists := o.problems(w.t), o.lostLists(w.t)
		for _, d := range s.compare(treetest.Snapshot(w.t, out)) {
			if d.Path != walk.RestoreMarker && !isNamed(problems, s.src, d.Path) && !inLost(lists, filepath.Join(s.src, d.Path)) { // the restore may go on
				w.t.Errorf("step %d: %s: exit code %d, but not named: %v\n%s", w.step, s.ref, o.code, d, &o.stderr)
			}
		}
		w.discard(out)
		return !w.t.Failed()
	})
	return hurt
}
