package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"knowngood/cmd/knowngood/exit"
	"knowngood/internal/treetest"
)

func TestDrill(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("services of drills are tested as root")
	}
	t.Run("a whole environment is probed, on each store", testAWholeEnvironmentIsProbedOnEachStore)
	t.Run("each fault fails the drill and is named", testEachFaultFailsTheDrillAndIsNamed)
	t.Run("the level does not exceed what was shown", testTheLevelDoesNotExceedWhatWasShown)
	t.Run("a program that does not end ends nothing else", testAProgramThatDoesNotEndEndsNothingElse)
	t.Run("the configuration chooses the snapshot, and what lies beneath", testTheConfigurationChoosesTheSnapshotAndWhatLiesBeneath)
	t.Run("programs of the tree reach nothing and decide nothing", testProgramsOfTheTreeReachNothingAndDecideNothing)
	t.Run("damage in the repository is no failed probe", testDamageInTheRepositoryIsNoFailedProbe)
	t.Run("after kill -9 nothing is left", testAfterKillNothingIsLeft)
	t.Run("an interrupted drill proves nothing", testAnInterruptedDrillProvesNothing)
}

// site is a machine with an environment web: a static web server, a page, a
// database and a canary.
type site struct {
	*machine
	dir    string // that is captured
	config string // file
	value  string // file with what the canary must be
}

// builtServer is the web server, which is built once.
var builtServer = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "server")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "server")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, "./testdata/drill")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(file)
})

