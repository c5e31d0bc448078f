package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"knowngood/cmd/knowngood/exit"
	"knowngood/internal/command"
)

// postgres is a PostgreSQL server on a socket in a directory of its own.
type postgres struct{ env []string }

// startPostgres starts one, of the newest version that is installed. It refuses
// to run as root, so it runs as its own user then.
func startPostgres(t *testing.T) *postgres {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		t.Skip("needs PostgreSQL's server, which is not installed")
	}
	bin := slices.MaxFunc(bins, func(a, b string) int {
		version := func(dir string) int { n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir))); return n }
		return version(a) - version(b)
	})
	// A short path that its user can reach, as those of the tests are not.
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	as := &syscall.SysProcAttr{}
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skipf("needs the user that PostgreSQL runs as: %v", err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	start := func(name string, args ...string) (*exec.Cmd, *bytes.Buffer) {
		cmd, said := exec.Command(filepath.Join(bin, name), args...), &bytes.Buffer{}
		cmd.Dir, cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = dir, as, said, said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, said
	}
	data := filepath.Join(dir, "data")
	initdb, said := start("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--pgdata="+data)
	if err := initdb.Wait(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, said)
	}
	server, said := start("postgres", "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off")
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGINT)
		select {
		case <-ended:
		case <-time.After(patience):
			_ = server.Process.Kill()
			t.Error("the server did not end")
		}
	})
	p := &postgres{env: []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "PGHOST=" + dir, "PGUSER=postgres", "PGPORT=5432"}}
	for end := time.Now().Add(patience); ; {
		if p.command("pg_isready", "-q").Run() == nil {
			return p
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the server ended: %v\n%s", err, said)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal("the server does not answer")
		}
	}
}

func (p *postgres) command(name string, args ...string) *exec.Cmd {
	path := name
	if bin, _, ok := strings.Cut(strings.TrimPrefix(p.env[0], "PATH="), ":"); ok {
		if _, err := os.Stat(filepath.Join(bin, name)); err == nil {
			path = filepath.Join(bin, name)
		}
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), p.env...)
	return cmd
}

// sql runs statements and returns what they return.
func (p *postgres) sql(t *testing.T, database, text string) string {
	t.Helper()
	cmd := p.command("psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", text)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", text, err, out)
	}
	return strings.TrimSpace(string(out))
}

// makeShop makes a database of what a dump could lose.
const makeShop = `
	CREATE ROLE clerk LOGIN;
	CREATE TABLE orders (id bigserial PRIMARY KEY, at timestamptz NOT NULL, price numeric(12,4), note text, image bytea, tags jsonb);
	INSERT INTO orders (at, price, note, image, tags)
		SELECT '2026-11-24 10:00+00'::timestamptz + i * interval '1 minute', i / 7.0, 'Größe ' || md5(i::text) || E'\n\t\\.', decode(md5(i::text), 'hex'), jsonb_build_object('n', i)
		FROM generate_series(1, 20000) AS i;
	CREATE TABLE lines (order_id bigint REFERENCES orders, quantity int CHECK (quantity > 0));
	INSERT INTO lines SELECT id, id % 9 + 1 FROM orders;
	CREATE INDEX ON orders (price);
	CREATE VIEW dear AS SELECT * FROM orders WHERE price > 1000;
	CREATE FUNCTION total() RETURNS numeric LANGUAGE sql AS 'SELECT sum(price) FROM orders';
	SELECT lo_from_bytea(4711, 'a large object');
	GRANT SELECT ON dear TO clerk;`

// describeShop is equal for equal databases.
const describeShop = `
	SELECT count(*), md5(string_agg(o::text, '|' ORDER BY id)) FROM orders o;
	SELECT count(*), sum(quantity) FROM lines;
	SELECT count(*), (SELECT total()) FROM dear;
	SELECT last_value, is_called FROM orders_id_seq;
	SELECT convert_from(lo_get(4711), 'UTF8');
	SELECT conname, contype FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1;
	SELECT indexname FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1;
	SELECT has_table_privilege('clerk', 'dear', 'SELECT'), has_table_privilege('clerk', 'orders', 'SELECT')`

