package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/session"
)

// guide is the document whose configurations and command lines are used here as they are
// printed, in their order.
const guide = "docs/GENERATIONS.md"

// instead is what a line of the guide is replaced by, or why it is not run. All others are
// run as they are, and succeed.
var instead = map[string]struct {
	run    string // by a shell; empty for not at all
	code   int
	reason string
}{
	"knowngood patch web -- PROGRAM ARGUMENT…":           {run: `knowngood patch web -- sh -c "echo Welcome 46 >index.html"`, reason: "a placeholder"},
	"knowngood patch ENVIRONMENT -- PROGRAM [ARGUMENT…]": {reason: "placeholders"},
	"knowngood patch web -- chroot /srv/app apt-get …":   {reason: "a placeholder, of a root that is a whole system"},
	"knowngood patch host -- apt-get -y upgrade":         {reason: "systemd/patch_test.go patches a whole machine so"},
	"knowngood generations host":                         {run: "knowngood generations host", code: exit.Failed, reason: "as that patch is not made here"},
	"systemctl edit knowngood-instance@.service":         {reason: "it opens an editor"},
	"generations --recover --boot":                       {run: "knowngood generations --recover --boot", reason: "the name of the program is left out"},
	"generations --recover":                              {run: "knowngood generations --recover", reason: "the same"},
	"restore --in-place":                                 {reason: "no whole command; testdata/script/generations.txtar has it"},
	"switch --from DIR":                                  {reason: "a placeholder"},
	"knowngood attest bad REF --undo":                    {reason: "a placeholder"},
	"switch REF":                                         {reason: "a placeholder"},
	"accept REF":                                         {reason: "a placeholder"},
	"spawn REF":                                          {reason: "a placeholder"},
	"spawn --dir DIR":                                    {reason: "a placeholder"},
}

// elsewhere is what is replaced in configurations of the guide.
var elsewhere = strings.NewReplacer(
	"watch: 60s", "watch: 1s", // for time
	"/usr/share/knowngood/hooks/", "HOOKS/", // where they are before they are installed
	"/usr/local/bin/drain", "/srv/drain", // a program of the reader
)

// pages are what the service of the guide shows after a line of it, by its port.
var pages = map[string]map[string]string{
	"knowngood switch web web@42":                {"8080": "Welcome 42"},
	"knowngood switch web --from /srv/build/app": {"8080": "Welcome 44"},
	"knowngood rollback web":                     {"8080": "Welcome 42"},
	"knowngood patch web -- PROGRAM ARGUMENT…":   {"8080": "Welcome 46"},
	"knowngood scale web":                        {"18081": "Welcome 46", "18082": ""},
	"knowngood scale web --to 4":                 {"18081": "Welcome 46", "18084": "Welcome 46"},
	"knowngood switch web web@43":                {"18081": "Welcome 43", "18084": "", "18085": "Welcome 43"},
}

// part is a configuration of the guide, or a line to run.
type part struct {
	yaml bool
	text string
}

// parts are the configurations and command lines of a guide.
func parts(text string) (all []part) {
	root := newRoot(session.New(console.New(io.Discard, io.Discard), version))
	program := func(line string) bool {
		word, _, more := strings.Cut(line, " ")
		command, _, err := root.Find([]string{word})
		return more && (word == "knowngood" || word == "systemctl" || err == nil && command.Name() == word)
	}
	for block := range strings.SplitSeq(text, "\n\n") {
		lines := strings.Split(strings.Trim(block, "\n"), "\n")
		switch {
		case lines[0] == "    environments:":
			all = append(all, part{true, block})
			continue
		case strings.HasPrefix(lines[0], "    /") || strings.HasPrefix(lines[0], "      "): // a picture
			continue
		}
		for _, line := range lines {
			if indented, ok := strings.CutPrefix(line, "    "); ok {
				command, _, _ := strings.Cut(indented, "  ") // what it is for follows
				all = append(all, part{false, command})
				continue
			}
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(line, -1) {
				if program(m[1]) {
					all = append(all, part{false, m[1]})
				}
			}
		}
	}
	return all
}

