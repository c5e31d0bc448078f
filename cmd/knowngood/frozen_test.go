package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"knowngood/configs"
	"knowngood/internal/command"
)

// frozen is a file system below dir that hooks freeze for a run.
type frozen struct {
	live, view string // the data, and where it is seen frozen
	hooks      configs.Hooks
}

// frozenBy makes the hooks of one of our scripts.
func frozenBy(script, volume, view string) configs.Hooks {
	one := func(what string) []configs.Hook {
		return []configs.Hook{{Command: []string{script, what, volume, view}}}
	}
	return configs.Hooks{Before: one("before"), After: one("after")}
}

// mounted makes and mounts a file system.
func mounted(t *testing.T, device, at string, mkfs ...string) {
	t.Helper()
	output(t, nil, append(mkfs, device)...)
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("mount", device, at).CombinedOutput()
	if err != nil {
		t.Skipf("needs to mount %s: %s", strings.Join(mkfs, " "), strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() { output(t, nil, "umount", at) })
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// holds demands the content of a file.
func mustHold(t *testing.T, path, want string) {
	t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("%s holds %q, want %q: %v", path, b, want, err)
	}
}

func absent(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("%s is there (%v)", path, err)
	}
}

// run captures what is frozen, restores it and returns where.
func (f *frozen) run(t *testing.T, m *machine, meanwhile func()) string {
	t.Helper()
	if err := hooks(t, f.hooks.Before); err != nil {
		t.Fatalf("before: %v", err)
	}
	meanwhile()
	config := filepath.Join(t.TempDir(), "config.yaml")
	write(t, config, fmt.Sprintf("environments: {web: {sources: [{path: %q, frozen: true}]}}\n", f.view))
	s := decode[snapshotResult](t, m.must(t, "snapshot", "--json", "--config", config, "web"))
	if text := m.must(t, "show", s.Ref, "--json"); !strings.Contains(text, `"frozen":true`) {
		t.Errorf("the snapshot does not record that its source was frozen: %s", text)
	}
	if err := hooks(t, f.hooks.After); err != nil {
		t.Fatalf("after: %v", err)
	}
	target := filepath.Join(t.TempDir(), "out")
	m.must(t, "restore", s.Ref+":"+f.view, "--target", target)
	return target
}

// demands are those on all freezers.
func (f *frozen) demands(t *testing.T) {
	t.Helper()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	one, two := filepath.Join(f.live, "one"), filepath.Join(f.live, "dir/two")
	put(t, one, "1")
	put(t, two, "1")
	out := f.run(t, m, func() { // a writer between whose files the capture could fall
		put(t, one, "2")
		put(t, two, "2")
	})
	mustHold(t, filepath.Join(out, "one"), "1")
	mustHold(t, filepath.Join(out, "dir/two"), "1")
	absent(t, filepath.Join(f.view, "one"))

	// What a crash left is replaced.
	if err := hooks(t, f.hooks.Before); err != nil {
		t.Fatal(err)
	}
	put(t, one, "3")
	out = f.run(t, m, func() { put(t, one, "4") })
	mustHold(t, filepath.Join(out, "one"), "3")

	// Unchanged files are known by their inodes, whatever they are seen through.
	if err := hooks(t, f.hooks.Before); err != nil {
		t.Fatal(err)
	}
	m.snapshot(t, "web", f.view)
	if err := hooks(t, append(f.hooks.After, f.hooks.Before...)); err != nil {
		t.Fatal(err)
	}
	if s := m.snapshot(t, "web", f.view); s.ReadFiles != 0 {
		t.Errorf("%d unchanged files were read again", s.ReadFiles)
	}
	// after may run twice, and after a before that failed.
	for range 2 {
		if err := hooks(t, f.hooks.After); err != nil {
			t.Fatal(err)
		}
	}
	mustHold(t, one, "4")
}

func TestFrozen(t *testing.T) {
	t.Parallel()
	t.Run("a Btrfs subvolume is frozen for a run", testABtrfsSubvolumeIsFrozenForARun)
	t.Run("an LVM volume is frozen for a run", testAnLVMVolumeIsFrozenForARun)
	t.Run("the LVM hooks call what they should", testTheLVMHooksCallWhatTheyShould)
}

