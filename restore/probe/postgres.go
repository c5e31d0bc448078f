package probe

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"knowngood/configs"
	"knowngood/restore/isolate"
	"knowngood/storage/attest"
)

// postgres starts a server from a restored data directory, or loads a dump into a
// cluster of its own, and then checks indexes and tables and asks queries. It has
// a cell for itself: what it writes is above the restored files, and no service of
// the drill has written there.
func postgres(ctx context.Context, e *env, p *configs.Probe) Answer {
	s := &server{probe: p.Postgres, log: &isolate.Tail{Most: maxOutput}}
	a := s.ask(ctx, e)
	s.stop()
	if ctx.Err() != nil {
		a = failed(fmt.Sprintf("it took longer than %v: %s", p.Timeout, a.Detail))
	}
	a.Output = s.log.String()
	return a
}

// server is a PostgreSQL server of one probe.
type server struct {
	probe      *configs.PostgresProbe
	data, dir  string // the data directory; and one for the socket and what else is made
	bin        string
	credential *syscall.Credential
	role       string // that connects
	log        *isolate.Tail
	postmaster *os.Process // nil while it does not run
	ended      chan error
}

// here is below which directory a cell has room that is no part of the tree.
const here = "/dev/shm"

func (s *server) ask(ctx context.Context, e *env) Answer {
	version := "*"
	if s.probe.Data != "" {
		text, err := e.head(filepath.Join(s.probe.Data, "PG_VERSION"))
		if err != nil {
			return failed(fmt.Sprintf("it is no data directory of PostgreSQL: %v", err))
		}
		version = strings.TrimSpace(text)
	}
	if s.bin = s.programs(version); s.bin == "" {
		return notTested(NoProgram, "the programs of PostgreSQL "+version)
	}
	for _, step := range []func(context.Context, *env) error{s.prepare, s.start, s.load, s.amcheck, s.queries} {
		err := step(ctx, e)
		if err != nil {
			err = because(err, s.log.String())
		}
		if err != nil {
			if cause := causeOf(err); cause != "" {
				return notTested(cause, err.Error())
			}
			return failed(err.Error())
		}
	}
	return passed(fmt.Sprintf("the server of %s serves; %d queries answer as expected", s.bin, len(s.probe.Queries)))
}

// because adds to an error what a log shows of this machine, not of the data.
func because(err error, log string) error {
	switch {
	case strings.Contains(log, "No space left on device"):
		return fmt.Errorf("%v: %w", err, syscall.ENOSPC)
	case cannotServe.MatchString(log):
		return fmt.Errorf("%v: %w", err, exec.ErrNotFound)
	}
	return err
}

// head is the beginning of a file.
func (e *env) head(path string) (string, error) {
	f, err := e.root.open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64))
	return string(b), err
}

// programs is the directory of the server's programs of a version, or of the newest.
func (s *server) programs(version string) string {
	if s.probe.Bin != "" {
		return s.probe.Bin
	}
	var found []string
	for _, pattern := range []string{"/usr/lib/postgresql/%s/bin", "/usr/pgsql-%s/bin", "/usr/libexec/postgresql%s", "/usr/local/pgsql/bin", "/usr/bin"} {
		dirs, _ := filepath.Glob(strings.Replace(pattern, "%s", version, 1) + "/initdb")
		found = append(found, dirs...)
	}
	if len(found) == 0 {
		return ""
	}
	number := func(path string) int {
		n, _ := strconv.Atoi(regexp.MustCompile(`\d+`).FindString(path))
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return number(a) - number(b) }))
}

// prepare makes the directories, and chooses as whom the server runs: PostgreSQL
// demands the owner of the data directory, and refuses root.
func (s *server) prepare(ctx context.Context, e *env) (err error) {
	s.data, s.role = s.probe.Data, s.probe.User
	if s.data != "" {
		st, err := e.root.stat(s.data)
		if err != nil {
			return fmt.Errorf("%v", err) // it is no program that is missing
		}
		if owner := st.Sys().(*syscall.Stat_t); owner.Uid != 0 {
			s.credential = &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}
		}
	}
	chown := s.credential == nil
	if chown {
		if s.credential, _, err = credential(s.probe.User); err != nil {
			return err
		}
	}
	if s.dir, err = os.MkdirTemp(here, "pg"); err != nil {
		return fmt.Errorf("%v", err)
	}
	uid, gid := int(s.credential.Uid), int(s.credential.Gid)
	if err := os.Chown(s.dir, uid, gid); err != nil {
		return fmt.Errorf("%w: %v", errOneUser, err)
	}
	if s.data == "" {
		s.data, s.role = filepath.Join(s.dir, "data"), "knowngood" // a role that no dump creates
		return s.run(ctx, nil, s.log, s.log, "initdb", "-D", s.data, "-U", s.role, "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
	}
	_ = os.Remove(filepath.Join(s.data, "postmaster.pid")) // of the server that was captured: none runs here
	if !chown {
		return nil
	}
	return filepath.WalkDir(s.data, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, gid))
	})
}

