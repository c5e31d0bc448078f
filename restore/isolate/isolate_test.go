package isolate_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"knowngood/restore/isolate"
)

func newSpec(t *testing.T, rung, base string) isolate.Spec {
	t.Helper()
	dir := t.TempDir()
	s := isolate.Spec{Rung: rung, Base: base, Tree: filepath.Join(dir, "tree"), Scratch: filepath.Join(dir, "scratch")}
	for _, d := range []string{s.Tree, s.Scratch} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func start(t *testing.T, s isolate.Spec) *isolate.Cell {
	t.Helper()
	c, err := isolate.Start(context.Background(), []string{"test", "cell"}, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func ask(t *testing.T, c *isolate.Cell, r request) answer {
	t.Helper()
	if err := json.NewEncoder(c.In()).Encode(r); err != nil {
		t.Fatal(err, c.Stderr())
	}
	var a answer
	if err := json.NewDecoder(c.Out()).Decode(&a); err != nil {
		t.Fatal(err, c.Stderr())
	}
	return a
}

func TestACellIsProvenBeforeAnythingRuns(t *testing.T) {
	for _, rung := range []string{isolate.Namespaces, isolate.Static} {
		t.Run(rung, func(t *testing.T) {
			c := start(t, newSpec(t, rung, "none"))
			p := c.Proof()
			if len(p.Attempts) < 70 {
				t.Errorf("only %d attempts", len(p.Attempts))
			}
			for _, a := range p.Attempts {
				if !a.Refused {
					t.Error(a.What)
				}
			}
			if p.Limits == "" {
				t.Error("what holds the limits is not said")
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			if err := c.Close(); err != nil {
				t.Error("closing again:", err)
			}
		})
	}
}

func TestProgramsOfTheMachineRunAboveTheTree(t *testing.T) {
	s := newSpec(t, isolate.Namespaces, "host")
	write(t, s.Tree+"/usr/share/ours", "from the tree")
	write(t, s.Tree+"/etc/passwd", "root:x:0:0:tree:/:/bin/sh\n")
	c := start(t, s)

	a := ask(t, c, request{Argv: []string{"/bin/sh", "-c", "cat /usr/share/ours /etc/passwd && echo new > /usr/share/ours && cat /usr/share/ours && ls /usr/bin/env && awk 'BEGIN{print 1+1}'"}})
	if want := "from the treeroot:x:0:0:tree:/:/bin/sh\nnew\n/usr/bin/env\n2\n"; a.Output != want || a.Error != "" {
		t.Errorf("got %+v, want %q", a, want)
	}
	if text, err := os.ReadFile(s.Tree + "/usr/share/ours"); err != nil || string(text) != "from the tree" {
		t.Error("the tree has changed:", string(text), err)
	}
}

func TestStaticReadsTheTreeAndNothingElse(t *testing.T) {
	s := newSpec(t, isolate.Static, "")
	write(t, s.Tree+"/a", "hello")
	if err := os.Symlink("/etc/passwd", s.Tree+"/link"); err != nil {
		t.Fatal(err)
	}
	c := start(t, s)
	if a := ask(t, c, request{Read: "a"}); a.Output != "hello" || a.Error != "" {
		t.Errorf("%+v", a)
	}
	for _, r := range []request{{Read: "/etc/passwd"}, {Read: "link"}, {Argv: []string{"/bin/true"}}} {
		if a := ask(t, c, r); a.Output != "" || a.Error == "" {
			t.Errorf("%v was not refused: %+v", r, a)
		}
	}
}

func TestAllOfItWithoutRights(t *testing.T) {
	asNobody(t, "^(TestACellIsProven|TestProgramsOfTheMachine|TestStaticReads)")
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
