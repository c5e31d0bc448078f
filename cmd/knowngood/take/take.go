// Package take takes a snapshot by hand: of paths, of a configured environment, or
// by asking a daemon that is up for it. It prints the result.
package take

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/logging"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon/checking"
	"knowngood/daemon/report"
	"knowngood/daemon/runner"
	"knowngood/daemon/web"
	"knowngood/internal/printable"
	"knowngood/snapshot"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
	"knowngood/storage/layout"
	"knowngood/storage/stores"
)

// Values of --verify.
const (
	VerifyListing = "listing"
	VerifyData    = "data"
)

// Options are the flags of the command.
type Options struct {
	Env              string
	Include, Exclude []string
	ExcludeCaches    bool
	ExcludeIfPresent []string
	OneFileSystem    bool
	CachedAttributes bool
	MaxFileSize      string
	DryRun, Reread   bool
	Verify           string
	Compression      string
	Tags             []string

	problems *console.Problems // of the run
}

// captured is what is to be captured: from flags, or from the
// configuration when only its name is given.
func captured(sess *session.Session, f *Options, paths []string) (string, *configs.Environment, error) {
	if f.Env == "" && len(paths) == 1 && !strings.Contains(paths[0], "/") {
		if env, ok := sess.Config.Environments[paths[0]]; ok {
			return paths[0], env, nil
		}
		return "", nil, fmt.Errorf("%w. (To capture a path: knowngood snapshot --env NAME PATH)", sess.NoEnvironment(paths[0]))
	}
	if f.Env == "" {
		return "", nil, usage.Errorf("which environment? Give --env NAME and the paths, or the NAME of a configured environment")
	}
	if err := layout.ValidName(f.Env); err != nil {
		return "", nil, usage.Errorf("--env: %w", err)
	}
	if len(paths) == 0 {
		if env, ok := sess.Config.Environments[f.Env]; ok {
			return f.Env, env, nil
		}
		return "", nil, usage.Errorf("what is to be captured? Give at least one PATH")
	}
	env := &configs.Environment{}
	var largest configs.Size
	if f.MaxFileSize != "" {
		n, err := configs.ParseSize(f.MaxFileSize)
		if err != nil {
			return "", nil, usage.Errorf("--max-file-size: %w", err)
		}
		largest = n
	}
	attributes := "current"
	if f.CachedAttributes {
		attributes = "cached"
	}
	var all []string
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return "", nil, err
		}
		if !slices.Contains(all, abs) { // else given twice
			all = append(all, abs)
		}
	}
	for _, p := range all {
		env.Sources = append(env.Sources, configs.Source{Path: p, Include: filter.Inner(p, all, f.Include), Exclude: filter.Inner(p, all, f.Exclude), ExcludeCaches: f.ExcludeCaches, ExcludeIfPresent: f.ExcludeIfPresent,
			OneFileSystem: f.OneFileSystem, MaxFileSize: largest, Attributes: attributes})
	}
	return f.Env, env, nil
}

// Run takes a snapshot of the paths, or of the environment that the only one names.
func Run(ctx context.Context, sess *session.Session, f *Options, paths []string) error {
	name, env, err := captured(sess, f, paths)
	if err == nil {
		err = sess.RefuseOtherHost()
	}
	if err != nil {
		return err
	}
	f.Compression = cmp.Or(f.Compression, string(sess.Config.Compression))
	if !slices.Contains([]string{"default", "fastest", "better"}, f.Compression) {
		return usage.Errorf("--compression: %q is none of default, fastest, better", f.Compression)
	}
	if !slices.Contains([]string{"", VerifyListing, VerifyData}, f.Verify) {
		return usage.Errorf("--verify: %q is neither listing nor data", f.Verify)
	}
	if env == sess.Config.Environments[name] && !f.DryRun {
		return runEnvironment(ctx, sess, name, env, f)
	}
	r, host, err := sess.OpenForWriting(ctx)
	if err != nil {
		return err
	}
	o, err := runner.CaptureOptions(name, env)
	if err != nil {
		return usage.Errorf("%w", err)
	}
	o.StateDir, o.Level, o.Version = r.State.Dir(), runner.Level(f.Compression), sess.Version
	runner.Omit(&o, sess.StateDir, sess.RepoURL)
	addFlags(sess, f, &o)
	p := sess.Out.Progress(func() console.State { return captureState(o.Progress) })
	result, err := snapshot.Capture(ctx, r, host, o)
	p.End()
	f.problems.End()
	if err != nil {
		return err
	}
	recordVerified(sess, f, result)
	return present.Capture(sess.Out, sess.Repo, sess.Host, name, result)
}