// start starts the server and waits until it takes connections.
func (s *server) start(ctx context.Context, e *env) error {
	own := filepath.Join(s.dir, "own.conf")
	if err := os.WriteFile(own, []byte("local all all trust\n"), 0o644); err != nil {
		return fmt.Errorf("%v", err)
	}
	config := filepath.Join(s.dir, "postgresql.conf")
	if err := os.WriteFile(config, nil, 0o644); err != nil {
		return fmt.Errorf("%v", err)
	}
	// Debian has it elsewhere. What the data needs may be there: libraries that are loaded first.
	for _, c := range []string{filepath.Join(s.data, "postgresql.conf"), "/etc" + strings.TrimPrefix(s.data, "/var/lib") + "/postgresql.conf"} {
		if _, err := e.root.stat(c); err == nil {
			config = c
			break
		}
	}
	argv := []string{filepath.Join(s.bin, "postgres"), "-D", s.data}
	for _, set := range []string{
		"config_file=" + config, "data_directory=" + s.data, "hba_file=" + own, "ident_file=" + os.DevNull, "external_pid_file=" + filepath.Join(s.dir, "pid"),
		"listen_addresses=", "unix_socket_directories=" + s.dir, "unix_socket_permissions=0777", "port=5432", "ssl=off",
		"logging_collector=off", "log_destination=stderr", "lc_messages=C", "archive_mode=off", "autovacuum=off",
		"synchronous_standby_names=", "hot_standby=on", "fsync=off", "shared_buffers=32MB", "huge_pages=off",
	} {
		argv = append(argv, "-c", set)
	}
	cmd, err := command(argv, "", s.log)
	if err != nil {
		return err
	}
	cmd.SysProcAttr.Credential = s.credential
	if err := begin(cmd); err != nil {
		return err
	}
	s.postmaster, s.ended = cmd.Process, make(chan error, 1)
	go func() { s.ended <- withoutOutput(cmd.Wait()) }()
	for {
		if s.run(ctx, nil, io.Discard, io.Discard, "pg_isready", s.connect()...) == nil {
			s.promote(ctx)
			return nil
		}
		select {
		case err := <-s.ended:
			s.postmaster = nil
			return fmt.Errorf("the server ended: %v", err)
		case <-ctx.Done():
			return errors.New("the server takes no connections")
		case <-time.After(pause):
		}
	}
}

// promote ends the recovery of a copy of a standby, which would wait for its primary and
// could be asked little. Where that fails, what is asked shows it.
func (s *server) promote(ctx context.Context) {
	if text, err := s.answer(ctx, "postgres", "select pg_is_in_recovery()"); err == nil && text == "t" {
		_, _ = s.answer(ctx, "postgres", "select pg_promote(true, 600)")
	}
}

