package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"knowngood/cmd/knowngood/exit"
)

// sqlite asks a database.
func sqlite(t *testing.T, file, sql string) string {
	t.Helper()
	return output(t, nil, "sqlite3", "-batch", "-bail", "-cmd", ".timeout 60000", file, sql)
}

func count64(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// transfers hammers a database with transactions that move money between
// accounts, each on a page of its own, and note it, until the test ends. A copy
// made by cat shows it: the sum is wrong.
func transfers(t *testing.T, file string) {
	t.Helper()
	cmd := exec.Command("sqlite3", "-batch", "-bail", "-cmd", ".timeout 60000", "-cmd", "PRAGMA synchronous=OFF", file)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer in.Close()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_, err := fmt.Fprintf(in, `BEGIN IMMEDIATE;
				UPDATE accounts SET balance = balance - 5 WHERE id = %d;
				UPDATE accounts SET balance = balance + 5 WHERE id = %d;
				INSERT INTO log (amount) VALUES (5);
				COMMIT;`, i*37%5000+1, (i*1013+2500)%5000+1)
			if err != nil {
				t.Errorf("the writer: %v", err)
				return
			}
		}
	})
	t.Cleanup(func() {
		close(stop)
		wg.Wait()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the writer: %v", err)
		}
	})
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	t.Run("an SQLite database is captured consistently while it is written to", testAnSQLiteDatabaseIsCapturedConsistentlyWhileItIsWrittenTo)
	t.Run("an SQLite database that cannot be read fails the snapshot", testAnSQLiteDatabaseThatCannotBeReadFailsTheSnapshot)
}

func testAnSQLiteDatabaseIsCapturedConsistentlyWhileItIsWrittenTo(t *testing.T) {
	t.Parallel()
	needs(t, false, "sqlite3")
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "it's $live.db")
			sqlite(t, file, "PRAGMA journal_mode="+mode+`;
				CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER, note BLOB);
				CREATE TABLE log (id INTEGER PRIMARY KEY, amount INTEGER);
				WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 5000) INSERT INTO accounts SELECT i, 1000, randomblob(3000) FROM n;`)
			m := newMachine(t, filepath.Join(dir, "repo"))
			config := m.configured(t, `environments: {app: {sources: [{command: [%q, %q], as: db/app.db}]}}`, hook(t, "sqlite-dump"), file)
			transfers(t, file)
			noted := int64(0)
			for i := 1; i <= 4; i++ {
				// The writer is at work before each, and so beside it.
				for before := sqlite(t, file, "SELECT count(*) FROM log"); sqlite(t, file, "SELECT count(*) FROM log") == before; {
				}
				m.must(t, "snapshot", "app", "--config", config)
				target := filepath.Join(dir, fmt.Sprint("out", i))
				m.must(t, "restore", fmt.Sprintf("app@%d:/db", i), "--target", target)
				restored := filepath.Join(target, "app.db")
				if got := sqlite(t, restored, "PRAGMA integrity_check"); got != "ok" {
					t.Errorf("snapshot %d: integrity check: %s", i, got)
				}
				if got := sqlite(t, restored, "SELECT sum(balance) FROM accounts"); got != "5000000" {
					t.Errorf("snapshot %d: the accounts hold %s, want 5000000", i, got)
				}
				now := count64(t, sqlite(t, restored, "SELECT count(*) FROM log"))
				if now <= noted {
					t.Errorf("snapshot %d: %d transfers, after %d before it", i, now, noted)
				}
				noted = now
			}
		})
	}
}

func testAnSQLiteDatabaseThatCannotBeReadFailsTheSnapshot(t *testing.T) {
	t.Parallel()
	needs(t, false, "sqlite3")
	dir := t.TempDir()
	m := newMachine(t, filepath.Join(dir, "repo"))
	none := filepath.Join(dir, "text")
	if err := os.WriteFile(none, bytes.Repeat([]byte("this is no database\n"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{none: "file is not a database", filepath.Join(dir, "missing"): "No such file"} {
		scratch := t.TempDir()
		config := m.configured(t, `environments: {app: {sources: [{command: [env, %q, %q, %q], as: db/app.db}]}}`, "TMPDIR="+scratch, hook(t, "sqlite-dump"), file)
		o := m.run(t, "snapshot", "app", "--config", config)
		o.exits(t, exit.Failed)
		if !strings.Contains(o.stderr.String(), want) {
			t.Errorf("%s: it says %s, want %s", file, &o.stderr, want)
		}
		if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	}
	if refs := m.refs(t); len(refs) != 0 {
		t.Errorf("there are snapshots: %v", refs)
	}
}
