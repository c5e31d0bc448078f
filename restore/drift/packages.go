package drift

import (
	"bufio"
	"cmp"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/inode"
	"knowngood/internal/posix"
)

// Database is where dpkg has its database, below the top of a tree.
const Database = "var/lib/dpkg"

// Bounds of what is read of a database, which may be hostile.
const (
	maxLine     = 64 << 10
	maxInfo     = 64 << 20 // bytes of a file
	maxPackages = 100_000
	maxFailed   = 20 // errors that are returned
)

// databaseFiles matches the files of a database, below it.
var databaseFiles = regexp.MustCompile(`^((status|available|diversions|statoverride|lock|lock-frontend)(-(old|new))?|(info|triggers|alternatives|parts|updates)(/[^/]+)?)$`)

// The two states that are compared.
const (
	older = iota
	newer
)

// explainer explains rows of a set by the databases of dpkg in the two states. A file is
// explained by its MD5 (which is all that dpkg has) in the database of the older state, or in
// that of the newer one where its package is newer there, or new.
type explainer struct {
	set       *Set
	top       string    // path of the entry that the databases lie below; empty for the root
	databases [2]string // directories
	// sum is the MD5 of a file of the newer state.
	sum func(ctx context.Context, path string) ([md5.Size]byte, error)

	rows      map[string]*Row // by path below the top
	installed [2]map[string]*dpkg
	// diverted are paths of packages, merged, of which dpkg keeps the files elsewhere.
	diverted [2]map[string]diversion
}

// diversion is where the files of packages are, but those of one.
type diversion struct{ to, except string }

// dpkg is an installed package, or in the older state one that was removed: only its configuration
// is there.
type dpkg struct {
	version   string
	removed   bool
	conffiles [][2]string // path and MD5, of those that differ
}