// stop ends the server; what does not end, ends with the cell.
func (s *server) stop() {
	if s.postmaster != nil {
		_ = s.postmaster.Signal(syscall.SIGQUIT)
		select {
		case <-s.ended:
		case <-time.After(grace):
		}
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
}

// run runs a program of PostgreSQL's to its end.
func (s *server) run(ctx context.Context, in io.Reader, out, errs io.Writer, name string, args ...string) error {
	cmd, err := command(append([]string{filepath.Join(s.bin, name)}, args...), "", s.log)
	if err != nil {
		return err
	}
	cmd.SysProcAttr.Credential, cmd.Stdin, cmd.Stdout, cmd.Stderr = s.credential, in, out, errs
	if err := finish(ctx, cmd); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// connect are the arguments by which programs reach the server.
func (s *server) connect(args ...string) []string {
	return append([]string{"-h", s.dir, "-p", "5432", "-U", s.role}, args...)
}

// answer is what a query answers in a database, as text.
func (s *server) answer(ctx context.Context, database, query string) (string, error) {
	out := &isolate.Tail{Most: maxOutput}
	err := s.run(ctx, nil, out, s.log, "psql", s.connect("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", query)...)
	text := strings.TrimSuffix(out.String(), "\n")
	switch {
	case err != nil:
		return "", fmt.Errorf("the query %q: %w", query, err)
	case text == "":
		return "", fmt.Errorf("the query %q answers nothing", query)
	case len(text) >= maxOutput-1:
		return "", fmt.Errorf("the query %q answers more than %d bytes", query, maxOutput)
	}
	return text, nil
}

// load loads the dump, if it is one that is probed.
func (s *server) load(ctx context.Context, e *env) error {
	if s.probe.Dump == "" {
		return nil
	}
	f, err := e.root.open(s.probe.Dump)
	if err != nil {
		return fmt.Errorf("%v", err)
	}
	defer f.Close()
	in := bufio.NewReader(f)
	if magic, _ := in.Peek(2); string(magic) == "\x1f\x8b" {
		unzipped, err := gzip.NewReader(in)
		if err != nil {
			return err
		}
		in = bufio.NewReader(unzipped)
	}
	head, _ := in.Peek(4 << 10)
	begin := string(head)
	into, program, args, last := s.probe.Database, "psql", []string{"-X", "-q"}, ""
	switch {
	case strings.HasPrefix(begin, "PGDMP"), strings.HasPrefix(begin, "toc.dat\x00"): // the second is a tar
		program, args = "pg_restore", []string{"--no-owner", "--no-privileges"}
	case strings.Contains(begin, "-- PostgreSQL database cluster dump"):
		// It creates its databases, each with a last line of its own.
		into, last = "postgres", "\n-- PostgreSQL database cluster dump complete"
	case strings.Contains(begin, "-- PostgreSQL database dump"):
		last = "\n-- PostgreSQL database dump complete"
		if strings.Contains(begin, "\nCREATE DATABASE ") { // of pg_dump --create
			into = "postgres"
		}
	}
	if into != "postgres" {
		create := `create database "` + strings.ReplaceAll(into, `"`, `""`) + `" template template0`
		if err := s.run(ctx, nil, s.log, s.log, "psql", s.connect("-X", "-q", "-d", "postgres", "-c", create)...); err != nil {
			return err
		}
	}

	end, found := &isolate.Tail{Most: maxOutput}, &complaints{log: s.log}
	err = s.run(ctx, io.TeeReader(in, end), io.Discard, found, program, s.connect(append(args, "-d", into)...)...)
	switch {
	case notHere.MatchString(found.first):
		return fmt.Errorf("loading the dump: %s: %w", found.first, exec.ErrNotFound)
	case found.first != "":
		return fmt.Errorf("loading the dump: %s", found.first)
	case err != nil && !(program == "pg_restore" && found.roles):
		return fmt.Errorf("loading the dump: %w", err)
	case !strings.Contains(end.String(), last):
		return errors.New("the dump is cut off: its last line is missing")
	}
	return nil
}

// complaints finds the first error in what a program prints that loads a dump. That
// roles are missing is none: a dump of one database does not have them.
type complaints struct {
	log   io.Writer
	line  []byte
	first string
	roles bool
}

// notHere are complaints about the machine, and not about the dump: it lacks an extension or a
// locale.
var notHere = regexp.MustCompile(`ERROR:  (extension "[^"]*" is not available|could not open extension control file|could not access file "[^"]*": No such file|invalid (LC_\w+ )?locale name)`)

// cannotServe is what a server logs where this machine lacks a library that it is to load
// first, or a locale of a database.
var cannotServe = regexp.MustCompile(`FATAL:  (could not access file "[^"]*": No such file|database locale is incompatible)`)

var missingRole = regexp.MustCompile(`ERROR:  role "[^"]*" does not exist$`)

func (c *complaints) Write(b []byte) (int, error) {
	for _, ch := range b {
		if ch != '\n' {
			if len(c.line) < maxDetail {
				c.line = append(c.line, ch)
			}
			continue
		}
		line := string(c.line)
		switch {
		case missingRole.MatchString(line):
			c.roles = true
		case c.first == "" && (strings.Contains(line, "ERROR:") || strings.Contains(line, "FATAL:") || strings.Contains(line, "error: ")):
			c.first = line
		}
		c.line = c.line[:0]
	}
	return c.log.Write(b)
}

// checkIndexes is for versions without pg_amcheck.
const checkIndexes = `create extension if not exists amcheck; select count(bt_index_check(i.indexrelid, true)) from pg_index i
	join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam where amname = 'btree' and relpersistence <> 't' and indisready and indisvalid`

// amcheck compares each B-tree index with its table, and checks the tables: of a
// data directory, because a dump makes its indexes again.
func (s *server) amcheck(ctx context.Context, _ *env) error {
	if s.probe.Dump != "" || s.probe.Amcheck != nil && !*s.probe.Amcheck {
		return nil
	}
	have, err := s.answer(ctx, "postgres", "select count(*) from pg_available_extensions where name = 'amcheck'")
	if err == nil && have == "0" {
		return fmt.Errorf("the extension amcheck: %w", exec.ErrNotFound)
	}
	if err != nil {
		return err
	}
	found := &isolate.Tail{Most: maxOutput}
	err = s.run(ctx, nil, io.MultiWriter(s.log, found), s.log, "pg_amcheck", s.connect("--all", "--install-missing", "--heapallindexed")...)
	if causeOf(err) == NoProgram {
		_, err = s.answer(ctx, s.probe.Database, checkIndexes)
	}
	if err != nil {
		return fmt.Errorf("tables and indexes: %w: %s", err, strings.Join(strings.Fields(found.String()), " "))
	}
	return nil
}

func (s *server) queries(ctx context.Context, _ *env) error {
	for i := range s.probe.Queries {
		q := &s.probe.Queries[i]
		found, err := s.answer(ctx, s.probe.Database, q.Query)
		if err != nil {
			return err
		}
		if a := compare(found, &q.Expected); a.Status != attest.Passed {
			return fmt.Errorf("%s: %s", q.Query, a.Detail)
		}
		if q.AgreesWith == "" {
			continue
		}
		other, err := s.answer(ctx, s.probe.Database, q.AgreesWith)
		if err != nil {
			return err
		}
		if other != found {
			return fmt.Errorf("%q answers %s, but %q answers %s", q.Query, found, q.AgreesWith, other)
		}
	}
	return nil
}
