package isolate_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/restore/isolate"
)

// hostile returns a cell above the machine's programs in whose tree /attack is
// this test program.
func hostile(t *testing.T, l isolate.Limits) *isolate.Cell {
	t.Helper()
	s := newSpec(t, isolate.Namespaces, "host")
	s.Limits = l
	program(t, s.Tree+"/attack", 0o755)
	return start(t, s)
}

func program(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// nothing asks for an attack that must print nothing.
func nothing(t *testing.T, c *isolate.Cell, kind string, args ...string) {
	t.Helper()
	a := ask(t, c, request{Argv: append([]string{"/attack", "attack", kind}, args...)})
	if a.Output != "" || a.Error != "" {
		t.Errorf("%s: %+v", kind, a)
	}
}

func TestEscape(t *testing.T) {
	t.Run("a fork bomb stays in its cell", func(t *testing.T) {
		c := hostile(t, isolate.Limits{Processes: 100})
		mark := fmt.Sprintf("knowngood-bomb-%d-%d", os.Getpid(), rand.Int())
		bomb := request{Argv: []string{"/attack", "attack", "fork", mark}}
		if err := json.NewEncoder(c.In()).Encode(bomb); err != nil {
			t.Fatal(err)
		}

		most := 0
		for range 40 {
			time.Sleep(50 * time.Millisecond)
			most = max(most, len(running(mark)))
			if err := exec.Command("/bin/true").Run(); err != nil {
				t.Fatal("the machine cannot fork any more:", err)
			}
		}
		t.Logf("at most %d processes; %+v; %s", most, c.Usage(), c.Proof().Limits)
		if most > 100+128 {
			t.Errorf("there were %d processes", most)
		}
		if most < 40 {
			t.Errorf("%d processes: that is no bomb", most)
		}
		if c.Proof().Limits != "rlimits" && c.Usage().ProcessLimit == 0 {
			t.Error("the limit was never reached")
		}
		began := time.Now()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > 20*time.Second {
			t.Errorf("the end took %v", d)
		}
		if left := running(mark); len(left) > 0 {
			t.Errorf("%d of them run on", len(left))
		}
	})

	t.Run("a fork bomb of root is held without control groups", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root, whom the limit of processes does not concern by itself")
		}
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestEscape$/^a_fork_bomb_stays", "-test.v", "-test.timeout=2m")
		cmd.Args = append([]string{"sh", "-c", `mount -t tmpfs none /sys/fs/cgroup && exec "$0" "$@"`}, cmd.Args...)
		cmd.Path = "/bin/sh"
		cmd.Args[3] = exe(t)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Unshareflags: 0}
		cmd.Args[2] = "mount --make-rprivate / && " + cmd.Args[2]
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil || !bytes.Contains(out, []byte("rlimits")) {
			t.Fatal(err)
		}
	})

	t.Run("a memory bomb ends nothing else", func(t *testing.T) {
		c := hostile(t, isolate.Limits{Memory: 256 << 20})
		a := ask(t, c, request{Argv: []string{"/attack", "attack", "memory"}})
		if a.Error == "" || strings.Contains(a.Output, "has") {
			t.Errorf("it got its memory: %+v", a)
		}
		u := c.Usage()
		t.Logf("%+v; %s", u, c.Proof().Limits)
		if c.Proof().Limits != "rlimits" && (u.OOMKills == 0 || u.PeakMemory < 128<<20 || u.PeakMemory > 257<<20) {
			t.Errorf("the counters are wrong: %+v", u)
		}
		if a := ask(t, c, request{Argv: []string{"/bin/echo", "alive"}}); a.Output != "alive\n" {
			t.Errorf("the cell has not survived: %+v", a)
		}
	})

	t.Run("what is written is limited", func(t *testing.T) {
		c := hostile(t, isolate.Limits{Disk: 48 << 20})
		a := ask(t, c, request{Argv: []string{"/attack", "attack", "disk", "/tmp", "/dev/shm", "/usr/share", "/run", "/etc", "/dev"}})
		n, err := strconv.Atoi(a.Output)
		if err != nil || n > 49<<20 || n < 16<<20 {
			t.Errorf("%d MiB were written: %+v", n>>20, a)
		}
	})

	t.Run("endless output ends with the cell", func(t *testing.T) {
		for _, rung := range []string{isolate.Namespaces, isolate.Static} {
			c := start(t, newSpec(t, rung, "none"))
			if _, err := io.WriteString(c.In(), `{"Flood":true}`); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, c.Out(), 8<<20); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if d := time.Since(began); d > 10*time.Second {
				t.Errorf("the end took %v", d)
			}
			if n := len(c.Stderr()); n == 0 || n > 4<<10 {
				t.Errorf("%d bytes of standard error", n)
			}
		}
	})

	t.Run("programs reach nothing of the machine", func(t *testing.T) {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		abstract, err := net.Listen("unix", "@knowngood-escape-"+strconv.Itoa(os.Getpid()))
		if err != nil {
			t.Fatal(err)
		}
		defer abstract.Close()
		secret := filepath.Join(t.TempDir(), "secret")
		write(t, secret, "of the machine")
		named, err := net.Listen("unix", secret+".sock")
		if err != nil {
			t.Fatal(err)
		}
		defer named.Close()

		c := hostile(t, isolate.Limits{})
		nothing(t, c, "reach", "tcp,"+tcp.Addr().String(), "unix,"+abstract.Addr().String(), "unix,"+secret+".sock", "tcp,1.1.1.1:443", "udp,192.0.2.1:53")
		nothing(t, c, "signal", strconv.Itoa(os.Getpid()), strconv.Itoa(os.Getppid()))
		nothing(t, c, "device")
		nothing(t, c, "parent")
		nothing(t, c, "write", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/1/mem", "/proc/1/oom_score_adj", "/sys/power/state", "/dev/vda", "/dev/loop0", "/dev/mem", "/dev/kmsg")
		nothing(t, c, "look", secret, "/proc/1/environ", "/proc/1/root"+secret, "/proc/1/cwd/"+secret, "/proc/"+strconv.Itoa(os.Getpid())+"/cmdline", "/../../"+secret, "/proc/1/exe", "/etc/shadow", "/root/.bashrc", "/proc/1/fd/3", "/proc/kcore")
	})

	t.Run("set user ID has no effect", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root, who has further users in a cell")
		}
		s := newSpec(t, isolate.Namespaces, "host")
		program(t, s.Tree+"/attack", 0o755|os.ModeSetuid|os.ModeSetgid)
		c := start(t, s)
		if a := ask(t, c, request{Argv: []string{"/attack", "attack", "users"}, UID: 1000}); a.Output != "1000 1000" {
			t.Errorf("%+v", a)
		}
	})

	t.Run("links and nodes of the tree lead nowhere", func(t *testing.T) {
		victim := t.TempDir()
		for _, d := range []string{"sub", "pts", "shm"} {
			write(t, filepath.Join(victim, d, "file"), "untouched")
		}
		for name, make := range map[string]func(tree string) error{
			"links to a directory of the machine": func(tree string) error {
				return errors.Join(os.Symlink(victim, tree+"/etc"), os.Symlink(victim, tree+"/dev"), os.Symlink(victim, tree+"/proc"), os.Symlink(victim, tree+"/tmp"), os.Symlink(victim, tree+"/run"))
			},
			"/usr leads up": func(tree string) error { return os.Symlink("../../", tree+"/usr") },
			"loops": func(tree string) error {
				return errors.Join(os.Symlink("dev", tree+"/proc"), os.Symlink("proc", tree+"/dev"))
			},
			"files where directories are": func(tree string) error {
				return errors.Join(os.WriteFile(tree+"/dev", nil, 0o600), os.WriteFile(tree+"/proc", nil, 0), os.WriteFile(tree+"/usr", nil, 0), os.WriteFile(tree+"/tmp", nil, 0))
			},
			"a pipe at /dev/null": func(tree string) error {
				return errors.Join(os.Mkdir(tree+"/dev", 0o755), unix.Mkfifo(tree+"/dev/null", 0o666))
			},
			"a disk at /dev/null": func(tree string) error {
				err := errors.Join(os.Mkdir(tree+"/dev", 0o755), unix.Mknod(tree+"/dev/null", unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0))), unix.Mknod(tree+"/disk", unix.S_IFBLK|0o666, int(unix.Mkdev(7, 0))))
				if errors.Is(err, unix.EPERM) {
					return nil // a user has no devices
				}
				return err
			},
		} {
			for _, base := range []string{"host", "none"} {
				t.Run(name+", base "+base, func(t *testing.T) {
					s := newSpec(t, isolate.Namespaces, base)
					if err := make(s.Tree); err != nil {
						t.Fatal(err)
					}
					c := start(t, s)
					if a := ask(t, c, request{Read: "/dev/null"}); a != (answer{}) {
						t.Errorf("/dev/null: %+v", a)
					}
					if a := ask(t, c, request{Read: "/proc/1/stat"}); !strings.HasPrefix(a.Output, "1 (") {
						t.Errorf("/proc: %+v", a)
					}
					for _, p := range []string{"/disk", "/etc/sub/file", "/usr" + victim + "/sub/file", victim + "/sub/file"} {
						if a := ask(t, c, request{Read: p}); a.Error == "" {
							t.Errorf("%s was read: %+v", p, a)
						}
					}
					if err := c.Close(); err != nil {
						t.Error(err)
					}
				})
			}
		}
		var left []string
		_ = filepath.WalkDir(victim, func(path string, _ os.DirEntry, err error) error { left = append(left, path); return err })
		if len(left) != 7 {
			t.Errorf("the machine's directory has changed: %v", left)
		}
	})

	t.Run("a killed parent leaves nothing", func(t *testing.T) {
		mark := fmt.Sprintf("knowngood-mark-%d-%d", os.Getpid(), rand.Int())
		longest := 0 * time.Millisecond
		for n := range 12 {
			s := newSpec(t, isolate.Namespaces, "host")
			cmd := exec.Command("/proc/self/exe", "parent", mark, s.Tree, s.Scratch)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(out)
			if line, _ := lines.ReadString('\n'); line != "starting\n" {
				t.Fatal(line)
			}
			if n == 0 { // once it runs
				began := time.Now()
				if line, _ := lines.ReadString('\n'); line != "started\n" {
					t.Fatal(line)
				}
				longest = 2 * time.Since(began)
			}
			time.Sleep(rand.N(longest))
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			eventually(t, "a process runs on", func() string { return strings.Join(running(mark), "; ") })
			eventually(t, "a mount is left", func() string { return containing("/proc/self/mountinfo", s.Scratch) })
			eventually(t, "a loop device is left", func() string {
				files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
				for _, f := range files {
					if l := containing(f, s.Scratch); l != "" {
						return f + " " + l
					}
				}
				return ""
			})
		}
		eventually(t, "a control group is left after the next start", func() string {
			c := start(t, newSpec(t, isolate.Namespaces, "none"))
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			dirs, _ := filepath.Glob("/sys/fs/cgroup/*/knowngood-cell-*")
			for _, d := range dirs {
				if f, err := os.Open(d); err == nil {
					err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
					_ = f.Close()
					if err == nil {
						return d
					}
				}
			}
			return ""
		})
	})

	t.Run("the end of the context or the time ends the cell", func(t *testing.T) {
		for name, begin := range map[string]func(s isolate.Spec) (*isolate.Cell, error){
			"context": func(s isolate.Spec) (*isolate.Cell, error) {
				ctx, cancel := context.WithCancel(context.Background())
				time.AfterFunc(time.Second, cancel)
				return isolate.Start(ctx, []string{"test", "cell"}, s)
			},
			"time": func(s isolate.Spec) (*isolate.Cell, error) {
				s.Limits.Time = time.Second
				return isolate.Start(context.Background(), []string{"test", "cell"}, s)
			},
		} {
			t.Run(name, func(t *testing.T) {
				c, err := begin(newSpec(t, isolate.Namespaces, "host"))
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := c.Close(); err != nil {
						t.Error(err)
					}
				}()
				ended := make(chan error, 1)
				go func() { _, err := io.Copy(io.Discard, c.Out()); ended <- err }()
				select {
				case <-ended:
				case <-time.After(20 * time.Second):
					t.Error("it lives on")
				}
			})
		}
	})

	t.Run("without rights", func(t *testing.T) {
		asNobody(t, "^TestEscape$/^(a_fork_bomb_stays|a_memory_bomb|what_is_written|endless|programs|links|a_killed|the_end)")
	})
}

func exe(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func eventually(t *testing.T, what string, found func() string) {
	t.Helper()
	last := ""
	for range 100 {
		if last = found(); last == "" {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%s: %s", what, last)
}

// running returns the command lines that have a word in them.
func running(word string) (lines []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && bytes.Contains(text, []byte(word)) {
			lines = append(lines, f+" "+string(text))
		}
	}
	return lines
}

// containing returns the line of a file that has a word in it.
func containing(file, word string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, word) {
			return line
		}
	}
	return ""
}
