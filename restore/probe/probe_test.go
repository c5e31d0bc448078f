package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"knowngood/configs"
	"knowngood/storage/attest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProbe(t *testing.T) {
	t.Run("every kind that can be configured has an entry in the table", everyKindHasAnEntry)
	t.Run("files", files)
	t.Run("links of the tree do not lead out of it", linksDoNotLeadOut)
	t.Run("a database is read with what lies beside it, and not changed", aDatabaseIsReadWithWhatLiesBesideIt)
	t.Run("a damaged database fails", aDamagedDatabaseFails)
	t.Run("an extension of SQLite that is missing is no damage", anExtensionThatIsMissingIsNoDamage)
	t.Run("queries", queries)
	t.Run("programs", programs)
	t.Run("a user that the cell lacks is not tested", aUserThatTheCellLacks)
	t.Run("services", services)
	t.Run("the network", network)
	t.Run("the value of a canary does not reach the cell", aCanaryStays)
	t.Run("a hostile cell decides nothing", aHostileCellDecidesNothing)
}

// client speaks with a cell that is a goroutine.
func client(t *testing.T, tree string) *Client {
	t.Helper()
	theirs, in := io.Pipe()
	out, answers := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := Serve(theirs, answers)
		answers.Close()
		done <- err
	}()
	c, err := NewClient(in, out, tree)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return c
}

