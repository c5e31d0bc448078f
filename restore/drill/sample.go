package drill

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"path"
	"slices"
	"strings"
	"time"

	"knowngood/configs"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
)

// chooser returns which files a sample has: other ones at another time. Those at
// and below the paths in whole are always in it.
func chooser(share configs.Percent, id [32]byte, at time.Time, whole []string) func(path string) bool {
	key := binary.BigEndian.AppendUint64(id[:len(id):len(id)], uint64(at.UnixNano()))
	most := uint64(math.MaxUint64) / 100 * uint64(share)
	return func(path string) bool {
		if share >= 100 || slices.ContainsFunc(whole, func(dir string) bool { return manifest.Within(path, dir) }) {
			return true
		}
		sum := sha256.Sum256(append(key[:len(key):len(key)], path...))
		return binary.BigEndian.Uint64(sum[:]) < most
	}
}

// named are the paths of a snapshot that services and probes name, and the links
// that lead to them.
func named(ctx context.Context, tree *snapshot.Tree, d *configs.Drill) ([]string, error) {
	paths := []string{"/etc/passwd", "/etc/group"}
	for _, s := range d.Services {
		paths = append(append(paths, s.Command[0]), s.Data...)
	}
	for i := range d.Probes {
		paths = append(paths, d.Probes[i].Paths()...)
		if s := d.Probes[i].SQLite; s != nil {
			files, err := database(ctx, tree, s.File)
			if err != nil {
				return nil, err
			}
			paths = append(paths, files...)
		}
	}
	var out []string
	for _, p := range paths {
		if !path.IsAbs(p) {
			continue // a program that is looked for
		}
		met, err := follow(ctx, tree, p)
		if err != nil {
			return nil, err
		}
		out = append(out, met...)
	}
	return out, nil
}

// database returns where a SQLite database lies, links followed, and where its log and its
// journal would: SQLite looks for these beside the file itself.
func database(ctx context.Context, tree *snapshot.Tree, file string) ([]string, error) {
	met, err := follow(ctx, tree, file)
	if err != nil {
		return nil, err
	}
	at := "/" + met[len(met)-1]
	return []string{at, at + "-wal", at + "-journal"}, nil
}

// maxLinks is how many links a path may lead through, as in the kernel.
const maxLinks = 40

// follow returns the manifest path that an absolute path leads to, and those of
// the links on the way.
func follow(ctx context.Context, tree *snapshot.Tree, p string) (met []string, err error) {
	links, at := 0, ""
	rest := strings.Split(strings.Trim(path.Clean(p), "/"), "/")
	for len(rest) > 0 {
		next := path.Join("/"+at, rest[0])[1:]
		rest = rest[1:]
		e, err := tree.Find(ctx, next)
		if err != nil {
			return nil, err
		}
		if e == nil || e.Type != manifest.Symlink {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return met, nil
		}
		met = append(met, next)
		target := e.Target
		if strings.HasPrefix(target, "/") {
			at = ""
		}
		rest = append(strings.Split(strings.Trim(target, "/"), "/"), rest...)
	}
	return append(met, at), nil
}
