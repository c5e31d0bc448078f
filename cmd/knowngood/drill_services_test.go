package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/cmd/knowngood/exit"
)

// shopSite is a site with what real ones have: PostgreSQL, nginx and SQLite.
type shopSite struct {
	*site
	orders string // file of a table
}

func newShopSite(t *testing.T, m *machine) *shopSite {
	t.Helper()
	if _, err := os.Stat("/usr/sbin/nginx"); err != nil {
		t.Skip("needs nginx, which is not installed")
	}
	p := startPostgres(t)
	s := &shopSite{site: newSite(t, m)}
	if err := os.Chmod(filepath.Dir(s.dir), 0o755); err != nil { // for the users of the services
		t.Fatal(err)
	}
	p.sql(t, "postgres", "CREATE DATABASE shop")
	p.sql(t, "shop", makeShop)
	s.orders = filepath.Join(s.dir, "pg", p.sql(t, "shop", "SELECT pg_relation_filepath('orders')"))
	for _, cmd := range []*exec.Cmd{
		p.command("pg_basebackup", "-D", filepath.Join(s.dir, "pg"), "-c", "fast", "-N"),
		exec.Command("chown", "-R", "postgres:", filepath.Join(s.dir, "pg")),
		p.command("pg_dump", "-Fc", "-f", filepath.Join(s.dir, "shop.dump"), "shop"),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", cmd, err, out)
		}
	}
	write(t, filepath.Join(s.dir, "nginx.conf"), strings.ReplaceAll(`daemon off; pid /tmp/nginx.pid; error_log stderr; user www-data;
events {}
http { access_log off; client_body_temp_path /tmp/a; proxy_temp_path /tmp/b; fastcgi_temp_path /tmp/c; uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e; server { listen 127.0.0.1:8080; root DIR; } }
`, "DIR", s.dir))
	queries := `queries: [{query: "select count(*) from orders", equals: 20000}, {query: "select count(*) from orders", agrees_with: "select count(*) from lines"}]`
	s.drills(t, `      isolation: namespaces
      base: host
      services: [{name: web, command: [/usr/sbin/nginx, -e, stderr, -c, DIR/nginx.conf], ready: {tcp: "127.0.0.1:8080"}}]
      probes:
        - {name: page, file: {path: DIR/index.html, sha256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}}
        - {name: rows, sqlite: {file: DIR/app.db, query: "select count(*) from orders", at_least: 2000}}
        - {name: known, canary: {path: DIR/canary, value_file: `+s.value+`}}
        - {name: health, http: {url: "http://127.0.0.1:8080/canary", status: 200}}
        - {name: orders, postgres: {data: DIR/pg, database: shop, `+queries+`}}
        - {name: dump, postgres: {dump: DIR/shop.dump, database: shop, `+queries+`}}
`, "")
	return s
}

// failed are the names of what failed in a drill.
func (d *drilled) failed() (names []string) {
	for _, p := range d.Probes {
		if p.Status == "failed" {
			names = append(names, p.Name)
		}
	}
	return names
}

func testRealServicesAreProbedAndEachFaultIsNamed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("services of drills are tested as root")
	}
	onStores(t, func(t *testing.T, m *machine) {
		s := newShopSite(t, m)
		s.capture(t)
		if d := s.drill(t, exit.Done, "web"); d.Level != "probed" || d.Isolation.Base != "host" || d.Isolation.Rung != "namespaces" || len(d.Probes) != 7 {
			t.Errorf("the whole: %+v", d)
		}
		s.nothingLeft(t)
		if !strings.HasPrefix(m.repo, "/") {
			return // faults are the same on each store
		}
		change := func(path string, change func(b []byte) []byte) func() {
			return func() {
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				write(t, path, string(change(b)))
			}
		}
		for _, c := range []struct {
			fault, probe string
			make         func()
		}{
			{"a corrupted table", "orders", change(s.orders, func(b []byte) []byte {
				for i := 8192*5 + 24; i < 8192*6; i++ {
					b[i] ^= 0x5a
				}
				return b
			})},
			{"a truncated file", "dump", change(filepath.Join(s.dir, "shop.dump"), func(b []byte) []byte { return b[:len(b)/2] })},
			{"a wrong canary", "known", change(filepath.Join(s.dir, "canary"), func(b []byte) []byte { return append(b, '\n') })},
		} {
			putBack := s.keep(t)
			c.make()
			s.capture(t)
			d := s.drill(t, exit.ProbeFailed, "web")
			if got := d.failed(); d.Passed || d.Level != "unproven" || !slices.Equal(got, []string{c.probe}) {
				t.Errorf("%s: failed are %v: %+v", c.fault, got, d)
			}
			putBack()
			s.nothingLeft(t)
		}
		for i := range 4 { // at moments of all phases
			cmd, wait := s.start(t, "drill", "web")
			time.Sleep(time.Duration(i)*900*time.Millisecond + 100*time.Millisecond)
			_ = cmd.Process.Kill() // it may have ended
			_ = wait()
			s.nothingOf(t, s.dir)
		}
		s.capture(t)
		s.drill(t, exit.Done, "web")
		s.nothingLeft(t)
	})
}

// keep keeps the files that are damaged in turn; what it returns puts them back.
func (s *shopSite) keep(t *testing.T) func() {
	t.Helper()
	kept := map[string]string{}
	for _, path := range []string{s.orders, filepath.Join(s.dir, "shop.dump"), filepath.Join(s.dir, "canary")} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		kept[path] = string(b)
	}
	return func() {
		for path, text := range kept {
			write(t, path, text)
		}
	}
}

// nothingOf demands that no process runs that names a directory.
func (s *shopSite) nothingOf(t *testing.T, dir string) {
	t.Helper()
	running := ""
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		running = ""
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), dir) {
				running = fmt.Sprint(f, " ", string(b))
			}
		}
		if running == "" {
			s.nothingRuns(t)
			return
		}
		if time.Now().After(end) {
			t.Fatalf("still running: %s", running)
		}
	}
}