// TestGuide runs what a guide prints, in a process with file systems, a network and
// processes of its own, in which systemctl is a program that starts and stops the server
// of the tree.
func TestGuide(t *testing.T) {
	const inside = "KNOWNGOOD_TEST_GUIDE"
	if os.Getenv(inside) != "" {
		runGuide(t)
		return
	}
	t.Parallel()
	if testing.Short() {
		t.Skip("43 snapshots are not taken for each detector")
	}
	needs(t, true, "setsid", "chroot", "sh")
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestGuide$", "-test.v", "-test.timeout=4m")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) {
		t.Skipf("no namespaces can be made: %v", err)
	}
	if err != nil || strings.Contains(string(out), "--- SKIP") {
		t.Errorf("%v\n%s", err, out)
	}
	if used := cmd.ProcessState; testing.Verbose() {
		t.Logf("it took %v of CPU", used.UserTime()+used.SystemTime())
	}
}

// reader is the machine of somebody who follows a guide.
type reader struct {
	*machine
	t      *testing.T
	config string
	parts  map[string]string // environments of the configuration so far
}

// runGuide is TestGuide in its namespaces.
func runGuide(t *testing.T) {
	r := &reader{t: t, parts: map[string]string{}, config: filepath.Join(t.TempDir(), "config.yaml")}
	r.namespaces()
	r.machine = newMachine(t, filepath.Join(t.TempDir(), "repo"))
	r.env = []string{"KNOWNGOOD_CONFIG=" + r.config, "PATH=/srv/programs:" + os.Getenv("PATH")}
	r.tree()
	known := map[string]bool{}
	for i, p := range parts(document(t, guide)) {
		known[p.text] = true
		if p.yaml {
			r.configure(p.text)
			if i == 0 { // snapshots of what is there before the first command
				r.snapshots(43)
				r.shell("systemctl start app", exit.Done)
			}
			continue
		}
		r.follow(p.text)
	}
	r.shell("knowngood scale web --to 0", exit.Done)
	if b, err := os.ReadFile("/srv/drained"); err != nil || strings.Count(string(b), "\n") != 8 || !strings.Contains(string(b), "1 /srv/instances/web/1\n") {
		t.Errorf("drained are %s: %v", b, err)
	}
	for line := range instead {
		if !known[line] {
			t.Errorf("%s is no line of %s", line, guide)
		}
	}
	for line := range pages {
		if !known[line] {
			t.Errorf("%s is no line of %s", line, guide)
		}
	}
	if len(known) < 25 {
		t.Errorf("only %d parts were found", len(known))
	}
}

// follow runs a line of the guide.
func (r *reader) follow(line string) {
	r.t.Helper()
	run, code := line, exit.Done
	if other, ok := instead[line]; ok {
		run, code = other.run, other.code
	}
	if words := strings.Fields(strings.TrimPrefix(line, "knowngood ")); run == "" && words[0] != "systemctl" {
		if err := validCall(words); err != nil {
			r.t.Errorf("%s: %v", line, err)
		}
	}
	if run == "" {
		return
	}
	r.shell(run, code)
	for port, want := range pages[line] {
		got := page(port)
		for range 500 { // a server that a rollback starts is not waited for
			if got == want {
				break
			}
			time.Sleep(20 * time.Millisecond)
			got = page(port)
		}
		if got != want {
			r.t.Errorf("after %s the service at port %s shows %q, want %q", line, port, got, want)
		}
	}
}

// shell runs a line as a shell does.
func (r *reader) shell(line string, code int) {
	r.t.Helper()
	began := time.Now()
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Env = r.command().Env
	out, err := cmd.CombinedOutput()
	r.t.Logf("$ %s\n%s(%v)", line, out, time.Since(began))
	if got := cmd.ProcessState.ExitCode(); got != code {
		r.t.Fatalf("%s: exit code %d, want %d: %v", line, got, code, err)
	}
}

// configure adds environments to the configuration, in place of those of the same name.
func (r *reader) configure(block string) {
	r.t.Helper()
	hooks, err := filepath.Abs("../../configs/hooks")
	if err != nil {
		r.t.Fatal(err)
	}
	text := strings.ReplaceAll(elsewhere.Replace(block), "HOOKS", hooks)
	rest, ok := strings.CutPrefix(strings.Trim(text, "\n"), "    environments:\n")
	name, _, _ := strings.Cut(strings.TrimSpace(rest), ":")
	if !ok || strings.Count(rest, "\n      "+name) > 0 {
		r.t.Fatalf("one environment is expected:\n%s", block)
	}
	r.parts[name] = rest
	all := "environments:\n"
	for _, e := range r.parts {
		all += e + "\n"
	}
	write(r.t, r.config, all)
	r.shell("knowngood config check --config "+r.config, exit.Done)
}

