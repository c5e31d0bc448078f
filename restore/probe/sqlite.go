package probe

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/vfs"

	"knowngood/configs"
)

// sqlite checks a database as SQLite would find it after a crash: with the log or
// the journal that lies beside it. The files are not changed: see copies.
func sqlite(ctx context.Context, e *env, p *configs.Probe) Answer {
	f, err := e.root.open(p.SQLite.File)
	if err != nil {
		return failed(err.Error())
	}
	// The log and the journal lie beside the file itself, not beside a link to it.
	real, err := e.root.resolve(p.SQLite.File)
	if err != nil {
		f.Close()
		return failed(err.Error())
	}
	st, err := f.Stat()
	f.Close()
	switch {
	case err != nil:
		return failed(err.Error())
	case st.Size() == 0:
		return failed("it is empty")
	}

	const name = "restored"
	vfs.Register(name, &copies{root: e.root})
	defer vfs.Unregister(name)
	db, err := sqlite3.OpenFlags("file:"+escape(real)+"?vfs="+name, sqlite3.OPEN_READWRITE|sqlite3.OPEN_URI)
	if err != nil {
		return failed(err.Error())
	}
	defer db.Close()
	db.SetInterrupt(ctx)
	for _, pragma := range []string{
		"locking_mode=exclusive", // or a log needs shared memory beside it
		"temp_store=memory", "trusted_schema=off", "cell_size_check=on", "wal_autocheckpoint=0",
	} {
		if err := db.Exec("pragma " + pragma); err != nil {
			return failed(err.Error())
		}
	}
	found, err := first(db, "pragma integrity_check(1)")
	if lacking(err) {
		return notTested(NoExtension, err.Error())
	}
	if err != nil || found != "ok" {
		return failed(fmt.Sprintf("integrity check: %s", describe(found, err)))
	}
	if p.SQLite.Query == "" {
		return passed("integrity check: ok")
	}
	if err := db.Exec("pragma query_only=on"); err != nil {
		return failed(err.Error())
	}
	found, err = first(db, p.SQLite.Query)
	if err != nil {
		return failed("the query: " + err.Error())
	}
	return compare(found, &p.SQLite.Expected)
}

// lacking reports whether a database uses what its program adds to SQLite, without which
// its tables and indexes cannot be checked.
func lacking(err error) bool {
	return err != nil && slices.ContainsFunc([]string{"no such collation sequence: ", "unknown function: ", "no such function: ", "no such module: "}, func(what string) bool {
		return strings.Contains(err.Error(), what)
	})
}

// compare judges the answer of a query.
func compare(found string, want *configs.Expected) Answer {
	if want.Equals != nil && found != string(*want.Equals) {
		return failed(fmt.Sprintf("the query answers %q, not %q", found, string(*want.Equals)))
	}
	if want.AtLeast != nil || want.AtMost != nil {
		n, err := strconv.ParseFloat(strings.TrimSpace(found), 64)
		switch {
		case err != nil:
			return failed(fmt.Sprintf("the query answers %q, which is no number", found))
		case want.AtLeast != nil && !(n >= float64(*want.AtLeast)):
			return failed(fmt.Sprintf("the query answers %s, at least %v is wanted", found, *want.AtLeast))
		case want.AtMost != nil && !(n <= float64(*want.AtMost)):
			return failed(fmt.Sprintf("the query answers %s, at most %v is wanted", found, *want.AtMost))
		}
	}
	return passed("the query answers " + found)
}

// first is the first column of the first row.
func first(db *sqlite3.Conn, query string) (string, error) {
	stmt, _, err := db.Prepare(query)
	if err != nil {
		return "", err
	}
	if stmt == nil {
		return "", fmt.Errorf("it is no query")
	}
	defer stmt.Close()
	if !stmt.Step() {
		if err := stmt.Err(); err != nil {
			return "", err
		}
		return "", fmt.Errorf("it answers no row")
	}
	if stmt.ColumnCount() == 0 || stmt.ColumnType(0) == sqlite3.NULL {
		return "", fmt.Errorf("it answers null")
	}
	return strings.Clone(stmt.ColumnText(0)), nil
}

func describe(found string, err error) string {
	if err != nil {
		return err.Error()
	}
	return found
}

// escape writes a path for a URI of SQLite's.
func escape(path string) string {
	var b strings.Builder
	for i := range len(path) {
		switch c := path[i]; {
		case c == '%' || c == '?' || c == '#' || c < ' ' || c >= 0x7f:
			fmt.Fprintf(&b, "%%%02x", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
