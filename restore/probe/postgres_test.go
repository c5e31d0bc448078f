package probe

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"knowngood/configs"
	"knowngood/storage/attest"
)

// cluster is a data directory of which the server was killed, and dumps of it.
type cluster struct {
	dir, data string
	copies    int
	relations map[string]string // file of a table or an index, in the data directory
}

const shop = `
	create role clerk login;
	create table orders (id int primary key, price int not null, note text);
	insert into orders select i, i % 97, repeat('x', 100) || i from generate_series(1, 20000) i;
	create index prices on orders (price);
	create table lines (id int references orders, price int);
	insert into lines select id, price from orders;
	create table kinds (name text primary key);
	alter table lines owner to clerk;
	grant select on orders to clerk;
	create policy own on orders to clerk using (true);`

func newCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a server that runs as another user is tested as root")
	}
	s := &server{probe: &configs.PostgresProbe{User: "postgres"}}
	var err error
	if s.bin = s.programs("*"); s.bin == "" {
		t.Skip("needs PostgreSQL's server, which is not installed")
	}
	if s.credential, _, err = credential("postgres"); err != nil {
		t.Skip(err)
	}
	dir, err := os.MkdirTemp(here, "postgres-test") // a short path, which the user can reach
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	c := &cluster{dir: dir, data: filepath.Join(dir, "data"), relations: map[string]string{}}
	if err := os.Chown(dir, int(s.credential.Uid), int(s.credential.Gid)); err != nil {
		t.Fatal(err)
	}
	cmd := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(s.bin, name), args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "PGHOST="+dir, "PGUSER=postgres")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential}
		return cmd
	}
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := cmd(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("initdb", "-D", c.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
	server := cmd("postgres", "-D", c.data, "-k", dir, "-c", "listen_addresses=")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); cmd("pg_isready", "-q").Run() != nil; time.Sleep(pause) {
		if time.Now().After(end) {
			t.Fatal("the server does not answer")
		}
	}
	sql := func(database, text string) string {
		t.Helper()
		return run("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", text)
	}
	sql("postgres", "create database shop")
	sql("shop", shop)
	for _, name := range []string{"orders", "prices"} {
		c.relations[name] = sql("shop", "select pg_relation_filepath('"+name+"')")
	}
	run("pg_dump", "-Fc", "-f", filepath.Join(dir, "custom"), "shop")
	run("pg_dump", "-f", filepath.Join(dir, "plain"), "shop")
	run("pg_dump", "--create", "-f", filepath.Join(dir, "create"), "shop")
	run("pg_dump", "-Ft", "-f", filepath.Join(dir, "tar"), "shop")
	run("pg_dumpall", "-f", filepath.Join(dir, "all"))
	sql("shop", "checkpoint")
	sql("shop", "update orders set price = price where id < 100") // is only in the log
	children, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", server.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range append([]string{fmt.Sprint(server.Process.Pid)}, strings.Fields(string(children))...) {
		if n, err := strconv.Atoi(pid); err != nil || syscall.Kill(n, syscall.SIGKILL) != nil {
			t.Fatalf("process %q of the server is not killed", pid)
		}
	}
	_ = server.Wait()
	return c
}

// copied is a data directory with something done to a relation.
func (c *cluster) copied(t *testing.T, relation string, change func(b []byte)) string {
	t.Helper()
	c.copies++
	dir := filepath.Join(c.dir, fmt.Sprint("copy-", c.copies))
	if out, err := exec.Command("cp", "-a", c.data, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if change == nil {
		return dir
	}
	path := filepath.Join(dir, c.relations[relation])
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change(b)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (c *cluster) write(t *testing.T, name string, change func(b []byte) []byte, of string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.dir, of))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(c.dir, name)
	write(t, path, string(change(b)))
	return path
}

type asked struct {
	name   string
	probe  configs.PostgresProbe
	status attest.Status
	words  string
}

// agree are queries that the whole shop answers.
func agree() []configs.PostgresQuery {
	number := func(n float64) *configs.Number { x := configs.Number(n); return &x }
	equals := func(s string) *configs.Value { x := configs.Value(s); return &x }
	return []configs.PostgresQuery{
		{Query: "select count(*) from orders", Expected: configs.Expected{AtLeast: number(20000), AtMost: number(20000)}},
		{Query: "select note from orders where id = 7", Expected: configs.Expected{Equals: equals(strings.Repeat("x", 100) + "7")}},
		{Query: "select sum(price) from orders", AgreesWith: "select sum(price) from lines"},
	}
}

func (c *cluster) ask(t *testing.T, cases []asked) {
	for _, x := range cases {
		t.Run(x.name, func(t *testing.T) {
			p := x.probe
			p.Database, p.User = "shop", cmp.Or(p.User, "postgres")
			a := ask(t, client(t, "/"), configs.Probe{Timeout: configs.Duration(2 * time.Minute), Postgres: &p})
			expect(t, x.name, a, x.status, x.words)
		})
	}
}