// recordVerified has the daemon count a capture that read all stored data and
// found it right. What was damaged stays so in the store, though its content be
// stored again: that is no such verification.
func recordVerified(sess *session.Session, f *Options, r *snapshot.Result) {
	if f.Verify != VerifyData || r.Snapshot == nil || r.Healed.Packs > 0 || len(sess.Repo.DamagedObjects(r.Snapshot.Domain.ID)) > 0 {
		return
	}
	session.RecordCheck(sess, checking.ByHand{Repository: sess.Repo.ID().String(), Began: r.Snapshot.Body.Started, Command: "snapshot --verify=data", Data: true})
}

// addFlags adds the values of flags to the options of a capture, and prints its problems as
// they come.
func addFlags(sess *session.Session, f *Options, o *snapshot.Options) {
	o.NotEmpty = len(f.Include) > 0
	o.Reread, o.DryRun, o.Tags, o.WritebackWindow = f.Reread, f.DryRun, f.Tags, sess.WritebackWindow
	o.Verify.Listing, o.Verify.Data = f.Verify != "" || f.Reread, f.Verify == VerifyData
	o.Progress = cmp.Or(o.Progress, &snapshot.Progress{})
	o.Verify.Read = func(bytes int) { o.Progress.Verified.Add(uint64(bytes)) }
	f.problems = sess.Out.Problems() // of this try
	o.Progress.Problem = func(path, reason string) { f.problems.Add(path, errors.New(reason)) }
	o.Progress.Warn = func(m string) { sess.Out.Messagef("warning: %s", printable.Line(m)) }
	o.Progress.Note = func(m string) {
		if !sess.Out.JSON && !sess.Out.Quiet {
			sess.Out.Messagef("note: %s", printable.Name(m))
		}
	}
	warnOfIdentity(sess, o)
}

func captureState(p *snapshot.Progress) console.State {
	if p == nil {
		return console.State{}
	}
	s := console.State{Files: p.Files.Load(), Bytes: p.Bytes.Load(), Total: p.Expected.Load()}
	if n := p.Verified.Load(); n > 0 {
		s.Note = human.Bytes(n) + " of objects verified"
	}
	if n := p.Problems.Load(); n > 0 {
		s.Note = human.Counted(n, "problem")
	}
	return s
}

// runEnvironment captures a configured environment with all that belongs to a
// run of it: hooks, retries, retention. A daemon that is up is asked to.
func runEnvironment(ctx context.Context, sess *session.Session, name string, env *configs.Environment, f *Options) error {
	if asked, err := askDaemon(ctx, sess, name, f); asked {
		return err
	}
	result, err := Environment(ctx, sess, name, env, f, nil)
	if result == nil {
		return err
	}
	recordVerified(sess, f, result)
	return errors.Join(present.Capture(sess.Out, sess.Repo, sess.Host, name, result), err)
}

// Environment captures a configured environment in this process, with hooks, retries and
// retention. Edit, when set, changes the options of each attempt. Beside an error that came
// after the commit there is a result.
func Environment(ctx context.Context, sess *session.Session, name string, env *configs.Environment, f *Options, edit func(*snapshot.Options)) (*snapshot.Result, error) {
	f.Compression = cmp.Or(f.Compression, string(sess.Config.Compression))
	level := "info"
	if sess.Out.Quiet {
		level = "warn"
	}
	log, err := logging.New(sess.Out.Stderr, level)
	if err != nil {
		return nil, err
	}
	var result *snapshot.Result
	configured := runner.Runner{Host: sess.Host, Repository: stores.Redact(sess.RepoURL), URL: sess.RepoURL, StateDir: sess.StateDir, Version: sess.Version, Compression: f.Compression, MaxRepack: sess.Config.CaptureRepack(),
		Purpose: "knowngood snapshot", Log: log, Open: sess.OpenForWriting,
		Edit: func(o *snapshot.Options) {
			addFlags(sess, f, o)
			if edit != nil {
				edit(o)
			}
		},
		Waiting: func(holder string) {
			sess.Out.Messagef("%s is being captured by %s; waiting for it", name, printable.Line(holder))
		},
		Committed: func(made *runner.Made) { result = made.Result }, Kept: &runner.Kept{}}
	run, live := report.Run{Trigger: "hand", Started: time.Now()}, &runner.Live{}
	p := sess.Out.Progress(func() console.State {
		s := captureState(live.Progress())
		if phase := live.Phase(); phase != "capture" {
			s.Note = phase
		}
		return s
	})
	err = configured.Run(ctx, name, env, &run, live)
	p.End()
	if f.problems != nil {
		f.problems.End()
	}
	return result, err
}

