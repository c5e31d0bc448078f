package load_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"knowngood/configs"
	"knowngood/internal/enginetest"
	"knowngood/internal/treetest"
	"knowngood/restore"
	"knowngood/restore/load"
	"knowngood/snapshot"
	"knowngood/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dumps are captured, a and b with commands that take them back.
var dumps = map[string][]byte{"db/a": bytes.Repeat([]byte("a dump\n"), 100_000), "db/b": []byte("another"), "list": []byte("of nothing")}

// world has a snapshot of the dumps, restored to a directory.
type world struct {
	*enginetest.World
	tree   *snapshot.Tree
	target string // of the restore
	out    string // where commands write
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{World: enginetest.New(t, storagetest.NewMemory()), target: treetest.TempDir(t), out: treetest.TempDir(t)}
	_, err := w.Capture("e", func(o *snapshot.Options) {
		for _, name := range []string{"db/a", "db/b", "list"} {
			c := snapshot.Command{Argv: []string{"dump", name}, As: name,
				Run: func(_ context.Context, _ []string, stdout io.Writer) error {
					_, err := stdout.Write(dumps[name])
					return err
				}}
			if name != "list" {
				c.Restore = w.saves(name, "the snapshot's")
			}
			o.Commands = append(o.Commands, c)
		}
	})
	w.Check(err)
	w.Restore("e", restore.Options{Target: w.target})
	w.tree = w.Tree("e")
	t.Cleanup(w.tree.Reader.Close)
	return w
}

// saves is a command that keeps what it is given, and notes that it ran.
func (w *world) saves(name, by string) []string {
	return []string{"sh", "-c", `cat >"$1" && echo "$2" >>"$3"; echo "loaded $KNOWNGOOD_SNAPSHOT $KNOWNGOOD_FILE"`, "sh",
		filepath.Join(w.out, strings.ReplaceAll(name, "/", "-")), name + " by " + by, filepath.Join(w.out, "ran")}
}

// configured are sources of a configuration that names commands of its own.
func (w *world) configured(names ...string) (sources []configs.Source) {
	for _, name := range names {
		sources = append(sources, configs.Source{Command: []string{"dump"}, As: name, Restore: w.saves(name, "the configuration's")})
	}
	return sources
}

