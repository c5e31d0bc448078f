package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/internal/command"
	"knowngood/internal/posix"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
	"knowngood/storage/pack"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
)

// snapshotFlags of the snapshot command.
type snapshotFlags struct {
	env              string
	include, exclude []string
	excludeCaches    bool
	excludeIfPresent []string
	oneFileSystem    bool
	maxFileSize      string
	dryRun, reread   bool
	compression      string
	tags             []string
}

func snapshotCommand(a *app) *cobra.Command {
	var f snapshotFlags
	cmd := &cobra.Command{
		Use:   "snapshot --env NAME PATH... | snapshot NAME",
		Short: "Take a snapshot of paths, or of a configured environment",
		Long: `Take a snapshot of paths as environment NAME, or of an environment of the
configuration. Prints NAME@NUMBER when it is committed.

Patterns are like those of .gitignore: the last that matches decides, ! takes
back, * stays within a name, ** crosses directories, a slash anchors at the
source, a slash at the end means directories only.

What could not be captured as it should (unreadable, changed while read,
vanished) is named, recorded in the snapshot, and makes the exit code 3.
Interrupted, the next run goes on where this one was.`,
		Args: args(cobra.ArbitraryArgs),
		RunE: func(cmd *cobra.Command, paths []string) error { return a.snapshot(cmd.Context(), &f, paths) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.env, "env", "", "`name` of the environment")
	fl.StringArrayVar(&f.include, "include", nil, "capture only what matches this `pattern`; may be repeated")
	fl.StringArrayVar(&f.exclude, "exclude", nil, "`pattern` to leave out (! takes back); may be repeated")
	fl.BoolVar(&f.excludeCaches, "exclude-caches", false, "leave out directories marked by a CACHEDIR.TAG")
	fl.StringArrayVar(&f.excludeIfPresent, "exclude-if-present", nil, "leave out directories that hold a file of this `name`")
	fl.BoolVar(&f.oneFileSystem, "one-file-system", false, "do not cross into other file systems")
	fl.StringVar(&f.maxFileSize, "max-file-size", "", "leave out files larger than `size`")
	fl.BoolVar(&f.dryRun, "dry-run", false, "tell what would be read, store nothing")
	fl.BoolVar(&f.reread, "reread", false, "read every file, whatever its time stamps say")
	fl.StringVar(&f.compression, "compression", "", "default, fastest or better")
	fl.StringArrayVar(&f.tags, "tag", nil, "a `label` for the snapshot; may be repeated")
	return cmd
}

// environment is what is to be captured: from flags, or from the
// configuration when only its name is given.
func (a *app) environment(f *snapshotFlags, paths []string) (string, *configs.Environment, error) {
	if f.env == "" && len(paths) == 1 && !strings.Contains(paths[0], "/") {
		if env, ok := a.config.Environments[paths[0]]; ok {
			return paths[0], env, nil
		}
		return "", nil, usagef("there is no environment %q in the configuration; for a path give its environment's name: --env NAME PATH", paths[0])
	}
	if f.env == "" {
		return "", nil, usagef("which environment? Give --env NAME and the paths, or the NAME of a configured environment")
	}
	if err := statement.ValidName(f.env); err != nil {
		return "", nil, usagef("--env: %w", err)
	}
	if len(paths) == 0 {
		if env, ok := a.config.Environments[f.env]; ok {
			return f.env, env, nil
		}
		return "", nil, usagef("what is to be captured? Give at least one PATH")
	}
	env := &configs.Environment{}
	var max uint64
	if f.maxFileSize != "" {
		n, err := rate("--max-file-size", f.maxFileSize, 0)
		if err != nil {
			return "", nil, err
		}
		max = n
	}
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return "", nil, err
		}
		env.Sources = append(env.Sources, configs.Source{Path: abs, Include: f.include, Exclude: f.exclude, ExcludeCaches: f.excludeCaches, ExcludeIfPresent: f.excludeIfPresent, OneFileSystem: f.oneFileSystem, MaxFileSize: configs.Size(max)})
	}
	return f.env, env, nil
}

// sources turns the configured sources into those of a capture.
func (a *app) sources(env *configs.Environment, o *snapshot.Options) error {
	for _, s := range env.Sources {
		if len(s.Command) > 0 {
			o.Commands = append(o.Commands, snapshot.Command{Argv: s.Command, As: s.As, Run: runSource(time.Duration(s.Timeout))})
			o.Describe = append(o.Describe, "command "+s.As)
			continue
		}
		rules, err := filter.Compile(s.Path, s.Include, s.Exclude)
		if err != nil {
			return &usageError{err}
		}
		o.Sources = append(o.Sources, walk.Source{Path: s.Path, Rules: rules, OneFileSystem: s.OneFileSystem, ExcludeCaches: s.ExcludeCaches, ExcludeIfPresent: s.ExcludeIfPresent, MaxFileSize: uint64(s.MaxFileSize)})
		o.Describe = append(o.Describe, s.Path)
		o.Exclusions = append(o.Exclusions, s.Exclude...)
	}
	return nil
}

// runSource runs a command source, for at most limit unless that is 0.
func runSource(limit time.Duration) func(context.Context, []string, io.Writer) error {
	return func(ctx context.Context, argv []string, stdout io.Writer) error {
		return (&command.Command{Argv: argv, Timeout: limit, Stdout: stdout}).Run(ctx)
	}
}