// namespaces makes this process a machine of its own: nothing of what is done to /srv, to
// processes and to the network is seen outside.
func (r *reader) namespaces() {
	r.t.Helper()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		r.t.Fatal(err)
	}
	lo.SetUint16(unix.IFF_UP)
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
		unix.Close(s)
	}
	err = errors.Join(err,
		unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
		unix.Mount("tmpfs", "/srv", "tmpfs", 0, "mode=755"))
	if err != nil {
		r.t.Fatalf("namespaces: %v", err)
	}
}

// tree makes the tree of the guide, what was just built, and the reader's own programs.
func (r *reader) tree() {
	r.t.Helper()
	for _, dir := range []string{"app/bin", "app/var/lib/app", "build/app/bin", "programs", "run"} {
		if err := os.MkdirAll(filepath.Join("/srv", dir), 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	writeServer(r.t, "/srv/app/bin/server")
	for _, to := range []string{"/srv/app/instance", "/srv/build/app/bin/server", "/srv/build/app/instance"} {
		if err := os.Link("/srv/app/bin/server", to); err != nil {
			r.t.Fatal(err)
		}
	}
	write(r.t, "/srv/app/var/lib/app/data", "data")
	write(r.t, "/srv/build/app/index.html", "Welcome 44")
	for name, text := range map[string]string{"/srv/drain": drain, "/srv/programs/systemctl": systemctl} {
		write(r.t, name, text)
		if err := os.Chmod(name, 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	units, err := filepath.Abs("../../systemd")
	if err != nil {
		r.t.Fatal(err)
	}
	r.env = append(r.env, "UNITS="+units)
}

// drain is a program that drains an instance.
const drain = "#!/bin/sh\necho \"$1 $2\" >>/srv/drained\n"

// systemctl starts and stops the server of the live tree, and those of instances as their
// unit does; of units of the package it demands that they exist.
const systemctl = `#!/bin/sh
set -eu
action=$1
shift
[ "$1" != --now ] || shift
started() {
	"$@" </dev/null >/dev/null 2>&1 &
	echo $! >"/srv/run/$unit"
}
for unit; do
	path=/$(echo "$unit" | sed 's/^[^@]*@//; s/\.service$//; s,-,/,g')
	case "$action $unit" in
	"start app") started setsid /srv/app/bin/server ;;
	"start knowngood-instance@"*)
		set -a
		. "$path.env"
		set +a
		started setsid chroot "$path" /instance
		;;
	"stop app" | "stop knowngood-instance@"*)
		read -r pid <"/srv/run/$unit"
		kill "$pid"
		while grep -q '^State:.[^Z]' "/proc/$pid/status" 2>/dev/null; do sleep 0.01; done
		;;
	"reload nginx") ;;
	"enable "*) test -s "$UNITS/$(echo "$unit" | sed 's/@.*\./@./')" ;;
	*)
		echo "systemctl $action $unit: what is that?" >&2
		exit 5
		;;
	esac
done
`

// snapshots takes so many, the last of which is what is there.
func (r *reader) snapshots(n int) {
	r.t.Helper()
	for i := 1; i <= n; i++ {
		write(r.t, "/srv/app/index.html", fmt.Sprint("Welcome ", i))
		if i == n { // what is as new as the last one may not be in it, for times of files lag
			time.Sleep(100 * time.Millisecond)
		}
		if got := strings.TrimSpace(r.must(r.t, "snapshot", "web", "--quiet")); got != fmt.Sprint("web@", i) {
			r.t.Fatalf("snapshot %d is %s", i, got)
		}
	}
	time.Sleep(100 * time.Millisecond)
}

// page is what the service at a port shows; empty where none answers.
func page(port string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+"/", nil)
	if err != nil {
		return ""
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return strings.TrimSpace(string(b))
}
