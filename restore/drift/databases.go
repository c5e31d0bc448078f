package drift

import (
	"context"
	"crypto/md5"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"knowngood/restore"
	"knowngood/restore/owners"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
)

// ExplainPackages makes differences that packages explain one line a package, by the databases
// that two snapshots have, or a snapshot and the live tree, where is is nil. They are restored into a directory of the caller's, which
// is empty. It returns how many there are.
func (s *Set) ExplainPackages(ctx context.Context, was, is *snapshot.Tree, scratch string) (found int, err error) {
	tops := []string{""}
	for i := range was.Table.Sources {
		if p := manifest.EntryPath(was.Table.Sources[i].Path); p != "" {
			tops = append(tops, p)
		}
	}
	for _, top := range tops {
		path := strings.TrimPrefix(top+"/"+Database, "/")
		e, err := was.Find(ctx, path+"/status")
		if err != nil || e == nil {
			if err != nil {
				return found, err
			}
			continue
		}
		found++
		x := &explainer{set: s, top: top, databases: [2]string{newer: "/" + path}, sum: liveSum}
		if x.databases[older], err = restoreDatabase(ctx, was, path, filepath.Join(scratch, "was-"+strconv.Itoa(found))); err != nil {
			return found, err
		}
		if is != nil {
			x.sum = func(ctx context.Context, path string) ([md5.Size]byte, error) { return contentSum(ctx, is, path) }
			if x.databases[newer], err = restoreDatabase(ctx, is, path, filepath.Join(scratch, "is-"+strconv.Itoa(found))); err != nil {
				return found, err
			}
		}
		if err := x.run(ctx); err != nil {
			return found, err
		}
	}
	return found, nil
}

// ExplainRecorded is ExplainPackages by the database that a live generation has itself, where that is
// as it was recorded. It reports whether it is; else only a snapshot has it as it was.
func (s *Set) ExplainRecorded(ctx context.Context, root string) (bool, error) {
	top := manifest.EntryPath(root)
	dir := top + "/" + Database
	for _, r := range s.rows {
		if rel, ok := strings.CutPrefix(r.Path, dir+"/"); ok && r.Change != Metadata && isRead(rel) {
			return false, nil
		}
	}
	x := &explainer{set: s, top: top, databases: [2]string{"/" + dir, "/" + dir}, sum: liveSum}
	return s.more == 0, x.run(ctx)
}

func liveSum(_ context.Context, path string) ([md5.Size]byte, error) { return fileSum("/" + path) }

// isRead reports whether a file of a database, by its path in it, is one that is read.
func isRead(rel string) bool {
	dir, name := filepath.Split(rel)
	return rel == "status" || rel == "diversions" || dir == "info/" && (strings.HasSuffix(name, ".md5sums") || strings.HasSuffix(name, ".list"))
}

// contentSum is the MD5 of a file of a snapshot.
func contentSum(ctx context.Context, t *snapshot.Tree, path string) (sum [md5.Size]byte, err error) {
	e, err := t.Find(ctx, path)
	if err == nil && e == nil {
		err = os.ErrNotExist
	}
	if err != nil {
		return sum, err
	}
	h := md5.New()
	err = t.Content(ctx, e, h)
	return [md5.Size]byte(h.Sum(nil)), err
}

// restoreDatabase restores what is read of a database. A snapshot without one has none.
func restoreDatabase(ctx context.Context, t *snapshot.Tree, path, to string) (string, error) {
	if e, err := t.Find(ctx, path); err != nil || e == nil {
		return to, err
	}
	wanted := func(p string, _ bool) bool { return isRead(strings.TrimPrefix(strings.TrimPrefix(p, path), "/")) }
	r, err := restore.Run(ctx, restore.Options{Tree: t, Under: path, Target: to, Only: wanted, Owners: owners.Options{Keep: true, Numeric: true}})
	if err == nil && r.Count > 0 {
		err = r.Problems[0].Err
	}
	if err != nil {
		return "", fmt.Errorf("package database of %s: %w", t.Snapshot.Ref(), err)
	}
	return to, nil
}