var begun = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func ask(t *testing.T, c *Client, p configs.Probe) Answer {
	t.Helper()
	if p.Timeout == 0 {
		p.Timeout = configs.Duration(20 * time.Second)
	}
	a, err := c.Probe(t.Context(), &p, begun)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// expect demands a status, and words in what is answered.
func expect(t *testing.T, name string, a Answer, status attest.Status, words string) {
	t.Helper()
	if a.Status != status || !strings.Contains(a.Cause+" "+a.Detail, words) {
		t.Errorf("%s: %+v, want %s with %q", name, a, status, words)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func everyKindHasAnEntry(t *testing.T) {
	yes := true
	all := []configs.Probe{
		{File: &configs.FileProbe{}}, {Tree: &configs.TreeProbe{}}, {SQLite: &configs.SQLiteProbe{}}, {Postgres: &configs.PostgresProbe{}}, {Canary: &configs.CanaryProbe{}},
		{Scan: &configs.ScanProbe{}}, {Command: []string{"x"}}, {HTTP: &configs.HTTPProbe{}}, {TCP: "x"},
	}
	if len(all) != len(kinds()) {
		t.Errorf("%d kinds, the table has %d", len(all), len(kinds()))
	}
	for _, p := range all {
		p.Required = &yes
		if k := KindOf(&p); k.Proves == nil || (k.run == nil) != (k.Place == Restorer) {
			t.Errorf("%s is not in the table", p.Kind())
		}
	}
}

func files(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "page"), "hello")
	write(t, filepath.Join(dir, "empty"), "")
	if err := os.Chtimes(filepath.Join(dir, "page"), begun, begun.Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bare/sub", "none"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	no := false
	const sum = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	c := client(t, dir)
	for _, x := range []struct {
		name   string
		p      configs.FileProbe
		status attest.Status
		words  string
	}{
		{"there", configs.FileProbe{Path: "/page"}, attest.Passed, "5 bytes"},
		{"missing", configs.FileProbe{Path: "/nothing"}, attest.Failed, "no such file"},
		{"below a file", configs.FileProbe{Path: "/page/x"}, attest.Failed, "not a directory"},
		{"gone", configs.FileProbe{Path: "/nothing", Exists: &no}, attest.Passed, ""},
		{"not gone", configs.FileProbe{Path: "/page", Exists: &no}, attest.Failed, "it exists"},
		{"empty", configs.FileProbe{Path: "/empty", NotEmpty: true}, attest.Failed, "it is empty"},
		{"a directory with something in it", configs.FileProbe{Path: "/bare", NotEmpty: true}, attest.Passed, "a directory"},
		{"a directory with nothing in it", configs.FileProbe{Path: "/none", NotEmpty: true}, attest.Failed, "an empty directory"},
		{"hash", configs.FileProbe{Path: "/page", SHA256: sum}, attest.Passed, "as configured"},
		{"another hash", configs.FileProbe{Path: "/empty", SHA256: sum}, attest.Failed, "e3b0c442"},
		{"of a directory", configs.FileProbe{Path: "/", SHA256: sum}, attest.Failed, "is no file"},
		{"new", configs.FileProbe{Path: "/page", NewerThan: configs.Duration(3 * time.Hour)}, attest.Passed, ""},
		{"old", configs.FileProbe{Path: "/page", NewerThan: configs.Duration(time.Hour)}, attest.Failed, "longer than 1h before"},
	} {
		expect(t, x.name, ask(t, c, configs.Probe{File: &x.p}), x.status, x.words)
	}
}

func linksDoNotLeadOut(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	write(t, outside, "secret")
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(tree, "inside"), "inside")
	for name, target := range map[string]string{"absolute": outside, "up": "../../../../" + outside, "magic": "/proc/self/root" + outside, "inner": "/inside", "round": "round"} {
		if err := os.Symlink(target, filepath.Join(tree, name)); err != nil {
			t.Fatal(err)
		}
	}
	c := client(t, tree)
	for _, name := range []string{"absolute", "up", "magic", "round"} {
		expect(t, name, ask(t, c, configs.Probe{File: &configs.FileProbe{Path: "/" + name, NotEmpty: true}}), attest.Failed, "")
	}
	expect(t, "inner", ask(t, c, configs.Probe{File: &configs.FileProbe{Path: "/inner", NotEmpty: true}}), attest.Passed, "6 bytes")
	expect(t, "up", ask(t, c, configs.Probe{File: &configs.FileProbe{Path: "/../../inside", NotEmpty: true}}), attest.Passed, "6 bytes")
	if Exists(tree, "/absolute") || !Exists(tree, "/inner") {
		t.Error("Exists follows links out of the tree, or not at all")
	}
}

// database makes a database by a script of the sqlite3 program.
func database(t *testing.T, file, sql string) {
	t.Helper()
	cmd := exec.Command("sqlite3", "-batch", "-bail", file)
	cmd.Stdin = strings.NewReader(sql)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

const table = "create table orders(id integer primary key, v text); with recursive n(i) as (select 1 union all select i+1 from n where i < 2000) insert into orders(v) select printf('%0200d', i) from n;"

func count(file string) configs.Probe {
	return configs.Probe{SQLite: &configs.SQLiteProbe{File: file, Query: "select count(*) from orders", Expected: equals("2000")}}
}

func equals(text string) configs.Expected {
	v := configs.Value(text)
	return configs.Expected{Equals: &v}
}

func aDatabaseIsReadWithWhatLiesBesideIt(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	database(t, at("app.db"), table)
	// A write-ahead log that no checkpoint has taken in, and the journal of a
	// transaction that was cut off: copies are made while the writer runs.
	database(t, at("w.db"), "pragma journal_mode=wal;"+table+"\n.system cp "+at("w.db")+" "+at("wal.db")+"\n.system cp "+at("w.db-wal")+" "+at("wal.db-wal")+"\n")
	database(t, at("j.db"), table+"pragma cache_size=2; pragma cache_spill=2; begin; delete from orders where id > 5;\n.system cp "+at("j.db")+" "+at("hot.db")+"\n.system cp "+at("j.db-journal")+" "+at("hot.db-journal")+"\nrollback;")
	before := map[string]string{}
	for _, name := range []string{"app.db", "wal.db", "wal.db-wal", "hot.db", "hot.db-journal"} {
		b, err := os.ReadFile(at(name))
		if err != nil || len(b) == 0 {
			t.Fatalf("%s: %d bytes, %v", name, len(b), err)
		}
		before[name] = string(b)
	}
	c := client(t, dir)
	// SQLite looks for the log and the journal beside the file itself.
	if err := os.Mkdir(at("links"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"app", "wal", "hot"} {
		if err := os.Symlink("../"+name+".db", at("links/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"/app.db", "/wal.db", "/hot.db", "/links/app", "/links/wal", "/links/hot"} {
		expect(t, name, ask(t, c, count(name)), attest.Passed, "the query answers 2000")
	}
	for name, content := range before {
		if b, err := os.ReadFile(at(name)); err != nil || string(b) != content {
			t.Errorf("%s was changed: %v", name, err)
		}
	}
	if err := os.Remove(at("wal.db-wal")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(at("hot.db-journal")); err != nil {
		t.Fatal(err)
	}
	expect(t, "without its log", ask(t, c, count("/wal.db")), attest.Failed, "")
	expect(t, "without its journal", ask(t, c, count("/hot.db")), attest.Failed, "")
}

func aDamagedDatabaseFails(t *testing.T) {
	dir := t.TempDir()
	database(t, filepath.Join(dir, "app.db"), table)
	whole, err := os.ReadFile(filepath.Join(dir, "app.db"))
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, dir)
	for name, damage := range map[string]func(b []byte) []byte{
		"cut":      func(b []byte) []byte { return b[:len(b)-4096] },
		"a page":   func(b []byte) []byte { copy(b[len(b)/2:], bytes.Repeat([]byte{0xa5}, 4096)); return b },
		"a header": func(b []byte) []byte { b[0] ^= 1; return b },
		"empty":    func([]byte) []byte { return nil },
		"zeros":    func(b []byte) []byte { clear(b); return b },
	} {
		write(t, filepath.Join(dir, "bad.db"), string(damage(bytes.Clone(whole))))
		expect(t, name, ask(t, c, configs.Probe{SQLite: &configs.SQLiteProbe{File: "/bad.db"}}), attest.Failed, "")
	}
	expect(t, "missing", ask(t, c, configs.Probe{SQLite: &configs.SQLiteProbe{File: "/none.db"}}), attest.Failed, "no such file")
}

func anExtensionThatIsMissingIsNoDamage(t *testing.T) {
	dir := t.TempDir()
	for name, sql := range map[string]string{
		"collation": "create table t(a text); create index i on t(a); insert into t values ('a'), ('b'); pragma writable_schema=on; update sqlite_master set sql='CREATE TABLE t(a text collate ICU)' where name='t';",
		"function":  "create table t(a int); create index i on t(abs(a)); insert into t values (1); pragma writable_schema=on; update sqlite_master set sql='CREATE INDEX i ON t(own(a))' where name='i';",
	} {
		database(t, filepath.Join(dir, name), sql)
		expect(t, name, ask(t, client(t, dir), configs.Probe{SQLite: &configs.SQLiteProbe{File: "/" + name}}), attest.NotTested, NoExtension)
	}
}

func queries(t *testing.T) {
	dir := t.TempDir()
	database(t, filepath.Join(dir, "a b?%.db"), table)
	c := client(t, dir)
	n := func(f float64) *configs.Number { x := configs.Number(f); return &x }
	for _, x := range []struct {
		query  string
		want   configs.Expected
		status attest.Status
		words  string
	}{
		{"select count(*) from orders", configs.Expected{AtLeast: n(2000), AtMost: n(2000)}, attest.Passed, "2000"},
		{"select count(*) from orders", configs.Expected{AtLeast: n(2001)}, attest.Failed, "at least 2001"},
		{"select count(*) from orders", configs.Expected{AtMost: n(1999.5)}, attest.Failed, "at most 1999.5"},
		{"select 'x'", configs.Expected{AtLeast: n(0)}, attest.Failed, "no number"},
		{"select 'x'", equals("x"), attest.Passed, ""},
		{"select 1.50", equals("1.5"), attest.Passed, ""},
		{"select null", equals(""), attest.Failed, "null"},
		{"select 1 where false", equals("1"), attest.Failed, "no row"},
		{"select nothing", equals("1"), attest.Failed, "syntax error"},
		{"delete from orders", equals(""), attest.Failed, ""},
		{"", equals("1"), attest.Passed, "integrity check"},
	} {
		expect(t, x.query, ask(t, c, configs.Probe{SQLite: &configs.SQLiteProbe{File: "/a b?%.db", Query: x.query, Expected: x.want}}), x.status, x.words)
	}
	endless := configs.Probe{Timeout: configs.Duration(200 * time.Millisecond), SQLite: &configs.SQLiteProbe{File: "/a b?%.db", Query: "with recursive n(i) as (select 1 union all select i+1 from n) select count(*) from n", Expected: equals("1")}}
	expect(t, "endless", ask(t, c, endless), attest.Failed, "interrupted")
}

func programs(t *testing.T) {
	c := client(t, "/")
	for _, x := range []struct {
		name   string
		p      configs.Probe
		status attest.Status
		words  string
	}{
		{"ends well", configs.Probe{Command: []string{"true"}}, attest.Passed, ""},
		{"ends badly", configs.Probe{Command: []string{"false"}}, attest.Failed, "exit code 1"},
		{"as wanted", configs.Probe{Command: []string{"sh", "-c", "exit 7"}, ExitCode: 7}, attest.Passed, ""},
		{"not as wanted", configs.Probe{Command: []string{"true"}, ExitCode: 7}, attest.Failed, "exit code 0"},
		{"prints", configs.Probe{Command: []string{"echo", "all fine"}, Output: "fine"}, attest.Passed, ""},
		{"prints something else", configs.Probe{Command: []string{"echo", "bad"}, Output: "fine"}, attest.Failed, "lacks"},
		{"prints it, and much more", configs.Probe{Command: []string{"sh", "-c", "echo all; echo fine; yes | head -c 100000"}, Output: "all\nfine\ny"}, attest.Passed, ""},
		{"prints something else, and much more", configs.Probe{Command: []string{"sh", "-c", "echo all; yes | head -c 100000"}, Output: "all\nfine"}, attest.Failed, "lacks"},
		{"is missing", configs.Probe{Command: []string{"/no/such/program"}}, attest.NotTested, NoProgram},
		{"is not found", configs.Probe{Command: []string{"no-such-program"}}, attest.NotTested, NoProgram},
		{"has no user", configs.Probe{Command: []string{"true"}, User: "no-such-user"}, attest.NotTested, NoUser},
		{"is killed", configs.Probe{Command: []string{"sh", "-c", "kill -9 $$"}}, attest.Failed, "killed"},
		{"takes too long", configs.Probe{Command: []string{"sleep", "100"}, Timeout: configs.Duration(100 * time.Millisecond)}, attest.Failed, "longer than"},
		{"leaves something behind", configs.Probe{Command: []string{"sh", "-c", "sleep 100 & echo fine"}, Output: "fine"}, attest.Passed, ""},
	} {
		expect(t, x.name, ask(t, c, x.p), x.status, x.words)
	}
	a := ask(t, c, configs.Probe{Command: []string{"sh", "-c", "yes | head -c 1000000; echo the end"}, Output: "the end"})
	if a.Status != attest.Passed || len(a.Output) > maxOutput || !strings.HasSuffix(a.Output, "the end\n") {
		t.Errorf("%d bytes of output: %s", len(a.Output), a.Status)
	}
	if a := ask(t, c, configs.Probe{Command: []string{"env"}}); strings.Contains(a.Output, "GO") || !strings.Contains(a.Output, "LANG=C.UTF-8") {
		t.Errorf("its environment is %s", a.Output)
	}
}

func aUserThatTheCellLacks(t *testing.T) {
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: math.MaxUint32}} // no cell has it
	if err := begin(cmd); causeOf(err) != NoRun || !strings.Contains(err.Error(), "the cell lacks that user") {
		t.Errorf("%v: %q", err, causeOf(err))
	}
}

func services(t *testing.T) {
	dir := t.TempDir()
	c := client(t, "/")
	start := func(s configs.Service) Answer {
		t.Helper()
		if s.Timeout == 0 {
			s.Timeout = configs.Duration(20 * time.Second)
		}
		a, err := c.Start(t.Context(), &s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	file := filepath.Join(dir, "ready")
	expect(t, "a file appears", start(configs.Service{Command: []string{"sh", "-c", "sleep 0.2; touch " + file + "; sleep 1"}, Ready: &configs.Ready{File: file}}), attest.Passed, "")
	expect(t, "a command succeeds", start(configs.Service{Command: []string{"sleep", "1"}, Ready: &configs.Ready{Command: []string{"test", "-e", file}}}), attest.Passed, "")
	expect(t, "never", start(configs.Service{Command: []string{"sleep", "1"}, Ready: &configs.Ready{File: "/never"}, Timeout: configs.Duration(200 * time.Millisecond)}), attest.Failed, "not ready within")
	expect(t, "it ends", start(configs.Service{Command: []string{"sh", "-c", "echo broken; exit 3"}, Ready: &configs.Ready{File: "/never"}}), attest.Failed, "it ended: exit status 3")
	expect(t, "it goes to the background", start(configs.Service{Command: []string{"sh", "-c", "(sleep 0.3; touch " + file + "2; sleep 1) >/dev/null 2>&1 &"}, Ready: &configs.Ready{File: file + "2"}}), attest.Passed, "")
	// Without a way to show that it is ready it must at least run for a while.
	expect(t, "it ends soon", start(configs.Service{Command: []string{"sh", "-c", "sleep 0.2; exit 3"}}), attest.Failed, "it ended: exit status 3")
	expect(t, "it runs", start(configs.Service{Name: "brief", Command: []string{"sh", "-c", "sleep 1.4; echo broken; exit 4"}}), attest.Passed, "it runs")
	expect(t, "it has nothing to do", start(configs.Service{Command: []string{"true"}}), attest.Passed, "ended with success")
	time.Sleep(500 * time.Millisecond)
	a, err := c.Runs(t.Context(), &configs.Service{Name: "brief"})
	if expect(t, "it runs no more", a, attest.Failed, "it ended: exit status 4"); err != nil || a.Output != "broken\n" {
		t.Errorf("%q, %v", a.Output, err)
	}
	expect(t, "it is missing", start(configs.Service{Command: []string{"/no/such/server"}}), attest.NotTested, NoProgram)
	time.Sleep(1500 * time.Millisecond) // for the goroutines that wait for them
}

func network(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/broken":
			w.WriteHeader(500)
		case "/slow":
			<-r.Context().Done()
		}
		fmt.Fprint(w, "all is fine")
	})}
	go server.Serve(l)
	defer server.Close()
	c := client(t, "/")
	base := "http://" + l.Addr().String()
	get := func(path string, status int, contains string) configs.Probe {
		return configs.Probe{HTTP: &configs.HTTPProbe{URL: base + path, Status: configs.Count(status), Contains: contains}}
	}
	expect(t, "served", ask(t, c, get("/", 200, "fine")), attest.Passed, "")
	expect(t, "another text", ask(t, c, get("/", 200, "good")), attest.Failed, "lacks")
	expect(t, "broken", ask(t, c, get("/broken", 200, "")), attest.Failed, "status 500")
	expect(t, "moved", ask(t, c, get("/moved", 302, "")), attest.Passed, "")
	slow := get("/slow", 200, "")
	slow.Timeout = configs.Duration(100 * time.Millisecond)
	expect(t, "slow", ask(t, c, slow), attest.Failed, "")
	expect(t, "open", ask(t, c, configs.Probe{TCP: l.Addr().String()}), attest.Passed, "")
	server.Close()
	expect(t, "closed", ask(t, c, configs.Probe{TCP: l.Addr().String()}), attest.Failed, "refused")
}

func aCanaryStays(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "canary"), "the value\n")
	write(t, filepath.Join(dir, "value"), "the value\n")
	p := configs.Probe{Timeout: configs.Duration(time.Second), Canary: &configs.CanaryProbe{Path: "/canary", ValueFile: filepath.Join(dir, "value")}}
	c := client(t, dir)
	expect(t, "known", ask(t, c, p), attest.Passed, "byte for byte")
	write(t, filepath.Join(dir, "canary"), "the value")
	expect(t, "a newline less", ask(t, c, p), attest.Failed, "not the known value")
	missing := p
	missing.Canary = &configs.CanaryProbe{Path: "/canary", ValueFile: filepath.Join(dir, "none")}
	expect(t, "no value", ask(t, c, missing), attest.NotTested, "cannot be read")

	write(t, filepath.Join(dir, "value"), "")
	write(t, filepath.Join(dir, "canary"), "")
	expect(t, "both are empty", ask(t, c, p), attest.NotTested, "cannot be read")
	write(t, filepath.Join(dir, "value"), "the value\n")

	var sent bytes.Buffer
	nothing, end := io.Pipe()
	defer end.Close()
	silent, err := NewClient(writeOnly{&sent}, nothing, "/")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := silent.Probe(ctx, &p, begun); err == nil {
		t.Error("a silent cell answers")
	}
	if text := sent.String(); strings.Contains(text, "the value") || strings.Contains(text, filepath.Join(dir, "value")) || !strings.Contains(text, `"SHA256":"`) {
		t.Errorf("sent: %s", text)
	}
}