func testABtrfsSubvolumeIsFrozenForARun(t *testing.T) {
	t.Parallel()
	needs(t, true, "mkfs.btrfs", "btrfs")
	disk := filepath.Join(t.TempDir(), "disk")
	mounted(t, loopback(t, "256M"), disk, "mkfs.btrfs", "-q")
	live, view, script := filepath.Join(disk, "my web"), filepath.Join(disk, ".knowngood web"), hook(t, "btrfs-snapshot")
	output(t, nil, "btrfs", "subvolume", "create", live)
	(&frozen{live: live, view: view, hooks: frozenBy(script, live, view)}).demands(t)

	// Nothing else is ever removed.
	other := filepath.Join(disk, "other")
	output(t, nil, "btrfs", "subvolume", "create", other)
	refuses := func(what, want string) {
		t.Helper()
		for _, list := range [][]configs.Hook{frozenBy(script, live, view).Before, frozenBy(script, live, view).After} {
			if err := hooks(t, list); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", what, err, want)
			}
		}
		if _, err := os.Stat(view); err != nil {
			t.Errorf("%s was removed: %v", what, err)
		}
	}
	output(t, nil, "btrfs", "subvolume", "snapshot", "-r", other, view)
	refuses("a snapshot of another", "is not a snapshot of")
	output(t, nil, "btrfs", "subvolume", "delete", view)
	output(t, nil, "btrfs", "subvolume", "snapshot", live, view)
	refuses("one that can be written to", "can be written to")
	output(t, nil, "btrfs", "subvolume", "delete", view)
	put(t, filepath.Join(view, "file"), "mine")
	refuses("a directory", "no subvolume")
	mustHold(t, filepath.Join(view, "file"), "mine")
	if err := hooks(t, frozenBy(script, filepath.Join(disk, "nothing"), view).Before); err == nil || !strings.Contains(err.Error(), "is no btrfs subvolume") {
		t.Errorf("no subvolume: %v", err)
	}
}

func testAnLVMVolumeIsFrozenForARun(t *testing.T) {
	t.Parallel()
	needs(t, true, "lvm", "mkfs.ext4", "findmnt", "blkid")
	if out, err := exec.Command("dmsetup", "version").CombinedOutput(); err != nil {
		t.Skipf("needs the device mapper, which this kernel lacks: %s", strings.TrimSpace(string(out)))
	}
	device := loopback(t, "512M")
	group := "knowngood" + strings.ToLower(filepath.Base(device))
	output(t, nil, "vgcreate", "-q", group, device)
	t.Cleanup(func() { output(t, nil, "vgremove", "-q", "--yes", group) })
	for name, fs := range map[string][]string{"ext4": {"mkfs.ext4", "-q"}, "xfs": {"mkfs.xfs", "-q"}} {
		t.Run(name, func(t *testing.T) {
			needs(t, true, fs[0])
			output(t, nil, "lvcreate", "-q", "--yes", "-L", "100M", "-n", name, group)
			dir := t.TempDir()
			live, view := filepath.Join(dir, "live"), filepath.Join(dir, "view")
			mounted(t, "/dev/"+group+"/"+name, live, fs...)
			h := frozenBy(hook(t, "lvm-snapshot"), group+"/"+name, view)
			(&frozen{live: live, view: view, hooks: h}).demands(t)

			output(t, nil, "lvcreate", "-q", "--yes", "-l", "1", "-n", name+"-knowngood", group)
			if err := hooks(t, h.Before); err == nil || !strings.Contains(err.Error(), "no snapshot of") {
				t.Errorf("a volume of the snapshot's name: %v", err)
			}
			output(t, nil, "lvs", group+"/"+name+"-knowngood")
		})
	}
}