// askDaemon has a daemon capture the environment, which has the credentials and
// a warm index. asked is false when none is up that does the same.
func askDaemon(ctx context.Context, sess *session.Session, name string, f *Options) (asked bool, err error) {
	if f.Reread || f.Verify != "" || len(f.Tags) > 0 || f.Compression != string(sess.Config.Compression) {
		return false, nil
	}
	client, err := web.Dial(sess.Config.Listen)
	if err != nil {
		return false, nil
	}
	defer client.Close()
	r, err := client.Report(ctx)
	if err != nil || r.Host != sess.Host || r.Repository != stores.Redact(sess.RepoURL) || !slices.ContainsFunc(r.Environments, func(e report.Environment) bool { return e.Name == name }) {
		return false, nil
	}
	var now atomic.Pointer[report.Progress]
	p := sess.Out.Progress(func() console.State {
		s := console.State{}
		if n := now.Load(); n != nil {
			s = console.State{Files: n.Files, Bytes: n.Bytes, Total: n.Total}
			if n.Phase != "capture" {
				s.Note = n.Phase
			}
		}
		return s
	})
	run, err := client.Snapshot(ctx, name, func(n report.Progress) {
		last := now.Swap(&n)
		if last == nil && !sess.Out.Quiet && !sess.Out.JSON {
			fmt.Fprintln(sess.Out.Stderr, "the daemon captures it")
		}
		if n.Phase == "retry" && n.Retry != last.Retry {
			sess.Out.Warnf("%s", n.FailedAttempt(time.Local))
		}
	})
	p.End()
	if errors.Is(err, web.ErrRunning) {
		return true, fmt.Errorf("%s is being captured by the daemon already: see how far it is with knowngood status, and run this again when it is done", name)
	}
	if err != nil {
		return true, err
	}
	if run.Snapshot == "" || run.Error != "" {
		return true, fmt.Errorf("the daemon's run %s: %s (its log: journalctl -u knowngood)", run.Result, run.Error)
	}
	problems, known := problemsOf(ctx, client, name, run)
	if known {
		list := sess.Out.Problems()
		for _, p := range problems {
			list.Add(p.Path, errors.New(p.Reason))
		}
		list.End()
	}
	return true, present.DaemonCapture(sess.Out, sess.Host, name, run, problems, known)
}

// problemsOf asks the daemon for the problems of its last run. known is false when
// it does not have them: it is of an older version, or has run again.
func problemsOf(ctx context.Context, client *web.Client, name string, run *report.Run) (problems []manifest.Problem, known bool) {
	if run.Problems == 0 {
		return nil, true
	}
	p, err := client.Problems(ctx, name)
	for _, x := range p.Problems {
		problems = append(problems, manifest.Problem{Path: x.InManifest(), Reason: x.Error})
	}
	return problems, err == nil && p.Snapshot == run.Snapshot
}

// warnOfIdentity prints what of the program's own is left out, and warns when the
// identity is captured with the rest.
func warnOfIdentity(sess *session.Session, o *snapshot.Options) {
	o.Skipped = func(path string, why walk.Reason) {
		if sess.Out.JSON || sess.Out.Quiet {
			return
		}
		switch why {
		case walk.Omitted:
			sess.Out.Messagef("note: %s is the repository, the state directory or one of generations and is left out", printable.Name("/"+path))
		case walk.Unfinished:
			sess.Out.Messagef("note: %s was left by a restore that did not finish and is left out", printable.Name("/"+path))
		}
	}
	if sess.IdentityPath != "" {
		if abs, err := filepath.Abs(sess.IdentityPath); err == nil {
			if src := within(o.Sources, abs); src != "" {
				sess.Out.Messagef("warning: the identity %s lies in %s and is captured with it: a snapshot is no place for its own key, keep it elsewhere too", abs, src)
			}
		}
	}
}

func within(sources []walk.Source, path string) string {
	for _, s := range sources {
		if manifest.Within(strings.Trim(path, "/"), strings.Trim(s.Path, "/")) {
			return s.Path
		}
	}
	return ""
}
