package isolate_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/restore/isolate"
)

func newSpec(t *testing.T, rung, base string) isolate.Spec {
	t.Helper()
	dir := t.TempDir()
	s := isolate.Spec{Rung: rung, Base: base, Tree: filepath.Join(dir, "tree"), Scratch: filepath.Join(dir, "scratch")}
	for _, d := range []string{s.Tree, s.Scratch} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func start(t *testing.T, s isolate.Spec) *isolate.Cell {
	t.Helper()
	c, err := isolate.Start(context.Background(), []string{"test", "cell"}, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func ask(t *testing.T, c *isolate.Cell, r request) answer {
	t.Helper()
	if err := json.NewEncoder(c.In()).Encode(r); err != nil {
		t.Fatal(err, c.Stderr())
	}
	var a answer
	if err := json.NewDecoder(c.Out()).Decode(&a); err != nil {
		t.Fatal(err, c.Stderr())
	}
	return a
}

func TestCell(t *testing.T) {
	t.Run("is proven before anything runs", func(t *testing.T) {
		for _, rung := range []string{isolate.Namespaces, isolate.Static} {
			t.Run(rung, func(t *testing.T) {
				c := start(t, newSpec(t, rung, "none"))
				p := c.Proof()
				if len(p.Attempts) < 70 {
					t.Errorf("only %d attempts", len(p.Attempts))
				}
				for _, a := range p.Attempts {
					if !a.Refused {
						t.Error(a.What)
					}
				}
				if p.Limits == "" {
					t.Error("what holds the limits is not said")
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				if err := c.Close(); err != nil {
					t.Error("closing again:", err)
				}
			})
		}
	})

	t.Run("programs of the machine run above the tree", func(t *testing.T) {
		s := newSpec(t, isolate.Namespaces, "host")
		write(t, s.Tree+"/usr/share/ours", "from the tree")
		write(t, s.Tree+"/etc/passwd", "root:x:0:0:tree:/:/bin/sh\n")
		s.Limits.Nice = 12
		c := start(t, s)

		if a := ask(t, c, request{Argv: []string{"/bin/sh", "-c", "nice; nice -n -1 nice"}}); a.Output != "12\n12\n" && !strings.HasPrefix(a.Output, "12\nnice: ") {
			t.Errorf("its programs do not give way: %+v", a)
		}
		a := ask(t, c, request{Argv: []string{"/bin/sh", "-c", "cat /usr/share/ours /etc/passwd && echo new > /usr/share/ours && cat /usr/share/ours && ls /usr/bin/env && awk 'BEGIN{print 1+1}'"}})
		if want := "from the treeroot:x:0:0:tree:/:/bin/sh\nnew\n/usr/bin/env\n2\n"; a.Output != want || a.Error != "" {
			t.Errorf("got %+v, want %q", a, want)
		}
		if text, err := os.ReadFile(s.Tree + "/usr/share/ours"); err != nil || string(text) != "from the tree" {
			t.Error("the tree has changed:", string(text), err)
		}
	})

	// A tree with a path of its own is what it was outside, and can be changed: by its owners.
	t.Run("a tree beside the machines programs can be changed", func(t *testing.T) {
		s := newSpec(t, isolate.Namespaces, "host")
		s.At = "/srv/some/app"
		write(t, s.Tree+"/a", "old")
		write(t, s.Tree+"/usr/share/ours", "not above the machine's")
		c := start(t, s)

		a := ask(t, c, request{Argv: []string{"/bin/sh", "-c", "cat /srv/some/app/a && cd /srv/some/app && echo new >a && mkdir b && chmod 4750 b && { (echo x >/usr/bin/x) 2>/dev/null; ! test -e /usr/share/ours; } && test $(wc -l </proc/net/dev) = 3 && echo done"}})
		if a.Output != "olddone\n" || a.Error != "" {
			t.Errorf("%+v", a)
		}
		for path, want := range map[string]os.FileMode{"a": 0o644, "b": os.ModeDir | os.ModeSetuid | 0o750} {
			info, err := os.Stat(filepath.Join(s.Tree, path))
			if err != nil || info.Mode() != want || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
				t.Errorf("%s: %+v, %v", path, info, err)
			}
		}
		if text, err := os.ReadFile(filepath.Join(s.Tree, "a")); err != nil || string(text) != "new\n" {
			t.Errorf("it holds %q, %v", text, err)
		}
		if _, err := os.Stat("/usr/bin/x"); err == nil {
			t.Error("it changed the machine")
		}
	})

	// A cell with the network of the machine reaches what listens there, and nothing else of it.
	t.Run("the network is that of the machine only where it is asked for", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("hello"))
				c.Close()
			}
		}()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		for _, network := range []bool{true, false} {
			s := newSpec(t, isolate.Namespaces, "host")
			s.At, s.Network = "/srv/app", network
			c := start(t, s)
			for _, attempt := range c.Proof().Attempts {
				if !attempt.Refused {
					t.Error(attempt.What)
				}
			}
			if a := ask(t, c, request{Argv: []string{"/bin/bash", "-c", "cat </dev/tcp/127.0.0.1/" + port}}); (a.Output == "hello") != network {
				t.Errorf("with the network %v: %+v", network, a)
			}
			c.Close()
		}
	})

	t.Run("static reads the tree and nothing else", func(t *testing.T) {
		s := newSpec(t, isolate.Static, "")
		write(t, s.Tree+"/a", "hello")
		if err := os.Symlink("/etc/passwd", s.Tree+"/link"); err != nil {
			t.Fatal(err)
		}
		c := start(t, s)
		if a := ask(t, c, request{Read: "a"}); a.Output != "hello" || a.Error != "" {
			t.Errorf("%+v", a)
		}
		for _, r := range []request{{Read: "/etc/passwd"}, {Read: "link"}, {Argv: []string{"/bin/true"}}} {
			if a := ask(t, c, r); a.Output != "" || a.Error == "" {
				t.Errorf("%v was not refused: %+v", r, a)
			}
		}
	})

	t.Run("static works in a hardened unit", func(t *testing.T) {
		s := newSpec(t, isolate.Static, "")
		for name, a := range map[string]*syscall.SysProcAttr{
			"without rights":           {Credential: &syscall.Credential{Uid: nobody, Gid: nobody}},
			"that may read every file": {Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: []uintptr{unix.CAP_DAC_READ_SEARCH}},
		} {
			if os.Geteuid() != 0 {
				a = nil
			}
			cmd := exec.Command("/proc/self/exe", "hardened", s.Tree, s.Scratch)
			if err := os.Chmod(filepath.Dir(filepath.Dir(s.Tree)), 0o755); err != nil {
				t.Fatal(err)
			}
			cmd.Dir, cmd.SysProcAttr = "/", a
			out, err := cmd.CombinedOutput()
			t.Logf("%s: %s", name, out)
			if err != nil {
				t.Error(err)
			}
		}
	})

	t.Run("a tree whose users cannot be mapped", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root, for a mount")
		}
		s := newSpec(t, isolate.Namespaces, "host")
		dir := t.TempDir()
		for _, d := range []string{"lower", "upper", "work"} {
			write(t, filepath.Join(dir, d, "x"), "x")
		}
		_ = os.Remove(filepath.Join(dir, "work/x"))
		options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
		if err := unix.Mount("test", s.Tree, "overlay", 0, options); err != nil {
			t.Skip("needs an overlay, which cannot be mapped:", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(s.Tree, unix.MNT_DETACH) })
		program(t, s.Tree+"/attack", 0o755)
		if err := errors.Join(os.Mkdir(s.Tree+"/srv", 0o755), unix.Mknod(s.Tree+"/srv/zero", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))), os.Symlink("/proc/self/exe", s.Tree+"/self")); err != nil {
			t.Fatal(err)
		}
		s.Limits = isolate.Limits{Disk: 32 << 20, Memory: 256 << 20, Processes: 100}

		c, err := isolate.Start(context.Background(), []string{"test", "cell"}, s)
		var none *isolate.Unreachable
		if errors.As(err, &none) && strings.Contains(none.Why, "control group") {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}()
		nothing(t, c, "write", "/srv/zero", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/1/mem", "/proc/1/oom_score_adj", "/dev/vda", "/dev/mem", "/proc/mtrr")
		nothing(t, c, "look", "/proc/1/environ", "/proc/1/exe", "/etc/shadow", "/proc/1/fd/3", "/proc/kcore", "/proc/keys")
		nothing(t, c, "device")
		nothing(t, c, "change", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
		// A link of the tree that leads to this program runs it from where the machine has it.
		if a := ask(t, c, request{Argv: []string{"/self", "attack", "change", "/proc/self/exe", "/attack"}}); a.Output != "can change /attack\n" || a.Error != "" {
			t.Errorf("the program of the cell: %+v", a)
		}
		if a := ask(t, c, request{Argv: []string{"/bin/sh", "-c", "echo x > /dev/null && head -c 1 /dev/zero > /dev/shm/x"}}); a.Output != "" || a.Error != "" {
			t.Errorf("devices cannot be used: %+v", a)
		}
		if a := ask(t, c, request{Argv: []string{"/bin/sh", "-c", "grep -c ' 0 *0 *4294967295' /proc/self/uid_map; exec 2>&1; for i in $(seq 300); do sleep 2 & done"}}); !strings.Contains(a.Output, "1\n") || !strings.Contains(a.Output, "ork") {
			t.Errorf("%+v", a)
		}
		if c.Usage().ProcessLimit == 0 {
			t.Error("its processes were not limited")
		}
	})

	t.Run("without rights", func(t *testing.T) {
		asNobody(t, "^TestCell$/^(is_proven|programs_of_the_machine|static_reads)")
	})

	t.Run("large users of the tree are users of the cell", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("takes root")
		}
		s := newSpec(t, isolate.Namespaces, "host")
		const user = 1_000_001 // as directories of companies have them
		file := filepath.Join(s.Tree, "srv", "file")
		if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(file, []byte("theirs"), 0o600), os.Chown(file, user, user+1)); err != nil {
			t.Fatal(err)
		}
		s.IDs = []uint32{165_536, 165_537, user, user + 1}
		for _, c := range []struct {
			name string
			r    request
			want string
		}{
			{"its owner reads it", request{Argv: []string{"cat", "/srv/file"}, UID: user}, "theirs"},
			{"root changes it", request{Argv: []string{"sh", "-c", "echo more >>/srv/file && cat /srv/file && stat -c %u:%g /srv/file"}}, "theirsmore\n1000001:1000002\n"},
			{"a group of containers", request{Argv: []string{"sh", "-c", "touch /tmp/x && chown 165536:165537 /tmp/x && stat -c %u:%g /tmp/x"}}, "165536:165537\n"},
		} {
			if a := ask(t, start(t, s), c.r); a.Output != c.want || a.Error != "" {
				t.Errorf("%s: %q, %s", c.name, a.Output, a.Error)
			}
			if err := os.RemoveAll(s.Scratch); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(s.Scratch, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