func (a *app) snapshot(ctx context.Context, f *snapshotFlags, paths []string) error {
	name, env, err := a.environment(f, paths)
	if err != nil {
		return err
	}
	r, err := a.openForWriting(ctx)
	if err != nil {
		return err
	}
	host, err := r.Host(ctx)
	if err != nil {
		return err
	}
	level, err := level(f.compression, string(a.config.Compression))
	if err != nil {
		return err
	}
	o := snapshot.Options{Environment: name, StateDir: r.LocalDir(), Level: level, Reread: f.reread, DryRun: f.dryRun, Version: version, Tags: f.tags}
	if err := a.sources(env, &o); err != nil {
		return err
	}
	a.omit(&o)
	o.Progress = &snapshot.Progress{
		Problem: func(path, reason string) { fmt.Fprintf(a.stderr, "knowngood: %s: %s\n", printable("/"+path), reason) },
		Warn:    func(m string) { fmt.Fprintf(a.stderr, "knowngood: warning: %s\n", m) },
	}
	p := a.progress(func() progressState {
		s := progressState{Files: o.Progress.Files.Load(), Bytes: o.Progress.Bytes.Load(), Total: o.Progress.Expected.Load()}
		if n := o.Progress.Problems.Load(); n > 0 {
			s.Note = fmt.Sprintf("%d problems", n)
		}
		return s
	})
	result, err := snapshot.Capture(ctx, r, host, o)
	p.end()
	if err != nil {
		return err
	}
	return a.tellSnapshot(name, result)
}

// openForWriting opens the repository without the identity: taking a snapshot
// needs none, and one that cannot be read must not hinder it.
func (a *app) openForWriting(ctx context.Context) (*repository.Repository, error) {
	path := a.identityPath
	a.identityPath = ""
	r, err := a.open(ctx)
	a.identityPath = path
	return r, err
}

func level(flag, configured string) (pack.Level, error) {
	if flag == "" {
		flag = configured
	}
	switch flag {
	case "", "default":
		return pack.LevelDefault, nil
	case "fastest":
		return pack.LevelFastest, nil
	case "better":
		return pack.LevelBetter, nil
	}
	return 0, usagef("--compression: %q is none of default, fastest, better", flag)
}

// omit leaves the repository and the state directory out of what is captured,
// and warns when the identity lies within.
func (a *app) omit(o *snapshot.Options) {
	places := []string{a.stateDir}
	if path, ok := directoryOf(a.repoURL); ok {
		places = append(places, path)
	}
	for _, path := range places {
		if st, err := posix.StatAt(unix.AT_FDCWD, resolved(path)); err == nil {
			o.Omit = append(o.Omit, st.ID())
		}
	}
	o.Skipped = func(path string, why walk.Reason) {
		if why == walk.Omitted && !a.json && !a.quiet {
			fmt.Fprintf(a.stderr, "knowngood: note: %s is the repository or the state directory and is left out\n", printable("/"+path))
		}
	}
	if a.identityPath != "" {
		if abs, err := filepath.Abs(a.identityPath); err == nil {
			if src := within(o.Sources, abs); src != "" {
				fmt.Fprintf(a.stderr, "knowngood: warning: the identity %s lies in %s and is captured with it: a snapshot is no place for its own key, keep it elsewhere too\n", abs, src)
			}
		}
	}
}

// resolved is path with its symbolic links followed, as far as it exists.
func resolved(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	return path
}

func within(sources []walk.Source, path string) string {
	for _, s := range sources {
		if manifest.Within(strings.Trim(path, "/"), strings.Trim(s.Path, "/")) {
			return s.Path
		}
	}
	return ""
}

// directoryOf is the directory of a repository URL that names one.
func directoryOf(url string) (string, bool) {
	if path, ok := strings.CutPrefix(url, "file://"); ok {
		return path, true
	}
	return url, strings.HasPrefix(url, "/")
}

func (a *app) tellSnapshot(name string, r *snapshot.Result) error {
	status := "complete"
	if r.Partial() {
		status, a.code = "partial", exitIncomplete
	}
	out := map[string]any{"type": "result", "files": r.Files, "directories": r.Directories, "bytes": r.Bytes, "new_bytes": r.NewBytes, "stored_bytes": r.StoredBytes,
		"read_files": r.Read, "duration_seconds": r.Duration.Seconds(), "status": status, "problems": r.Count}
	if r.Snapshot == nil {
		out["dry_run"] = true
		a.printf("%s: would capture %s files, %s in all, and read %s of them (dry run)\n", name, count(r.Files), bytesText(r.Bytes), count(r.Read))
		return a.result(out)
	}
	out["ref"], out["id"] = r.Snapshot.Ref(), fmt.Sprintf("%x", r.Snapshot.ID)
	a.printf("%s\n", r.Snapshot.Ref())
	if !a.quiet && !a.json {
		fmt.Fprintf(a.stderr, "%s files, %s in all; %s files read, %s new, stored as %s; %s; %s\n", count(r.Files), bytesText(r.Bytes), count(r.Read), bytesText(r.NewBytes), bytesText(r.StoredBytes), duration(r.Duration), status)
	}
	return a.result(out)
}