// run makes differences that packages explain one line a package. It returns what of the
// databases could not be read.
func (x *explainer) run(ctx context.Context) (err error) {
	x.rows = map[string]*Row{}
	for _, r := range x.set.rows {
		rel, below := strings.CutPrefix(r.Path, x.top)
		rel = strings.TrimPrefix(rel, "/")
		if !below || r.Why != "" || r.group != nil {
			continue
		}
		if file, ok := strings.CutPrefix(rel, Database+"/"); ok && databaseFiles.MatchString(file) && !r.owner {
			x.set.explain(r, Group{What: "database"})
			continue
		}
		x.rows[rel] = r
	}
	if len(x.rows) == 0 {
		return nil
	}
	for i, dir := range x.databases {
		if x.installed[i], err = x.status(dir, i); err != nil {
			return err
		}
		if x.diverted[i], err = diversions(dir); err != nil {
			return err
		}
	}
	return errors.Join(x.database(ctx, older), x.database(ctx, newer))
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// diversions reads which paths are diverted: three lines each.
func diversions(dir string) (map[string]diversion, error) {
	all := map[string]diversion{}
	var one []string
	err := lines(filepath.Join(dir, "diversions"), func(line string) {
		if one = append(one, line); len(one) == 3 {
			if len(all) < maxPackages {
				all[merged(one[0])] = diversion{one[1], one[2]}
			}
			one = nil
		}
	})
	return all, err
}

// places are where a file of a package is in the two states.
func (x *explainer) places(file, of string) []string {
	of, _, _ = strings.Cut(of, ":")
	at := []string{file, file}
	for i := range at {
		if d, ok := x.diverted[i][merged(file)]; ok && d.except != of {
			at[i] = d.to
		}
	}
	return slices.Compact(at)
}

// find is the row of a path as a database has it. Where directories are merged into /usr,
// packages may name what is there without it.
func (x *explainer) find(name string) *Row {
	name = strings.TrimPrefix(name, "/")
	if r := x.rows[name]; r != nil {
		return r
	}
	return x.rows[merged(name)]
}

// lines calls each with the lines of a file of a database. One that does not exist has none.
func lines(name string, each func(line string)) error {
	fd, _, err := posix.OpenFile(unix.AT_FDCWD, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("package database: %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	in := bufio.NewScanner(io.LimitReader(f, maxInfo))
	in.Buffer(nil, maxLine)
	for in.Scan() {
		each(in.Text())
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("package database: %s: %w", name, err)
	}
	return nil
}

// status reads which packages are installed in a state. One whose triggers are still to be
// processed, its own or those of others, is installed and configured.
func (x *explainer) status(dir string, state int) (map[string]*dpkg, error) {
	all := map[string]*dpkg{}
	fields := map[string]string{}
	var conffiles [][2]string
	in := ""
	end := func() {
		status := fields["Status"][strings.LastIndexByte(fields["Status"], ' ')+1:]
		removed := status == "config-files" && state == older
		is := removed || status == "installed" || status == "triggers-awaited" || status == "triggers-pending"
		if name := fields["Package"]; name != "" && is && len(all) < maxPackages {
			p := &dpkg{strings.Clone(fields["Version"]), removed, conffiles}
			all[name], all[name+":"+fields["Architecture"]] = p, p
		}
		clear(fields)
		conffiles, in = nil, ""
	}
	err := lines(filepath.Join(dir, "status"), func(line string) {
		words := strings.Fields(line)
		switch {
		case line == "":
			end()
		case line[0] == ' ':
			if in == "Conffiles" && len(words) >= 2 && x.find(words[0]) != nil {
				conffiles = append(conffiles, [2]string{words[0], words[1]})
			}
		default:
			var value string
			if in, value, _ = strings.Cut(line, ":"); in == "Package" || in == "Status" || in == "Version" || in == "Architecture" {
				fields[in] = strings.TrimSpace(value)
			}
		}
	})
	end()
	return all, err
}

// database goes through what the database of a state has of each package.
func (x *explainer) database(ctx context.Context, state int) error {
	dir := x.databases[state]
	infos, err := os.ReadDir(filepath.Join(dir, "info"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("package database: %w", err)
	}
	var failed []error
	note := func(err error) {
		if err != nil && len(failed) < maxFailed {
			failed = append(failed, err)
		}
	}
	for _, i := range infos {
		name, isList := strings.CutSuffix(i.Name(), ".list")
		p := x.installed[state][name]
		if !isList || p == nil {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		before, now := x.installed[older][name], x.installed[newer][name]
		if p.removed && now == nil && exists(filepath.Join(x.databases[newer], "info", i.Name())) {
			continue // it was not purged since
		}
		if state == newer && before != nil && !before.removed && compareVersions(p.version, before.version) <= 0 {
			continue // the older state has what there is to know
		}
		by := Group{What: "package", Name: name, To: p.version}
		if before != nil && (now == nil || !before.removed) {
			by.From = before.version
		}
		if now != nil {
			by.To = now.version
		}
		explain := func(file, sum string) {
			for _, at := range x.places(file, name) {
				note(x.file(ctx, at, sum, by))
			}
		}
		for _, c := range p.conffiles {
			explain(c[0], c[1])
		}
		note(lines(filepath.Join(dir, "info", name+".md5sums"), func(line string) {
			if sum, file, ok := strings.Cut(line, "  "); ok {
				explain(file, sum)
			}
		}))
		note(x.list(state, name, by))
	}
	return errors.Join(failed...)
}

// file explains a file that is as a package has it.
func (x *explainer) file(ctx context.Context, name, sum string, by Group) error {
	r := x.find(name)
	if r == nil || r.group != nil || r.owner || r.is == nil || r.is.Type != inode.File {
		return nil
	}
	if r.sum == "" {
		have, err := x.sum(ctx, r.Path)
		r.sum = hex.EncodeToString(have[:])
		if err != nil {
			r.sum = "unknown"
			return fmt.Errorf("%q: %w", "/"+r.Path, err)
		}
	}
	if r.sum == strings.ToLower(sum) {
		x.set.explain(r, by)
	}
	return nil
}

// list explains what has no content: directories and links of a package that is newer, where
// links lead to what it has, too; and what a package had that is newer or gone.
func (x *explainer) list(state int, name string, by Group) error {
	var open []*Row
	err := lines(filepath.Join(x.databases[state], "info", name+".list"), func(file string) {
		for _, at := range x.places(file, name) {
			if r := x.find(at); r != nil && r.group == nil && !r.owner {
				open = append(open, r)
			}
		}
	})
	now := x.installed[newer][name]
	if len(open) == 0 || err != nil || state == older && now != nil && compareVersions(now.version, by.From) <= 0 {
		return err
	}
	has := map[string]bool{}
	if now != nil {
		err = lines(filepath.Join(x.databases[newer], "info", name+".list"), func(file string) {
			for _, at := range x.places(file, name) {
				has[merged(at)] = true
			}
		})
	} else {
		by.To = ""
	}
	for _, r := range open {
		at := merged(strings.TrimPrefix(strings.TrimPrefix(r.Path, x.top), "/"))
		switch {
		case r.Change == Removed && state == older && !has[at]:
		case state == newer && r.is != nil && r.is.Type == inode.Dir:
		case state == newer && r.is != nil && r.is.Type == inode.Symlink && has[merged(leads(at, r.is.Target))]:
		default:
			continue
		}
		x.set.explain(r, by)
	}
	return err
}

// leads is where a link leads, without looking.
func leads(from, target string) string {
	if !path.IsAbs(target) {
		target = path.Join(path.Dir("/"+from), target)
	}
	return path.Clean(target)
}

// merged is a path without a slash before it, and as it is where directories are merged
// into /usr.
func merged(name string) string {
	name = strings.TrimPrefix(name, "/")
	if top, _, _ := strings.Cut(name, "/"); top == "bin" || top == "sbin" || strings.HasPrefix(top, "lib") {
		return "usr/" + name
	}
	return name
}

// fileSum is the MD5 of a file, which is not reached over a link at its end.
func fileSum(name string) (sum [md5.Size]byte, err error) {
	fd, _, err := posix.OpenFile(unix.AT_FDCWD, name)
	if err != nil {
		return sum, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	h := md5.New()
	_, err = io.Copy(h, f)
	return [md5.Size]byte(h.Sum(nil)), err
}

// compareVersions orders versions of packages as dpkg does (deb-version(7)).
func compareVersions(a, b string) int {
	epoch := func(v string) (int, string) {
		n := 0
		if e, rest, ok := strings.Cut(v, ":"); ok {
			fmt.Sscan(e, &n)
			v = rest
		}
		return n, v
	}
	ea, a := epoch(a)
	eb, b := epoch(b)
	split := func(v string) (upstream, revision string) {
		if i := strings.LastIndexByte(v, '-'); i >= 0 {
			return v[:i], v[i+1:]
		}
		return v, ""
	}
	ua, ra := split(a)
	ub, rb := split(b)
	return cmp.Or(ea-eb, compareParts(ua, ub), compareParts(ra, rb))
}

// compareParts compares texts and numbers in turn. ~ comes before the end, and letters
// before everything else.
func compareParts(a, b string) int {
	order := func(s string) int {
		switch {
		case s == "" || s[0] >= '0' && s[0] <= '9':
			return 0
		case s[0] == '~':
			return -1
		case s[0]|0x20 >= 'a' && s[0]|0x20 <= 'z':
			return int(s[0])
		}
		return int(s[0]) + 256
	}
	for a != "" || b != "" {
		for order(a) != 0 || order(b) != 0 {
			if d := order(a) - order(b); d != 0 {
				return d
			}
			a, b = a[1:], b[1:]
		}
		digits := func(s string) (number, rest string) {
			rest = strings.TrimLeft(s, "0123456789")
			return strings.TrimLeft(s[:len(s)-len(rest)], "0"), rest
		}
		var na, nb string
		na, a = digits(a)
		nb, b = digits(b)
		if d := cmp.Or(len(na)-len(nb), strings.Compare(na, nb)); d != 0 {
			return d
		}
	}
	return 0
}