// standIns for LVM and mounts keep one snapshot and one mount in files, and
// write down each call that changes something. They take the place of a kernel
// without the device mapper; testAnLVMVolumeIsFrozenForARun tries the real ones.
const standIns = `#!/bin/sh
name=${0##*/}
case $name in
lvcreate | lvremove | mount | umount) echo "$name $*" >>"$STATE/calls" ;;
esac
for last; do :; done
case $name in
lvs)
	case $last in
	vg/web) case "$*" in *segtype*) cat "$STATE/segtype" ;; esac ;;
	vg/web-knowngood)
		[ -e "$STATE/snapshot" ] || exit 5
		case "$*" in
		*origin*) cat "$STATE/snapshot" ;;
		*lv_path*) echo "  /dev/vg/web-knowngood" ;;
		*lv_snapshot_invalid*) cat "$STATE/invalid" ;;
		esac ;;
	*) exit 5 ;;
	esac ;;
lvcreate) echo "  web" >"$STATE/snapshot" ;;
lvremove) rm "$STATE/snapshot" ;;
blkid) cat "$STATE/type" ;;
mount) [ ! -e "$STATE/broken" ] || exit 32; echo "$last" >"$STATE/mounted" ;;
umount) rm "$STATE/mounted" ;;
mountpoint) false ;;
findmnt) cat "$STATE/mounted" 2>/dev/null ;;
esac
`

func testTheLVMHooksCallWhatTheyShould(t *testing.T) {
	t.Parallel()
	bin, state := t.TempDir(), t.TempDir()
	for _, name := range []string{"lvs", "lvcreate", "lvremove", "blkid", "mount", "umount", "mountpoint", "findmnt"} {
		put(t, filepath.Join(bin, name), standIns)
		if err := os.Chmod(filepath.Join(bin, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	view := filepath.Join(t.TempDir(), "my view")
	call := func(args ...string) error {
		c := command.Command{Argv: append([]string{hook(t, "lvm-snapshot")}, args...), Env: []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "STATE=" + state},
			Line: func(stream, line string) { t.Logf("%s: %s", stream, line) }}
		return c.Run(t.Context())
	}
	set := func(name, text string) { put(t, filepath.Join(state, name), text+"\n") }
	calls := func(want ...string) {
		t.Helper()
		b, _ := os.ReadFile(filepath.Join(state, "calls"))
		if got := strings.TrimSpace(string(b)); got != strings.Join(want, "\n") {
			t.Errorf("it called\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
		_ = os.Remove(filepath.Join(state, "calls"))
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	thick := "lvcreate --yes --quiet --snapshot --extents 20%ORIGIN --name web-knowngood vg/web"
	mount, umount, remove := "mount -o ro /dev/vg/web-knowngood "+view, "umount "+view, "lvremove --yes --quiet vg/web-knowngood"
	set("segtype", "  linear")
	set("type", "ext4")
	set("invalid", "")
	ok(call("before", "vg/web", view))
	calls(thick, mount)
	ok(call("before", "vg/web", view)) // after a crash
	calls(umount, remove, thick, mount)
	ok(call("after", "vg/web", view))
	calls(umount, remove)
	ok(call("after", "vg/web", view))
	calls()

	set("segtype", "  thin")
	set("type", "xfs")
	ok(call("before", "vg/web", view, "100%FREE"))
	calls("lvcreate --yes --quiet --snapshot --setactivationskip n --name web-knowngood vg/web", "mount -o ro,nouuid /dev/vg/web-knowngood "+view)
	set("invalid", "  snapshot invalid")
	if err := call("after", "vg/web", view); err == nil || !strings.Contains(err.Error(), "overflowed") {
		t.Errorf("a snapshot that overflowed: %v", err)
	}
	calls(umount, remove)

	set("segtype", "  linear")
	set("broken", "")
	if err := call("before", "vg/web", view, "50%FREE"); err == nil || !strings.Contains(err.Error(), "could not be mounted") {
		t.Errorf("a mount that fails: %v", err)
	}
	calls("lvcreate --yes --quiet --snapshot --extents 50%FREE --name web-knowngood vg/web", "mount -o ro,nouuid /dev/vg/web-knowngood "+view, remove)
	set("snapshot", "  other")
	for _, what := range []string{"before", "after"} {
		if err := call(what, "vg/web", view); err == nil || !strings.Contains(err.Error(), "no snapshot of vg/web") {
			t.Errorf("%s with a volume of somebody else's: %v", what, err)
		}
	}
	for _, args := range [][]string{{"before", "web", view}, {"before", "vg/web", "relative"}, {"freeze", "vg/web", view}, {"before"}} {
		if err := call(args...); err == nil || !strings.Contains(err.Error(), "exit status 2: usage") {
			t.Errorf("%q: %v", args, err)
		}
	}
	calls()
}
