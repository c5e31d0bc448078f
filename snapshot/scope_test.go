package snapshot_test

import (
	"testing"

	"knowngood/internal/posix"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

func source(t *testing.T, path string, include, exclude []string) walk.Source {
	t.Helper()
	rules, err := filter.Compile(path, include, exclude)
	if err != nil {
		t.Fatal(err)
	}
	return walk.Source{Path: path, Rules: rules}
}

func TestScope(t *testing.T) {
	t.Parallel()
	large := source(t, "/var/log", nil, nil)
	large.MaxFileSize = 100
	s := snapshot.NewScope([]walk.Source{
		source(t, "/srv/web/", nil, []string{"cache/**", "*.tmp"}),
		source(t, "/srv/web/cache/keep", nil, nil),
		source(t, "/etc", []string{"*.conf"}, nil),
		large,
	})

	t.Run("decides by the rules of the innermost source", func(t *testing.T) {
		for path, want := range map[string]filter.Decision{
			"srv/web":                filter.Include,
			"srv/web/a":              filter.Include,
			"srv/web/a.tmp":          filter.Exclude,
			"srv/web/cache/x":        filter.Exclude,
			"srv/web/cache/keep/x":   filter.Include,
			"srv/web/cache/keep/tmp": filter.Include,
			"srv/webs/a.tmp":         filter.Parent,
			"srv":                    filter.Parent,
			"etc/a.conf":             filter.Include,
			"etc/passwd":             filter.Exclude,
		} {
			if got := s.Decide(path, false); got != want {
				t.Errorf("%s: %v, not %v", path, got, want)
			}
		}
	})

	t.Run("leaves out by rule and by size, and nothing outside the sources", func(t *testing.T) {
		for path, want := range map[string]bool{"srv/web/x.tmp": true, "srv/web/x": false, "var/log/x": true, "var/lib/x": false, "x.tmp": false, "etc/x": true} {
			if got := s.LeavesOut(path, &posix.Stat{Type: manifest.File, Size: 101}); got != want {
				t.Errorf("%s: %v", path, got)
			}
		}
		if s.LeavesOut("etc/conf.d", &posix.Stat{Type: manifest.Dir}) {
			t.Error("a directory that may lead to what is meant is left out")
		}
	})

	t.Run("of the root of the file system holds every path", func(t *testing.T) {
		all := snapshot.NewScope([]walk.Source{source(t, "/", nil, []string{"/proc"})})
		if all.Decide("proc", true) != filter.Exclude || all.Decide("", true) != filter.Include || all.Decide("a/b", false) != filter.Include {
			t.Error("it does not")
		}
	})
}