// writeServer writes the web server to a file.
func writeServer(t *testing.T, to string) {
	t.Helper()
	program, err := builtServer()
	if err == nil {
		err = os.WriteFile(to, program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func newSite(t *testing.T, m *machine) *site {
	t.Helper()
	// Not below /dev/shm, where other tests are: a cell has a /dev of its own.
	dir, err := os.MkdirTemp("/var/tmp", "drill")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{machine: m, dir: filepath.Join(dir, "web"), config: filepath.Join(dir, "config.yaml"), value: filepath.Join(dir, "value")}
	if err := os.MkdirAll(filepath.Join(s.dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeServer(t, filepath.Join(s.dir, "bin", "server"))
	write(t, filepath.Join(s.dir, "index.html"), "hello")
	write(t, filepath.Join(s.dir, "canary"), "secret")
	write(t, s.value, "secret")
	sqlite(t, filepath.Join(s.dir, "app.db"), "create table orders(id integer primary key, v text); with recursive n(i) as (select 1 union all select i+1 from n where i < 2000) insert into orders(v) select printf('%0200d', i) from n;")
	m.env = append(m.env, "KNOWNGOOD_CONFIG="+s.config)
	s.drills(t, s.all(), "")
	return s
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// drills writes the configuration: the drill, and what else the environment has.
func (s *site) drills(t *testing.T, drill, more string) {
	t.Helper()
	write(t, s.config, fmt.Sprintf("environments:\n  web:\n    sources: [{path: %s}]\n    %s\n    drill:\n%s", s.dir, more, strings.ReplaceAll(drill, "DIR", s.dir)))
}

func (s *site) capture(t *testing.T) {
	t.Helper()
	time.Sleep(100 * time.Millisecond) // what has just changed is read again by the next run
	s.must(t, "snapshot", "web")
}

const webService = `      services: [{name: web, command: ["DIR/bin/server"], ready: {tcp: "127.0.0.1:8080"}}]
`

// all is a drill with a probe of each kind.
func (s *site) all() string {
	return `      isolation: namespaces
      base: none
` + webService + `      probes:
        - {name: page, file: {path: DIR/index.html, not_empty: true, sha256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}}
        - {name: listed, tree: {path: DIR}}
        - {name: rows, sqlite: {file: DIR/app.db, query: "select count(*) from orders", at_least: 2000}}
        - {name: known, canary: {path: DIR/canary, value_file: ` + s.value + `}}
        - {name: scanned, scan: {command: ["grep", "-rq", "hello"], path: DIR}}
        - {name: self, command: ["DIR/bin/server", "check"], output: fine}
        - {name: health, http: {url: "http://127.0.0.1:8080/", contains: hello}}
        - {name: port, tcp: "127.0.0.1:8080"}
`
}

// drilled is what drill --json prints of a drill.
type drilled struct {
	Ref        string
	Passed     bool
	Level      string
	Files      uint64
	Bytes      uint64
	Of         uint64   `json:"of_bytes"`
	NotTested  []string `json:"not_tested"`
	Unproven   []string
	Missed     bool `json:"rto_missed"`
	Stored     string
	Attestaton string `json:"attestation"`
	Probes     []struct{ Name, Status, Cause string }
	Phases     []struct {
		Name string
		Took int64 `json:"took_ns"`
	}
	Isolation struct {
		Rung, Base        string
		BaseID            string `json:"base_id"`
		Attempts, Refused int
	}
}

func (s *site) drill(t treetest.T, code int, args ...string) drilled {
	t.Helper()
	return decode[drilled](t, s.run(t, append([]string{"drill", "--json"}, args...)...).exits(t, code))
}

// statuses are those of all probes, as text.
func (d *drilled) statuses() string {
	var out []string
	for _, p := range d.Probes {
		out = append(out, p.Name+" "+p.Status)
	}
	return strings.Join(out, ", ")
}

func (s *site) nothingLeft(t *testing.T) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(s.state, "drills", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	s.nothingRuns(t)
}

// nothingRuns demands that no process and no mount of a drill is left.
func (s *site) nothingRuns(t *testing.T) {
	t.Helper()
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), s.state) {
		t.Errorf("mounted: %s, %v", mounts, err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		running := ""
		dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, d := range dirs {
			if b, err := os.ReadFile(d); err == nil && strings.Contains(string(b), s.dir+"/bin/server") {
				running = d + " " + string(b)
			}
		}
		if running == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still running: %s", running)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func testAWholeEnvironmentIsProbedOnEachStore(t *testing.T) {
	t.Parallel()
	onStores(t, func(t *testing.T, m *machine) {
		s := newSite(t, m)
		if os.Geteuid() == 0 { // a user as directories of companies have them
			index := filepath.Join(s.dir, "index.html")
			if err := errors.Join(os.Chown(index, 1_000_001, 1_000_001), os.Chmod(index, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		s.capture(t)
		d := s.drill(t, exit.Done, "web")
		want := "web passed, page passed, listed passed, rows passed, known passed, scanned passed, self passed, health passed, port passed"
		if got := d.statuses(); got != want || !d.Passed || d.Level != "probed" || len(d.NotTested) > 0 || len(d.Unproven) > 0 {
			t.Errorf("%s: %+v", got, d)
		}
		if i := d.Isolation; i.Rung != "namespaces" || i.Base != "none" || i.Attempts < 10 || i.Refused != i.Attempts {
			t.Errorf("isolation %+v", i)
		}
		var phases []string
		for _, p := range d.Phases {
			phases = append(phases, p.Name)
			if p.Took <= 0 {
				t.Errorf("phase %s took %d", p.Name, p.Took)
			}
		}
		if got := strings.Join(phases, " "); got != "restore compare isolate services probes" {
			t.Errorf("phases %s", got)
		}
		if d.Files != 4 || d.Bytes != d.Of {
			t.Errorf("%d files, %d of %d bytes", d.Files, d.Bytes, d.Of)
		}
		s.nothingLeft(t)

		s.drills(t, strings.Replace(s.all(), "base: none", "base: host", 1), "")
		if d = s.drill(t, exit.Done, "web@1"); d.Level != "probed" || d.Isolation.Base != "host" {
			t.Errorf("above the host's programs: %+v", d)
		}
		list := decode[struct{ Drills []drilled }](t, s.must(t, "drill", "list", "web", "--json"))
		// Those of one second, as the store has it, are in no order.
		slices.SortFunc(list.Drills, func(a, b drilled) int { return strings.Compare(b.Isolation.Base, a.Isolation.Base) })
		if len(list.Drills) != 2 || list.Drills[0].Isolation.Base != "none" || list.Drills[1].Isolation.Base != "host" || list.Drills[1].Stored == "" {
			t.Errorf("listed: %+v", list)
		}
		if text := s.must(t, "drill", "list"); strings.Count(text, "passed  probed") != 2 {
			t.Errorf("listed:\n%s", text)
		}
	})
}

func testEachFaultFailsTheDrillAndIsNamed(t *testing.T) {
	t.Parallel()
	s := newSite(t, newMachine(t, filepath.Join(t.TempDir(), "repo")))
	whole, err := os.ReadFile(filepath.Join(s.dir, "app.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		fault, probe string
		make         func()
	}{
		{"a corrupted table", "rows", func() {
			b := append([]byte(nil), whole...)
			for i := len(b) / 2; i < len(b)/2+4096; i++ {
				b[i] ^= 0xff
			}
			write(t, filepath.Join(s.dir, "app.db"), string(b))
		}},
		{"a truncated database", "rows", func() { write(t, filepath.Join(s.dir, "app.db"), string(whole[:len(whole)/2])) }},
		{"rows that are missing", "rows", func() {
			write(t, filepath.Join(s.dir, "app.db"), string(whole))
			sqlite(t, filepath.Join(s.dir, "app.db"), "delete from orders where id = 7")
		}},
		{"a truncated file", "page", func() {
			write(t, filepath.Join(s.dir, "app.db"), string(whole))
			write(t, filepath.Join(s.dir, "index.html"), "hell")
		}},
		{"a wrong canary", "known", func() {
			write(t, filepath.Join(s.dir, "index.html"), "hello")
			write(t, filepath.Join(s.dir, "canary"), "secret\n")
		}},
		{"a service that ends", "web", func() {
			write(t, filepath.Join(s.dir, "canary"), "secret")
			write(t, filepath.Join(s.dir, "bin", "server"), "no program")
		}},
	} {
		c.make()
		s.capture(t)
		o := s.run(t, "drill", "web")
		o.exits(t, exit.ProbeFailed)
		for line := range strings.Lines(o.stdout.String()) {
			words := strings.Fields(line)
			if strings.Contains(line, " printed: ") {
				continue
			}
			if failed := strings.Contains(line, "FAILED"); len(words) > 2 && failed != (words[0] == c.probe || strings.Contains(words[0], "@") || c.probe == "page" && words[0] == "health") {
				t.Errorf("%s: %s", c.fault, line)
			}
		}
		if text := o.stdout.String() + o.stderr.String(); c.probe == "known" && strings.Contains(text, "secret") {
			t.Errorf("the value of the canary is printed: %s", text)
		}
		s.nothingLeft(t)
	}
}

func testTheLevelDoesNotExceedWhatWasShown(t *testing.T) {
	t.Parallel()
	s := newSite(t, newMachine(t, filepath.Join(t.TempDir(), "repo")))
	s.capture(t)
	for _, c := range []struct {
		name, drill, more string
		code              int
		level, unproven   string
	}{
		{"nothing is configured", "      {}\n", "", exit.Done, "restored", "no required probe proves data"},
		{"a port proves no data", webService + "      probes: [{tcp: \"127.0.0.1:8080\"}]\n", "", exit.Done, "restored", "no required probe proves data"},
		{"what is not required proves nothing", "      probes: [{sqlite: {file: DIR/app.db}, required: false}]\n", "", exit.Done, "restored", "no required probe proves data"},
		{"what is not required fails nothing", "      probes: [{sqlite: {file: DIR/app.db}}, {file: {path: DIR/nothing}, required: false}]\n", "", exit.Done, "probed", ""},
		{"static: a program cannot run", "      isolation: static\n      probes: [{sqlite: {file: DIR/app.db}}, {command: [DIR/bin/server, check]}]\n", "", exit.Incomplete, "restored", ""},
		{"a program that does not exist", "      base: none\n      probes: [{sqlite: {file: DIR/app.db}}, {command: [/bin/no-such-program]}]\n", "", exit.Incomplete, "restored", ""},
		{"a sample", "      sample: 1%\n      probes: [{sqlite: {file: DIR/app.db}}]\n", "", exit.Done, "restored", "only a sample was restored"},
		{"a promise that is broken", "      {}\n", "rto: 1ms", exit.Incomplete, "restored", "no required probe proves data"},
	} {
		s.drills(t, c.drill, c.more)
		d := s.drill(t, c.code, "web")
		if !d.Passed || d.Level != c.level || strings.Join(d.Unproven, "; ") != c.unproven || d.Missed != (c.more != "") || (len(d.NotTested) > 0) != (c.code == exit.Incomplete && c.more == "") {
			t.Errorf("%s: %+v", c.name, d)
		}
		if c.name == "a sample" && (d.Bytes >= d.Of || d.Bytes < 400_000) {
			t.Errorf("a sample of %d of %d bytes: without the file that a probe names, or with all", d.Bytes, d.Of)
		}
	}

	// Data of a service that was written to after the capture had begun.
	future := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(s.dir, "app.db"), future, future); err != nil {
		t.Fatal(err)
	}
	s.capture(t)
	s.drills(t, strings.Replace(s.all(), "ready:", "data: [DIR/app.db], ready:", 1), "")
	if d := s.drill(t, exit.Done, "web"); d.Level != "restored" || strings.Join(d.Unproven, "; ") != "files of a service changed while they were captured" {
		t.Errorf("data that changed: %+v", d)
	}
	// Of a database, too: its log and the file itself may be of different times.
	if err := os.Symlink("app.db", filepath.Join(s.dir, "link.db")); err != nil {
		t.Fatal(err)
	}
	s.capture(t)
	s.drills(t, "      probes: [{sqlite: {file: DIR/link.db}}]\n", "")
	if d := s.drill(t, exit.Done, "web"); d.Level != "restored" || strings.Join(d.Unproven, "; ") != "files of a service changed while they were captured" {
		t.Errorf("a database that changed: %+v", d)
	}
	testAFrozenSourceIsOfOneState(t, s)
	s.drills(t, strings.Replace(s.all(), "ready:", "data: [DIR/nothing], ready:", 1), "")
	if d := s.drill(t, exit.Done, "web"); d.Level != "restored" || strings.Join(d.Unproven, "; ") != "the snapshot lacks data of a service or database" {
		t.Errorf("data that is not there: %+v", d)
	}
	s.drills(t, "      base: none\n      services: [{name: brief, command: [DIR/bin/server, brief]}]\n      probes: [{command: [DIR/bin/server, wait]}]\n", "")
	if d := s.drill(t, exit.ProbeFailed, "web"); d.statuses() != "brief failed, command-1 passed" {
		t.Errorf("a service that ends while it is asked: %+v", d)
	}
	s.run(t, "drill", "web", "--identity=").exits(t, exit.NoIdentity)
	s.run(t, "drill", "web@99").exits(t, exit.Failed)
	s.run(t, "drill", "web:/srv").exits(t, exit.Usage)
}

// testAFrozenSourceIsOfOneState drills a site with a file whose time is in the future:
// in a frozen source it is no sign that somebody writes there.
func testAFrozenSourceIsOfOneState(t *testing.T, s *site) {
	t.Helper()
	drills := func(more, level string) (warned string) {
		t.Helper()
		s.drills(t, strings.Replace(s.all(), "ready:", "data: [DIR/app.db], ready:", 1), "")
		b, err := os.ReadFile(s.config)
		if err != nil {
			t.Fatal(err)
		}
		write(t, s.config, strings.Replace(string(b), s.dir+"}]", s.dir+", frozen: true}"+more+"]", 1))
		time.Sleep(100 * time.Millisecond)
		o := s.run(t, "snapshot", "web")
		o.exits(t, exit.Done)
		if d := s.drill(t, exit.Done, "web"); d.Level != level {
			t.Errorf("frozen %s: %+v", more, d)
		}
		if text := s.must(t, "show", "web"); strings.Contains(text, "frozen") != (more == "") {
			t.Errorf("frozen %s: it shows\n%s", more, text)
		}
		return o.stderr.String()
	}
	if warned := drills("", "probed"); strings.Contains(warned, "frozen") {
		t.Errorf("frozen: it warned of %s", warned)
	}
	// Somebody writes there all the same.
	if warned := drills(fmt.Sprintf(`, {command: [sh, -c, "sleep 0.1; touch -d '+1 hour' %s/app.db; echo"], as: dump}`, s.dir), "restored"); !strings.Contains(warned, `app.db" changed after the run had started, in a source that is configured as frozen`) {
		t.Errorf("not frozen: it warned of %q", warned)
	}
}

func testAProgramThatDoesNotEndEndsNothingElse(t *testing.T) {
	t.Parallel()
	s := newSite(t, newMachine(t, filepath.Join(t.TempDir(), "repo")))
	s.capture(t)
	s.drills(t, `      base: host
      probes:
        - {name: hangs, command: [/bin/sh, -c, "sleep 60; true"], timeout: 1s}
        - {name: next, command: [/bin/true]}
        - {name: known, canary: {path: DIR/canary, value_file: `+s.dir+`/nothing}}
`, "")
	text := s.run(t, "drill", "web").says(t, exit.ProbeFailed)
	for _, line := range []string{`hangs +command +FAILED +.* it took longer than 1s`, `next +command +passed`, `known +canary +not tested +.* its value cannot be read: .*nothing`} {
		if !regexp.MustCompile(line).MatchString(text) {
			t.Errorf("no %s in\n%s", line, text)
		}
	}
}

func testTheConfigurationChoosesTheSnapshotAndWhatLiesBeneath(t *testing.T) {
	t.Parallel()
	s := newSite(t, newMachine(t, filepath.Join(t.TempDir(), "repo")))
	for i := range 3 {
		write(t, filepath.Join(s.dir, "index.html"), fmt.Sprint("hello ", i))
		s.capture(t)
	}
	for _, c := range []struct{ which, arg, ref string }{
		{"latest", "web", "web@3"}, {"latest", "web@1", "web@1"}, {"unproven", "web", "web@2"}, {"unproven", "web", "web@3"},
	} {
		s.drills(t, "      snapshot: "+c.which+"\n", "")
		if d := s.drill(t, exit.Done, c.arg); !strings.HasSuffix(d.Ref, "/"+c.ref) {
			t.Errorf("%s of %s is %s", c.which, c.arg, d.Ref)
		}
	}
	s.drills(t, "      snapshot: random\n", "")
	seen := map[string]bool{}
	for range 30 { // all the same: once in 10^14
		if seen[s.drill(t, exit.Done, "web").Ref] = true; len(seen) > 1 {
			break
		}
	}
	if len(seen) < 2 {
		t.Errorf("random is always %v", seen)
	}

	tools := filepath.Join(filepath.Dir(s.dir), "tools")
	if err := os.MkdirAll(filepath.Join(tools, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(s.dir, "bin", "server"), filepath.Join(tools, "bin", "server")); err != nil {
		t.Fatal(err)
	}
	s.capture(t)
	s.must(t, "snapshot", "--env", "tools", tools)
	s.drills(t, "      base: tools@latest\n      probes: [{name: beneath, command: ["+tools+"/bin/server, check], output: fine}]\n", "")
	if d := s.drill(t, exit.Done, "web"); d.Level != "probed" || !strings.HasSuffix(d.Isolation.Base, "/tools@1") || len(d.Isolation.BaseID) != 64 {
		t.Errorf("above another snapshot: %+v", d)
	}
	s.drills(t, "      base: none\n      probes: [{name: beneath, command: ["+tools+"/bin/server, check], output: fine}]\n", "")
	if d := s.drill(t, exit.Incomplete, "web"); d.statuses() != "beneath not tested" {
		t.Errorf("above nothing: %+v", d)
	}
	s.nothingLeft(t)
}

func testProgramsOfTheTreeReachNothingAndDecideNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, newMachine(t, filepath.Join(t.TempDir(), "repo")))
	write(t, filepath.Join(s.dir, "index.html"), "defaced")
	write(t, filepath.Join(s.dir, "canary"), "lost")
	s.capture(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s.drills(t, `      services: [{name: forger, command: [DIR/bin/server, forge]}, {name: flood, command: [DIR/bin/server, flood]}]
      probes:
        - {name: forged, command: [DIR/bin/server, forge], output: fine}
        - {name: page, file: {path: DIR/index.html, sha256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}}
        - {name: known, canary: {path: DIR/canary, value_file: `+s.value+`}}
        - {name: reach, command: [DIR/bin/server, reach, "`+listener.Addr().String()+`"], output: reached, required: false}
        - {name: endless, command: [DIR/bin/server, flood], timeout: 1s, required: false}
`, "")
	d := s.drill(t, exit.ProbeFailed, "web")
	if got := d.statuses(); got != "forger passed, flood passed, forged passed, page failed, known failed, reach failed, endless failed" {
		t.Errorf("%s: %+v", got, d)
	}
	if b, err := os.ReadFile(filepath.Join(s.dir, "canary")); err != nil || string(b) != "lost" {
		t.Errorf("the tree of this machine was changed: %q, %v", b, err)
	}
	s.nothingLeft(t)
}

func testDamageInTheRepositoryIsNoFailedProbe(t *testing.T) {
	t.Parallel()
	repo := filepath.Join(t.TempDir(), "repo")
	s := newSite(t, newMachine(t, repo))
	s.capture(t)
	for _, kind := range []string{"packs", "manifests"} {
		files, err := filepath.Glob(filepath.Join(repo, "hosts", "*", kind, "*", "*"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", kind, files, err)
		}
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		s.run(t, "drill", "web").exits(t, exit.Damage)
		s.nothingLeft(t)
	}
	list := decode[struct{ Drills []drilled }](t, s.must(t, "drill", "list", "web", "--json"))
	if len(list.Drills) != 2 || list.Drills[0].Passed || list.Drills[1].Passed || list.Drills[0].Level != "unproven" {
		t.Errorf("listed: %+v", list)
	}
}

func testAfterKillNothingIsLeft(t *testing.T) {
	t.Parallel()
	s := newSite(t, newMachine(t, filepath.Join(t.TempDir(), "repo")))
	s.capture(t)
	k := newKiller(t)
	k.whole = time.Second
	for range kills() {
		o := k.try(t, s.machine, "drill", "web")
		if o.code != -1 {
			o.exits(t, exit.Done)
		}
		s.nothingRuns(t)
	}
	s.drill(t, exit.Done, "web")
	s.nothingLeft(t)
}

func testAnInterruptedDrillProvesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, newMachine(t, filepath.Join(t.TempDir(), "repo")))
	s.capture(t)
	s.drills(t, strings.Replace(s.all(), `ready: {tcp: "127.0.0.1:8080"}`, `ready: {file: /never}`, 1), "")
	cmd, wait := s.start(t, "drill", "web")
	deadline := time.Now().Add(time.Minute)
	for { // until the service runs
		if out, _ := exec.Command("pgrep", "-f", "^"+s.dir+"/bin/server").Output(); len(out) > 0 || time.Now().After(deadline) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	o := wait()
	o.exits(t, exit.Interrupted)
	if text := o.stderr.String(); !strings.Contains(text, "nothing is proven") {
		t.Errorf("it printed %s", text)
	}
	s.nothingLeft(t)
	if list := decode[struct{ Drills []drilled }](t, s.must(t, "drill", "list", "web", "--json")); len(list.Drills) > 0 {
		t.Errorf("signed: %+v", list)
	}
}
