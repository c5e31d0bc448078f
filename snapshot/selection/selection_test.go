package selection

import (
	"testing"

	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
)

func TestSelection(t *testing.T) {
	t.Parallel()
	table := &manifest.Table{Sources: []manifest.Source{
		{Path: "/srv/web", Counts: manifest.Counts{Files: 9, Directories: 3}},
		{Path: "/etc", Counts: manifest.Counts{Files: 9, Directories: 3}},
		{Path: "/var/lib/one.db", Counts: manifest.Counts{Files: 1}},
		{Path: "db/web.dump", Command: []string{"pg_dump"}, Counts: manifest.Counts{Files: 1}},
	}}
	tests := map[string]struct {
		include, exclude []string
		in, out          []string
	}{
		"a pattern with a slash is anchored at its source": {nil, []string{"cache/**"},
			[]string{"srv/web/a", "srv/web/sub/cache/x", "var/lib/one.db", "db/web.dump"}, []string{"srv/web/cache/x", "etc/cache/x"}},
		"an absolute pattern is one below its source":  {[]string{"/srv/web/html"}, nil, []string{"srv/web/html/a"}, []string{"srv/web/x", "etc/html", "var/lib/one.db", "db/web.dump"}},
		"an absolute pattern may name a source":        {[]string{"/srv/web"}, nil, []string{"srv/web", "srv/web/a"}, []string{"etc/a", "db/web.dump"}},
		"or a directory above one":                     {[]string{"/srv"}, nil, []string{"srv/web", "srv/web/a/b"}, []string{"etc/a"}},
		"a source may be taken out":                    {nil, []string{"/srv/web", "*.bak"}, []string{"etc/a"}, []string{"srv/web/a", "srv/web", "etc/a.bak"}},
		"a file is chosen by its name":                 {[]string{"*.db", "*.conf"}, nil, []string{"var/lib/one.db", "etc/a.conf"}, []string{"db/web.dump", "etc/a"}},
		"so is the output of a command":                {[]string{"db/*.dump"}, nil, []string{"db/web.dump"}, []string{"var/lib/one.db", "etc/a"}},
		"a name below a directory is not its source's": {nil, []string{"web", "etc"}, []string{"srv/web", "srv/web/a", "etc/a"}, []string{"srv/web/web"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := Of(table, test.include, test.exclude)
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range test.in {
				if got := s.Decide(path, false); got != filter.Include {
					t.Errorf("%s: %v", path, got)
				}
			}
			for _, path := range test.out {
				if got := s.Decide(path, false); got == filter.Include {
					t.Errorf("%s is included", path)
				}
			}
		})
	}

	t.Run("refuses a pattern that means nothing", func(t *testing.T) {
		if _, err := Of(table, nil, []string{"[a"}); err == nil {
			t.Error("it is accepted")
		}
	})
}