func TestPostgres(t *testing.T) {
	c, agree, no := newCluster(t), agree(), false
	standby := c.copied(t, "", nil)
	write(t, filepath.Join(standby, "standby.signal"), "")
	library := c.copied(t, "", nil)
	if out, err := exec.Command("sh", "-c", "echo \"shared_preload_libraries = 'nowhere'\" >>"+library+"/postgresql.conf").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	zeros := func(b []byte) { clear(b[8192*3 : 8192*4]) }
	c.ask(t, []asked{
		{"a data directory of which the server was killed", configs.PostgresProbe{Data: c.copied(t, "", nil), Queries: agree}, attest.Passed, "3 queries"},
		{"one that needs a library", configs.PostgresProbe{Data: library, Queries: agree}, attest.NotTested, NoProgram},
		{"one of a standby", configs.PostgresProbe{Data: standby, Queries: agree}, attest.Passed, "3 queries"},
		{"an index of which a page is lost", configs.PostgresProbe{Data: c.copied(t, "prices", zeros), Queries: agree}, attest.Failed, "tables and indexes"},
		{"an index that is not checked", configs.PostgresProbe{Data: c.copied(t, "prices", zeros), Amcheck: &no, Queries: agree[1:2]}, attest.Passed, ""},
		{"a table of which a page is lost", configs.PostgresProbe{Data: c.copied(t, "orders", zeros), Amcheck: &no, Queries: agree}, attest.Failed, "at least 20000 is wanted"},
		{"a table of which a page is noise", configs.PostgresProbe{Data: c.copied(t, "orders", func(b []byte) {
			for i := 8192*5 + 24; i < 8192*6; i++ {
				b[i] ^= 0x5a
			}
		}), Queries: agree[:1]}, attest.Failed, "tables and indexes"},
		{"sums that do not agree", configs.PostgresProbe{Data: c.copied(t, "", nil), Amcheck: &no, Queries: []configs.PostgresQuery{{Query: "select sum(price) + 1 from orders", AgreesWith: "select sum(price) from lines"}}}, attest.Failed, "but"},
		{"a query that answers nothing", configs.PostgresProbe{Data: c.data, Amcheck: &no, Queries: []configs.PostgresQuery{{Query: "select name from kinds", AgreesWith: "select name from kinds"}}}, attest.Failed, "answers nothing"},
		{"no data directory", configs.PostgresProbe{Data: c.dir}, attest.Failed, "no data directory"},
		{"programs that are not there", configs.PostgresProbe{Data: c.data, Bin: "/nowhere"}, attest.NotTested, ""},
		{"a dump in the format of pg_dump", configs.PostgresProbe{Dump: filepath.Join(c.dir, "custom"), Queries: agree}, attest.Passed, ""},
		{"a dump that is not there", configs.PostgresProbe{Dump: "/nowhere"}, attest.Failed, "no such file"},
		{"a user who does not exist", configs.PostgresProbe{Dump: filepath.Join(c.dir, "custom"), User: "nobody-such"}, attest.NotTested, ""},
	})
}

func TestFullDisk(t *testing.T) {
	t.Run("that of the cell is no damage", func(t *testing.T) {
		full := because(errors.New("initdb: exit status 1"), "x\n[54] PANIC:  could not write to file: No space left on device\nAborted\n")
		if causeOf(full) != NoRoom || causeOf(because(errors.New("x"), "ERROR:  invalid page in block 7")) != "" {
			t.Errorf("%v: %q", full, causeOf(full))
		}
	})
}

func TestSlow(t *testing.T) {
	if os.Getenv("KNOWNGOOD_SLOW") == "" {
		t.Skip("KNOWNGOOD_SLOW=1 runs it")
	}
	t.Run("dumps of PostgreSQL", dumps)
}

func dumps(t *testing.T) {
	c, agree := newCluster(t), agree()
	half := func(b []byte) []byte { return b[:len(b)/2] }
	zipped := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, _ = w.Write(b)
		_ = w.Close()
		return out.Bytes()
	}
	c.ask(t, []asked{
		{"a dump as SQL", configs.PostgresProbe{Dump: filepath.Join(c.dir, "plain"), Queries: agree}, attest.Passed, ""},
		{"a dump of all databases, compressed", configs.PostgresProbe{Dump: c.write(t, "zipped", zipped, "all"), Queries: agree}, attest.Passed, ""},
		{"a dump that is cut off", configs.PostgresProbe{Dump: c.write(t, "cut", half, "custom"), Queries: agree[1:2]}, attest.Failed, "loading the dump"},
		{"SQL that is cut off", configs.PostgresProbe{Dump: c.write(t, "cut-plain", half, "plain"), Queries: agree[1:2]}, attest.Failed, "cut off"},
		{"a dump that creates its database", configs.PostgresProbe{Dump: filepath.Join(c.dir, "create"), Queries: agree}, attest.Passed, ""},
		{"a dump of all databases that is cut off after one of them", configs.PostgresProbe{Dump: c.write(t, "cut-all", func(b []byte) []byte {
			return b[:bytes.Index(b, []byte("-- PostgreSQL database dump complete"))+100]
		}, "all")}, attest.Failed, "cut off"},
		{"a dump as tar", configs.PostgresProbe{Dump: filepath.Join(c.dir, "tar"), Queries: agree}, attest.Passed, ""},
		{"an extension that this machine lacks", configs.PostgresProbe{Dump: c.write(t, "extension", func(b []byte) []byte {
			return slices.Concat([]byte("create extension nowhere;\n"), b)
		}, "plain"), Queries: agree}, attest.NotTested, `"nowhere" is not available`},
		{"a locale that this machine lacks", configs.PostgresProbe{Dump: c.write(t, "locale", func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte("LOCALE = 'C'"), []byte("LOCALE = 'xx_XX.UTF-8'"))
		}, "all"), Queries: agree}, attest.NotTested, "xx_XX"},
		{"a compressed dump that is cut off", configs.PostgresProbe{Dump: c.write(t, "cut-zipped", func(b []byte) []byte { return half(zipped(b)) }, "all"), Queries: agree[1:2]}, attest.Failed, "loading the dump"},
		{"SQL that is wrong", configs.PostgresProbe{Dump: c.write(t, "wrong", func(b []byte) []byte {
			return slices.Concat([]byte("insert into nothing values (1);\n"), b)
		}, "plain"), Queries: agree}, attest.Failed, `"nothing" does not exist`},
	})
}
