package daemon

import (
	"testing"
	"time"

	"knowngood/configs"
)

func TestCaptureOptions(t *testing.T) {
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