type writeOnly struct{ io.Writer }

func (writeOnly) Close() error { return nil }

func aHostileCellDecidesNothing(t *testing.T) {
	for name, c := range map[string]struct{ line, want string }{
		"another question": {`{"ID":7,"Answer":{"Status":"passed"}}`, "another question"},
		"no status":        {`{"ID":1,"Answer":{"Status":"probed"}}`, "no valid answer"},
		"no JSON":          {`passed`, "invalid character"},
		"too long":         {`{"ID":1,"Answer":{"Status":"passed","Detail":"` + strings.Repeat("x", maxLine) + `"}}`, "too long"},
		"nothing":          {``, "ended"},
		"two answers":      {`{"ID":1,"Answer":{"Status":"failed"}}` + "\n" + `{"ID":1,"Answer":{"Status":"passed"}}` + "\n" + `{"ID":1,"Answer":{"Status":"passed"}}`, ""},
	} {
		client, err := NewClient(writeOnly{io.Discard}, io.NopCloser(strings.NewReader(c.line+"\n")), "/")
		if err != nil {
			t.Fatal(err)
		}
		a, err := client.Probe(t.Context(), &configs.Probe{TCP: "127.0.0.1:1", Timeout: configs.Duration(time.Second)}, begun)
		if c.want == "" {
			if err == nil && a.Status != attest.Failed {
				t.Errorf("%s: %+v", name, a)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	long, _ := json.Marshal(reply{1, Answer{Status: attest.NotTested, Cause: "whatever I like", Detail: strings.Repeat("\xff", 5000), Output: strings.Repeat("y", 100_000)}})
	client, err := NewClient(writeOnly{io.Discard}, io.NopCloser(bytes.NewReader(append(long, '\n'))), "/")
	if err != nil {
		t.Fatal(err)
	}
	a, err := client.Probe(t.Context(), &configs.Probe{TCP: "127.0.0.1:1", Timeout: configs.Duration(time.Second)}, begun)
	if err != nil || a.Cause != NoRun || len(a.Detail) > 4*maxDetail || len(a.Output) > maxOutput {
		t.Errorf("%d bytes of detail, %d of output, cause %q, %v", len(a.Detail), len(a.Output), a.Cause, err)
	}
}

func TestTree(t *testing.T) {
	t.Run("links are followed within it", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "usr/share"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, to := range map[string]string{"data": "/usr/share", "up": "../../../usr", "usr/back": "../data", "gone": "/etc/passwd"} {
			if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		r, err := openRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for path, want := range map[string]string{"": "/", "/": "/", "/data": "/usr/share", "/data/": "/usr/share", "/up": "/usr", "/usr/back": "/usr/share", "/gone": ""} {
			if got, err := r.resolve(path); got != want || (err == nil) != (want != "") {
				t.Errorf("%s leads to %q, want %q: %v", path, got, want, err)
			}
		}
	})
}

func TestLiveServer(t *testing.T) {
	t.Run("stays as it is", func(t *testing.T) {
		data := t.TempDir()
		write(t, filepath.Join(data, "PG_VERSION"), "15\n")
		lock := filepath.Join(data, "postmaster.pid")
		write(t, lock, "1\n")
		for _, p := range []configs.Probe{
			{Postgres: &configs.PostgresProbe{Data: data, User: "root", Bin: "/bin"}},
			{SQLite: &configs.SQLiteProbe{File: lock}},
			{Canary: &configs.CanaryProbe{Path: lock}},
			{Scan: &configs.ScanProbe{Command: []string{"true"}}},
			{Tree: &configs.TreeProbe{}},
		} {
			p.Timeout = configs.Duration(5 * time.Second)
			expect(t, p.Kind(), Live(t.Context(), &p), attest.NotTested, "looks into restored trees")
		}
		if _, err := os.Stat(lock); err != nil {
			t.Errorf("the server that runs ends when its lock is gone: %v", err)
		}
		expect(t, "a file", Live(t.Context(), &configs.Probe{Timeout: configs.Duration(time.Second), File: &configs.FileProbe{Path: lock}}), attest.Passed, "")
	})
}
