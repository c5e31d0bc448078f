package runner

import (
	"cmp"
	"context"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/internal/command"
	"knowngood/internal/posix"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/live"
	"knowngood/snapshot/walk"
)

// CaptureOptions are the options with which a configured environment is captured.
// A pattern that does not compile is an error.
func CaptureOptions(name string, env *configs.Environment) (snapshot.Options, error) {
	o := snapshot.Options{Environment: name, RereadEvery: time.Duration(env.Reread)}
	var ofCommands []snapshot.Expectation
	for _, s := range env.Sources {
		expect := snapshot.Expectation{Shrink: int(env.ShrinkOf(&s)), Mounted: s.Require == "mounted", NotEmpty: s.Require == "not_empty", Frozen: s.Frozen}
		if len(s.Command) > 0 {
			ofCommands = append(ofCommands, expect)
			o.Commands = append(o.Commands, snapshot.Command{Argv: s.Command, Restore: s.Restore, As: s.As, Run: runSource(time.Duration(s.Timeout), s.Outside)})
			continue
		}
		rules, err := filter.Compile(s.Path, s.Include, s.Exclude)
		if err != nil {
			return o, err
		}
		o.Sources = append(o.Sources, walk.Source{Path: s.Path, Rules: rules, OneFileSystem: s.OneFileSystem, ExcludeCaches: s.ExcludeCaches, ExcludeIfPresent: s.ExcludeIfPresent, MaxFileSize: uint64(s.MaxFileSize),
			CachedAttributes: s.Attributes == "cached"})
		o.Expect = append(o.Expect, expect)
	}
	if env.Root != "" {
		if err := fromGenerations(&o, env); err != nil {
			return o, err
		}
	}
	o.Expect = append(o.Expect, ofCommands...)
	return o, nil
}

// fromGenerations reads the root where it lies, and carried data at its path below it.
func fromGenerations(o *snapshot.Options, env *configs.Environment) error {
	tree, err := live.Find(env.Root, env.Carried())
	if err != nil {
		return err
	}
	i := slices.IndexFunc(o.Sources, func(s walk.Source) bool { return s.Path == env.Root })
	if i < 0 {
		return nil
	}
	o.Sources[i].At, o.Sources[i].Sealed = tree.Top, tree.Sealed
	for _, path := range slices.Sorted(maps.Keys(tree.Data)) {
		s := o.Sources[i]
		if s.Rules.Match(path, true) != filter.Include {
			continue
		}
		s.Path, s.At, s.Sealed = filepath.Join(s.Path, path), tree.Data[path], false
		include, exclude := s.Rules.Patterns()
		above := []string{env.Root}
		if s.Rules, err = filter.Compile(s.Path, filter.Inner(s.Path, above, include), filter.Inner(s.Path, above, exclude)); err != nil {
			return err
		}
		o.Sources, o.Expect = append(o.Sources, s), append(o.Expect, o.Expect[i])
	}
	return nil
}

// SourcePaths are the paths of the sources of an environment, as a manifest has
// them.
func SourcePaths(env *configs.Environment) []string {
	var out []string
	for _, s := range env.Sources {
		out = append(out, cmp.Or(s.Path, s.As))
	}
	return out
}

// runSource runs a command source, for at most limit unless that is 0.
func runSource(limit time.Duration, outside bool) func(context.Context, []string, io.Writer) error {
	return func(ctx context.Context, argv []string, stdout io.Writer) error {
		return (&command.Command{Argv: argv, Timeout: limit, Stdout: stdout, Outside: outside}).Run(ctx)
	}
}

// Omit excludes the state directory from a capture, and the repository where it is
// a directory.
func Omit(o *snapshot.Options, stateDir, repoURL string) {
	directories := []string{stateDir, stateDir + "-drills", stateDir + "-patches"} // as scratch.Beside has them
	if path, ok := DirectoryOf(repoURL); ok {
		directories = append(directories, path)
	}
	for _, path := range directories {
		if p, err := filepath.EvalSymlinks(path); err == nil {
			path = p
		}
		if st, err := posix.StatAt(unix.AT_FDCWD, path); err == nil {
			o.Omit = append(o.Omit, st.ID())
		}
	}
}

// DirectoryOf is the directory of a repository URL that names one.
func DirectoryOf(url string) (string, bool) {
	if path, ok := strings.CutPrefix(url, "file://"); ok {
		return path, true
	}
	return url, strings.HasPrefix(url, "/")
}