// The configuration is that of configs/hooks/README.md, as the user who may.
const postgresConfig = `
environments:
  db:
    sources:
      - command: ["pg_dumpall", "--globals-only"]
        as: db/globals.sql
        restore: ["psql", "-X", "-q", "-d", "postgres"]
      - command: ["pg_dump", "-Fc", "-Z0", "shop"]
        as: db/shop.dump
        restore: ["pg_restore", "--clean", "--if-exists", "--exit-on-error", "-d", "shop"]
  broken:
    sources:
      - command: ["pg_dump", "-Fc", "-Z0", "no-such-shop"]
        as: db/shop.dump
`

// restored restores the dumps of a snapshot and has a server take them back.
func restored(t *testing.T, m *machine, p *postgres, config, ref string) {
	t.Helper()
	at := *m
	at.env = p.env
	at.must(t, "restore", ref+":/db", "--target", filepath.Join(t.TempDir(), "out"), "--load", "--config", config)
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	t.Run("a Postgres database comes back from its dump", testAPostgresDatabaseComesBackFromItsDump)
	t.Run("a dump that fails fails the snapshot and the reason is reported", testADumpThatFailsFailsTheSnapshotAndTheReasonIsReported)
}

func testAPostgresDatabaseComesBackFromItsDump(t *testing.T) {
	t.Parallel()
	p := startPostgres(t)
	p.sql(t, "postgres", "CREATE DATABASE shop")
	p.sql(t, "shop", makeShop)
	want := p.sql(t, "shop", describeShop)
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"), p.env...)
	config := m.configured(t, "%s", postgresConfig)
	first := decode[snapshotResult](t, m.must(t, "snapshot", "db", "--config", config, "--json"))

	// Another dump of the same is stored by what differs in it, its date: the
	// first chunk, whose length is up to the key of the repository.
	again := decode[snapshotResult](t, m.must(t, "snapshot", "db", "--config", config, "--json"))
	if first.NewBytes < 2<<20 || again.NewBytes >= first.NewBytes {
		t.Errorf("the first dump stored %d bytes, an equal one %d", first.NewBytes, again.NewBytes)
	}

	// A bare server gets it, and one that lost data meanwhile.
	bare := startPostgres(t)
	bare.sql(t, "postgres", "CREATE DATABASE shop")
	restored(t, m, bare, config, first.Ref)
	if got := bare.sql(t, "shop", describeShop); got != want {
		t.Errorf("on a bare server it is\n%s\nwant\n%s", got, want)
	}
	p.sql(t, "shop", "DROP FUNCTION total; DELETE FROM lines WHERE order_id < 1000; ALTER TABLE orders ADD COLUMN wrong int; UPDATE orders SET price = 0")
	restored(t, m, p, config, again.Ref)
	if got := p.sql(t, "shop", describeShop); got != want {
		t.Errorf("in place it is\n%s\nwant\n%s", got, want)
	}
}

func testADumpThatFailsFailsTheSnapshotAndTheReasonIsReported(t *testing.T) {
	t.Parallel()
	p := startPostgres(t)
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"), p.env...)
	config := m.configured(t, "%s", postgresConfig)
	o := m.run(t, "snapshot", "broken", "--config", config)
	o.exits(t, exit.Failed)
	if said := o.stderr.String(); !strings.Contains(said, `command source "db/shop.dump": pg_dump: exit status 1: `) || !strings.Contains(said, `database "no-such-shop" does not exist`) {
		t.Errorf("it says %s", said)
	}
	if refs := m.refs(t); len(refs) != 0 {
		t.Errorf("there are snapshots: %v", refs)
	}
	// A restore that fails reports it, too.
	argv := []string{p.command("pg_restore").Path, "--exit-on-error", "-d", "postgres"}
	err := (&command.Command{Argv: argv, Env: p.env, Stdin: strings.NewReader("PGDMP is not all of it")}).Run(t.Context())
	if e := (*command.Error)(nil); !errors.As(err, &e) || e.ExitCode != 1 || e.Tail == "" {
		t.Errorf("half a dump: %v", err)
	}
}