func (w *world) ran(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.out, "ran"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func (w *world) outputs(configured []configs.Source) []*load.Output {
	return load.Outputs(w.Ctx, w.tree, &restore.Options{Target: w.target}, configured)
}

// describe is what became of outputs.
func describe(outputs []*load.Output) (out []string) {
	for _, o := range outputs {
		text := fmt.Sprintf("%s %s", o.Path, o.Status)
		if o.Foreign {
			text += " foreign"
		}
		if o.Err != nil {
			text += ": " + o.Err.Error()
		}
		out = append(out, text)
	}
	return out
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	confirm := func(context.Context, *load.Output) error { return nil }

	t.Run("gives outputs to the configured commands, in their order", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		all := w.outputs(w.configured("db/b", "not/in/the/snapshot", "db/a"))
		var said, begun []string
		err := load.Run(w.Ctx, w.tree, all, load.Options{Begin: func(o *load.Output) { begun = append(begun, o.Path) }, Line: func(o *load.Output, line string) { said = append(said, o.Path+": "+line) }})
		w.Check(err)
		same(t, "outputs", describe(all), []string{"db/b loaded", "db/a loaded"})
		same(t, "ran", w.ran(t), []string{"db/b by the configuration's", "db/a by the configuration's"})
		same(t, "begun", begun, []string{"db/b", "db/a"})
		same(t, "said", said, []string{"db/b: loaded e@1 " + w.target + "/db/b", "db/a: loaded e@1 " + w.target + "/db/a"})
		for name, want := range map[string][]byte{"db-a": dumps["db/a"], "db-b": dumps["db/b"]} {
			if got, err := os.ReadFile(filepath.Join(w.out, name)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s got %d bytes, want %d: %v", name, len(got), len(want), err)
			}
		}
	})
	t.Run("runs nothing that the snapshot alone names", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		all := w.outputs(w.configured("db/a"))
		w.Check(load.Run(w.Ctx, w.tree, all, load.Options{}))
		same(t, "outputs", describe(all), []string{"db/a loaded", "db/b not_run foreign: the snapshot alone names its command"})
		same(t, "ran", w.ran(t), []string{"db/a by the configuration's"})
	})
	t.Run("runs what the snapshot alone names when it is confirmed", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		all := w.outputs(nil)
		refused := errors.New("no")
		w.Check(load.Run(w.Ctx, w.tree, all, load.Options{Confirm: func(_ context.Context, o *load.Output) error {
			if o.Path == "db/a" {
				return refused
			}
			return nil
		}}))
		same(t, "outputs", describe(all), []string{"db/a not_run foreign: no", "db/b loaded foreign"})
		same(t, "ran", w.ran(t), []string{"db/b by the snapshot's"})
	})
	t.Run("stops at a command that fails", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		sources := w.configured("db/a", "db/b")
		sources[0].Restore = []string{"sh", "-c", "exit 7"} // without reading
		all := w.outputs(sources)
		if err := load.Run(w.Ctx, w.tree, all, load.Options{}); !errors.Is(err, load.ErrFailed) || !strings.Contains(err.Error(), "db/a") {
			t.Errorf("%v, want %v", err, load.ErrFailed)
		}
		same(t, "outputs", describe(all), []string{"db/a failed: sh: exit status 7", `db/b not_run: the command of "db/a" failed before`})
		same(t, "ran", w.ran(t), []string{""})
	})
	t.Run("starts no command with what is not as the snapshot has it", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		changed := bytes.Clone(dumps["db/a"])
		changed[len(changed)-1] ^= 1
		w.Check(os.WriteFile(filepath.Join(w.target, "db/a"), changed, 0o600))
		w.Check(os.Remove(filepath.Join(w.target, "db/b")))
		all := w.outputs(w.configured("db/a", "db/b"))
		w.Check(load.Run(w.Ctx, w.tree, all, load.Options{}))
		same(t, "ran", w.ran(t), []string{""})
		if !errors.Is(all[0].Err, restore.ErrNotAsCaptured) || !errors.Is(all[1].Err, os.ErrNotExist) || all[0].Status != load.NotRun || all[1].Status != load.NotRun {
			t.Errorf("%q", describe(all))
		}
	})
	t.Run("takes a file that changes after it was verified for no whole one", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		all := w.outputs(nil)[:1]
		err := load.Run(w.Ctx, w.tree, all, load.Options{Confirm: func(context.Context, *load.Output) error {
			return os.Truncate(filepath.Join(w.target, "db/a"), 10)
		}})
		if !errors.Is(err, load.ErrFailed) || !errors.Is(all[0].Err, restore.ErrNotAsCaptured) {
			t.Errorf("%v: %q", err, describe(all))
		}
		same(t, "ran", w.ran(t), []string{""})
	})
	t.Run("is of what was restored alone", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		db, file, none := filepath.Join(w.target, "db"), filepath.Join(w.target, "db/b"), filepath.Join(w.target, "none")
		for _, c := range []struct {
			under, target string
			want          []string // where outputs lie
		}{
			{"", w.target, []string{db + "/a", db + "/b"}},
			{"db", w.target, []string{w.target + "/a", w.target + "/b"}},
			{"db/b", db, []string{file}},
			{"db/b", none + "/", []string{none + "/b"}},
			{"db/b", none, []string{none}},
			{"db/b", file, []string{file}},
			{"list", w.target, nil},
			{"d", w.target, nil},
		} {
			var got []string
			for _, o := range load.Outputs(w.Ctx, w.tree, &restore.Options{Target: c.target, Under: c.under}, nil) {
				got = append(got, o.File)
			}
			same(t, fmt.Sprintf("%q to %s", c.under, c.target), got, c.want)
		}
	})
	t.Run("ends when it is cancelled", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		sources := w.configured("db/a", "db/b")
		sources[0].Restore = []string{"sleep", "1000"}
		ctx, cancel := context.WithCancel(w.Ctx)
		all := w.outputs(sources)
		if err := load.Run(ctx, w.tree, all, load.Options{Begin: func(*load.Output) { cancel() }}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if all[1].Status != load.NotRun {
			t.Errorf("%q", describe(all))
		}
	})
	t.Run("loads nothing that was not captured as the output of a command", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		w.tree.Table.Sources[0].Path = "db" // a directory
		w.tree.Table.Sources[1].Path = "../etc/passwd"
		all := w.outputs(nil)
		w.Check(load.Run(w.Ctx, w.tree, all, load.Options{Confirm: confirm}))
		same(t, "outputs", describe(all), []string{"db not_run foreign: it is not the output of a command", "../etc/passwd not_run foreign: the snapshot does not have it"})
		same(t, "ran", w.ran(t), []string{""})
	})
}
