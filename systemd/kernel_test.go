package systemd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testOnTheKernelOfDebian runs tests of other packages where the kernel is Debian's, and not
// this machine's: it is older, knows control groups of version 2 only, and has modules.
func testOnTheKernelOfDebian(t *testing.T) {
	out := onDebianKernel(t, `
echo +pids +memory +cpu >/sys/fs/cgroup/cgroup.subtree_control
./isolate.test -test.v -test.run '^TestCell$/^is_proven/^namespaces'
./isolate.test -test.v -test.run '^TestEscape$/^(a_fork_bomb_stays|a_memory_bomb)'
KNOWNGOOD_SLOW=1 ./generation.test -test.v -test.run '^TestSlow$/^fs-verity'
`, "../restore/isolate", "../restore/generation")
	if !strings.Contains(out, "cgroup v2") || !strings.Contains(out, "--- PASS: TestSlow/fs-verity") || strings.Contains(out, "--- SKIP") {
		t.Error("not all of it ran, in control groups of version 2")
	}
}

// onDebianKernel boots a Debian on that kernel in an emulator, runs a shell script in it as
// root, and returns what it printed. The script is in a directory with the tests of packages,
// such as ./isolate.test; a command in it that fails fails the test.
func onDebianKernel(t *testing.T, script string, packages ...string) string {
	t.Helper()
	needs(t, "qemu-system-x86_64")
	needs(t, "mkfs.ext4")
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("busybox-static is not installed")
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can copy a Debian")
	}
	kernel, modules := debianKernel(t)

	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	run(t, "cp", "-a", debian(t), root)
	run(t, "cp", "-a", modules, filepath.Join(root, "usr/lib/modules"))
	run(t, "go", append([]string{"test", "-c", "-o", filepath.Join(root, "root") + "/"}, packages...)...)
	for path, text := range map[string]string{
		"root/busybox": string(busybox),
		"root/script":  "set -e\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\ncd /root\n./busybox ip link set lo up\n./busybox depmod\nfor m in loop overlay; do ./busybox modprobe $m; done\n" + script,
	} {
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	disk := filepath.Join(dir, "disk")
	run(t, "truncate", "-s", "2G", disk)
	run(t, "mkfs.ext4", "-q", "-O", "verity", "-d", root, disk)
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, firstRoot(t, modules, busybox), 0o600); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-smp", "2", "-m", "2G", "-nographic", "-no-reboot", "-nic", "none",
		"-drive", "if=virtio,format=raw,cache=unsafe,file="+disk, "-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1")
	out, err := qemu.CombinedOutput()
	if _, text, found := strings.Cut(string(out), "the script begins"); found {
		out = []byte(text)
	}
	if err != nil || !bytes.Contains(out, []byte("the script ended with 0\r\n")) {
		t.Fatalf("on the kernel %s: %v\n%s", kernel, err, out)
	}
	t.Logf("%s", out)
	return string(out)
}

// debianKernel is a kernel of this machine's own release and the directory of its modules,
// kept in the user's cache.
func debianKernel(t *testing.T) (kernel, modules string) {
	t.Helper()
	dir := cached(t, "kernel", func(temp string) {
		name := strings.TrimSpace(run(t, "apt-cache", "depends", "--important", "linux-image-cloud-amd64"))
		name = name[strings.LastIndexByte(name, ' ')+1:]
		download := exec.Command("apt-get", "download", "-qq", name)
		download.Dir = temp
		if out, err := download.CombinedOutput(); err != nil {
			t.Fatalf("apt-get download %s: %v\n%s", name, err, out)
		}
		debs, _ := filepath.Glob(filepath.Join(temp, "*.deb"))
		run(t, "dpkg-deb", "-x", debs[0], temp)
	})
	kernels, _ := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
	trees, _ := filepath.Glob(filepath.Join(dir, "lib/modules/*"))
	if len(kernels) != 1 || len(trees) != 1 {
		t.Fatalf("%s holds %d kernels and %d trees of modules", dir, len(kernels), len(trees))
	}
	return kernels[0], filepath.Dir(trees[0])
}

// firstRoot is the archive (cpio, newc) of the root that the kernel begins with: it mounts
// the disk and runs the script there.
func firstRoot(t *testing.T, modules string, busybox []byte) []byte {
	t.Helper()
	var archive bytes.Buffer
	add := func(path string, mode int, text []byte) {
		fmt.Fprintf(&archive, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", archive.Len()+1, mode, 0, 0, 1, 0, len(text), 0, 0, 0, 0, len(path)+1, 0, path)
		archive.Write(make([]byte, -archive.Len()&3))
		archive.Write(text)
		archive.Write(make([]byte, -archive.Len()&3))
	}
	init := "#!/bin/busybox sh\n/bin/busybox mount -t devtmpfs dev /dev\n"
	for _, dir := range []string{"bin", "dev", "root"} {
		add(dir, 0o40755, nil)
	}
	for _, name := range []string{"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"} {
		found, _ := filepath.Glob(filepath.Join(modules, "*/kernel/drivers/*/"+name+".ko"))
		if len(found) != 1 {
			continue // it is part of the kernel
		}
		module, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		add(name+".ko", 0o100644, module)
		init += "/bin/busybox insmod /" + name + ".ko\n"
	}
	init += `cd /bin && for p in mount mkdir switch_root; do ./busybox ln -s busybox $p; done
mount -t ext4 /dev/vda /root && cd /root
mount -t proc proc proc; mount -t sysfs sys sys; mount -t devtmpfs dev dev; mount -t tmpfs run run
mkdir dev/pts dev/shm; mount -t devpts devpts dev/pts; mount -t tmpfs shm dev/shm; mount -t cgroup2 cgroup2 sys/fs/cgroup
exec switch_root /root /bin/sh -c 'echo the script begins; sh /root/script; echo the script ended with $?; sync; echo o >/proc/sysrq-trigger; sleep 60'
`
	add("bin/busybox", 0o100755, busybox)
	add("init", 0o100755, []byte(init))
	add("TRAILER!!!", 0, nil)
	return archive.Bytes()
}
