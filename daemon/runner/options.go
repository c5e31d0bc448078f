package runner

import (
	"cmp"
	"context"
	"io"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/internal/command"
	"knowngood/internal/posix"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/walk"
)

// CaptureOptions are the options with which a configured environment is captured.
// A pattern that does not compile is an error.
func CaptureOptions(name string, env *configs.Environment) (snapshot.Options, error) {
	o := snapshot.Options{Environment: name, RereadEvery: time.Duration(env.Reread)}
	var ofCommands []snapshot.Expectation
	for _, s := range env.Sources {
		expect := snapshot.Expectation{Shrink: int(env.ShrinkOf(&s)), Mounted: s.Require == "mounted", NotEmpty: s.Require == "not_empty"}
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
	o.Expect = append(o.Expect, ofCommands...)
	return o, nil
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
	directories := []string{stateDir}
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
