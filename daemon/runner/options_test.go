package runner

import (
	"slices"
	"testing"
	"time"

	"knowngood/configs"
	"knowngood/snapshot"
	"knowngood/snapshot/suspect"
)

func TestCaptureOptions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"attributes and rereading":             captureOptionsOfSources,
		"have what is expected of each source": captureOptionsHaveWhatIsExpectedOfEachSource,
	} {
		t.Run(name, test)
	}
}

func captureOptionsOfSources(t *testing.T) {
	t.Parallel()
	env := &configs.Environment{Reread: configs.Duration(30 * 24 * time.Hour), Sources: []configs.Source{{Path: "/a"}, {Path: "/b", Attributes: "current"}, {Path: "/c", Attributes: "cached"}}}
	o, err := CaptureOptions("web", env)
	if err != nil {
		t.Fatal(err)
	}
	if o.RereadEvery != 30*24*time.Hour || o.WritebackWindow != 0 {
		t.Errorf("read again every %v, window %v", o.RereadEvery, o.WritebackWindow)
	}
	for i, want := range []bool{false, false, true} {
		if got := o.Sources[i].CachedAttributes; got != want {
			t.Errorf("%s: cached attributes: %v", o.Sources[i].Path, got)
		}
	}
}

func captureOptionsHaveWhatIsExpectedOfEachSource(t *testing.T) {
	t.Parallel()
	percent := func(p configs.Percent) *configs.Percent { return &p }
	env := &configs.Environment{Shrink: percent(25), Sources: []configs.Source{
		{Command: []string{"date"}, As: "date", Require: "not_empty"}, {Path: "/a", Require: "mounted"}, {Path: "/b", Shrink: percent(0), Require: "not_empty"}}}
	for name, c := range map[string]struct {
		shrink *configs.Percent
		want   []snapshot.Expectation
	}{
		"trees come before commands, as in a manifest": {percent(25), []snapshot.Expectation{{Shrink: 25, Mounted: true}, {NotEmpty: true}, {Shrink: 25, NotEmpty: true}}},
		"half is the default":                          {nil, []snapshot.Expectation{{Shrink: suspect.DefaultShrink, Mounted: true}, {NotEmpty: true}, {Shrink: suspect.DefaultShrink, NotEmpty: true}}},
	} {
		t.Run(name, func(t *testing.T) {
			env := *env
			env.Shrink = c.shrink
			o, err := CaptureOptions("web", &env)
			if err != nil || !slices.Equal(o.Expect, c.want) {
				t.Errorf("expected is %+v, %v", o.Expect, err)
			}
		})
	}
}
