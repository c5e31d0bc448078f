package systemd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSlow(t *testing.T) {
	if os.Getenv("KNOWNGOOD_SLOW") == "" {
		t.Skip("KNOWNGOOD_SLOW=1 runs it")
	}
	t.Run("the daemon runs in its unit and hooks outside of it", testTheDaemonRunsInItsUnitAndHooksOutsideOfIt)
	t.Run("a daemon that dies or hangs is started again and a broken configuration is not taken", testADaemonThatDiesOrHangsIsStartedAgainAndABrokenConfigurationIsNotTaken)
	t.Run("a scheduled drill runs in a unit of its own", testAScheduledDrillRunsInAUnitOfItsOwn)
	t.Run("an upgrade that breaks its service is undone", testAnUpgradeThatBreaksItsServiceIsUndone)
	t.Run("what nobody commits goes back by the timer and at boot", testWhatNobodyCommitsGoesBack)
	t.Run("apt-get upgrades a whole system over the network", testAptUpgradesAWholeSystemOverTheNetwork)
	t.Run("a whole host is the same from the sandbox", testAWholeHostIsTheSameFromTheSandbox)
	t.Run("the package is installed, upgraded and removed cleanly", testThePackageIsInstalledUpgradedAndRemovedCleanly)
	t.Run("both packages hold the same", testBothPackagesHoldTheSame)
	t.Run("the sandbox hides nothing that is captured", testTheSandboxHidesNothingThatIsCaptured)
	t.Run("trusted attributes need their drop-in", testTrustedAttributesNeedTheirDropIn)
	t.Run("the sandbox holds", testTheSandboxHolds)
	t.Run("on the kernel of Debian", testOnTheKernelOfDebian)
	t.Run("a snapshot that lacks something is a success that says so", testASnapshotThatLacksSomethingIsASuccessThatSaysSo)
}

// machine is a Debian with systemd as process 1, in namespaces of its own: a
// file system of its own, no network.
type machine struct {
	t    *testing.T
	dir  string // its disk
	root string // of the machine, as the test sees it; mounts included
	pid  string // of its process 1
	stop func() // ends it, as a power cut does
}

// patience is how long the machine may take for anything.
const patience = 2 * time.Minute

// boot starts a new machine with the .deb in /. It ends with the test.
func boot(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can start a machine in namespaces")
	}
	m := &machine{t: t, dir: filepath.Join(t.TempDir(), "machine")}
	run(t, "cp", "-a", debian(t), m.dir)
	run(t, "cp", packages(t).deb, filepath.Join(m.dir, "knowngood.deb"))
	m.boot()
	return m
}

// boot starts a machine that does not run.
func (m *machine) boot() {
	t := m.t
	t.Helper()
	cgroup := newCgroup(t)
	script, err := filepath.Abs("testdata/boot")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup", script, m.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd()), Pdeathsig: syscall.SIGKILL}
	var console bytes.Buffer
	cmd.Stdout, cmd.Stderr = &console, &console
	if err := cmd.Start(); err != nil {
		t.Skipf("a process cannot be started in a cgroup of its own here: %v", err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	m.stop = func() { cmd.Process.Kill(); <-ended }
	t.Cleanup(func() {
		m.stop()
		if t.Failed() {
			t.Logf("the console:\n%s", &console)
		}
	})

	children := fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid)
	m.until("the machine is up", func() error {
		select {
		case <-ended:
			t.Fatalf("the machine ended: %v", cmd.ProcessState)
		default:
		}
		child, err := os.ReadFile(children)
		if err != nil || len(child) == 0 {
			return errors.Join(errors.New("there is no process 1"), err)
		}
		m.pid = strings.TrimSpace(string(child))
		m.root = "/proc/" + m.pid + "/root"
		state, err := m.try("systemctl", "is-system-running", "--wait")
		if strings.TrimSpace(state) == "degraded" {
			units, _ := m.try("systemctl", "--failed")
			t.Fatalf("a unit failed:\n%s", units)
		}
		return err
	})
}

// until tries until f has no error, or the test's patience is at its end.
func (m *machine) until(what string, f func() error) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			journal, _ := m.try("journalctl", "--no-pager", "-n", "200")
			m.t.Fatalf("waiting in vain until %s: %v\n%s", what, err, journal)
		}
	}
}

// try runs a program as root's shell in the machine would, outside of all
// units, and returns its standard output.
func (m *machine) try(program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", m.pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", program}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s%s", program, strings.Join(args, " "), err, out, &stderr)
	}
	return string(out), err
}

// must is try where nothing may fail.
func (m *machine) must(program string, args ...string) string {
	m.t.Helper()
	out, err := m.try(program, args...)
	if err != nil {
		journal, _ := m.try("journalctl", "--no-pager", "-n", "100")
		m.t.Fatalf("%v\nthe journal:\n%s", err, journal)
	}
	return out
}

// start starts a unit that ends, and shows what it said when it failed.
func (m *machine) start(unit string) {
	m.t.Helper()
	if _, err := m.try("systemctl", "start", unit); err != nil {
		m.t.Fatalf("%v\n%s", err, m.said(unit))
	}
}

// said is what a unit wrote to the journal.
func (m *machine) said(unit string) string {
	m.t.Helper()
	m.must("journalctl", "--sync")
	return m.must("journalctl", "--no-pager", "-o", "cat", "-u", unit)
}

// property of a unit, as systemd has it.
func (m *machine) property(unit, name string) string {
	m.t.Helper()
	return strings.TrimSpace(m.must("systemctl", "show", "--value", "-p", name, unit))
}

// path of a file in the machine, as the test sees it.
func (m *machine) path(file string) string { return m.root + file }

// write makes a file that only root reads, and the directories above it.
func (m *machine) write(file, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path(file)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.path(file), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// dropIn gives a unit settings of this machine.
func (m *machine) dropIn(unit, name, text string) {
	m.t.Helper()
	m.write("/etc/systemd/system/"+unit+".d/"+name+".conf", text)
	m.must("systemctl", "daemon-reload")
}

// example is the drop-in that is installed for such a case.
func (m *machine) example(name string) string {
	m.t.Helper()
	b, err := os.ReadFile(m.path("/usr/share/doc/knowngood/examples/knowngood.service.d/" + name + ".conf.example"))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

// newCgroup makes a cgroup for a machine and removes it when the machine is gone.
func newCgroup(t *testing.T) *os.File {
	t.Helper()
	base := mountOf(t, "cgroup2")
	if base == "" {
		t.Skip("cgroup2 is not mounted")
	}
	dir, err := os.MkdirTemp(base, "knowngood-test-")
	if err != nil {
		t.Skipf("no cgroup can be made: %v", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		removeCgroup(t, dir)
	})
	return f
}

func removeCgroup(t *testing.T, dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			removeCgroup(t, filepath.Join(dir, e.Name()))
		}
	}
	// What was killed leaves its cgroup a moment later.
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Rmdir(dir)
		if err == nil {
			return
		}
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			t.Errorf("removing the cgroup %s: %v", dir, err)
			return
		}
	}
}

// mountOf is where a file system of a type is mounted; empty when it is not.
func mountOf(t *testing.T, fstype string) string {
	t.Helper()
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 2 && fields[2] == fstype {
			return fields[1]
		}
	}
	return ""
}

// run runs a program of the test's own machine.
func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", cmd, err, out, &stderr)
	}
	return string(out)
}
