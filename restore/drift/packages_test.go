package drift

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// FuzzDatabase reads databases that anybody may have written.
func FuzzDatabase(f *testing.F) {
	f.Add("Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\nConffiles:\n /file d41d8cd98f00b204e9800998ecf8427e\n", "d41d8cd98f00b204e9800998ecf8427e  file\n", "/file\n/link\n/dir\n", "1:2-3")
	f.Add(" \n:\nPackage:\n\nPackage: \x1b[31m\nVersion: ~\nStatus: installed", "\x00  \n  \n/ /  ../../x", "//\n..\n\xff", "~~a")
	f.Fuzz(func(t *testing.T, status, sums, list, version string) {
		dir := t.TempDir()
		at := func(side string) string { return filepath.Join(dir, side) }
		for _, side := range []string{"was", "is"} {
			for name, text := range map[string]string{"status": status, "info/a.md5sums": sums, "info/a.list": list} {
				if side == "is" {
					text = strings.ReplaceAll(text, "Version: 1", "Version: "+version)
				}
				os.MkdirAll(filepath.Join(at(side), "info"), 0o755)
				if err := os.WriteFile(filepath.Join(at(side), name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		set := &Set{}
		for _, p := range []*Pair{{Path: "file", Is: &Node{Type: 1}}, {Path: "suid", Is: &Node{Type: 1, Mode: 0o4755}}, {Path: "link", Is: &Node{Type: 3, Target: "file"}}, {Path: "dir", Is: &Node{Type: 2}}, {Path: "gone", Was: &Node{Type: 1}}} {
			set.Add(p)
		}
		x := &explainer{set: set, databases: [2]string{at("was"), at("is")}, sum: func(_ context.Context, path string) ([16]byte, error) { return fileSum("/dev/null/" + path) }}
		_ = x.run(t.Context())
		rows, _ := set.Rows()
		if !slices.ContainsFunc(rows, func(r *Row) bool { return r.Path == "suid" && r.Why == SetUID }) {
			t.Error("a set-uid file is explained")
		}
		explained := 0
		for _, g := range set.Groups() {
			explained += g.Paths
		}
		if len(rows)+explained != 5 {
			t.Errorf("%d rows and %d explained, of 5", len(rows), explained)
		}
	})
}
