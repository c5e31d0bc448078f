package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"knowngood/configs"
	"knowngood/daemon"
	"knowngood/storage"
	"knowngood/storage/identity"
	"knowngood/storage/repository"
	"knowngood/storage/stores"
)

// app is what commands share: flags, streams, and what they open.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	configPath, repoURL, identityPath, stateDir, host string
	json, quiet                                       bool
	passphraseFD                                      int
	limitUpload, limitDownload                        string

	config     *configs.Config
	configFile string // that config was read from; "" for none
	unusable   error  // of a configuration that status does without
	given      given
	advise     bool // the command shows what is odd in the configuration
	code       int  // of a command that came to its end

	fresh, keepIndex time.Duration // of repository.OpenOptions
	writebackWindow  time.Duration // of snapshot.Options

	profileDir string
	profiled   func()
	repo       *repository.Repository

	damaged map[string]bool // keys of objects that the command found to be missing or damaged
}

// given is what flags and variables said, before the configuration.
type given struct{ repoURL, identityPath, stateDir, host string }

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "knowngood",
		Short: "Disaster-recovery snapshots that are proven to restore",
		Long: `knowngood captures environments (files, dumps, configuration) as versioned,
immutable, encrypted, deduplicated snapshots in a directory or in S3-compatible
storage, and restores them.

A host that captures holds no key that reads what it captured: the identity
that restores can be kept elsewhere.

Start with:
  knowngood quickstart                                try it, changes nothing else
  knowngood init --repo URL --identity FILE           make a repository
  knowngood snapshot --repo URL --env web /srv/web    take a snapshot
  knowngood list --repo URL                           see what there is
  knowngood restore --repo URL --identity FILE web@latest --target DIR

URLs: /path or file:///path for a directory,
s3://bucket/prefix?endpoint=https://host:port&region=… for a bucket, with
credentials from the standard AWS places (environment, ~/.aws, instance role).

References: web@42, web@latest, web@2026-11-20T10:00 (the newest not later), an
ID, host/web@42; where a path is taken, :/path follows.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 done, but
incomplete (named); 10 no repository; 11 exists already; 12 no usable identity;
13 damage or tampering found; 130 interrupted.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Annotations:   map[string]string{"config": "none"},
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			if err := refuseEmpty(cmd, args); err != nil {
				return err
			}
			return a.load(cmd)
		},
		Args: unknownCommand,

		SuggestionsMinimumDistance: 2,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w (see %s --help)", err, c.CommandPath())
	})
	f := root.PersistentFlags()
	f.StringVar(&a.configPath, "config", os.Getenv("KNOWNGOOD_CONFIG"), "configuration `file`; /etc/knowngood/config.yaml when it exists (KNOWNGOOD_CONFIG)")
	f.StringVar(&a.repoURL, "repo", os.Getenv("KNOWNGOOD_REPO"), "repository `URL` (KNOWNGOOD_REPO)")
	f.StringVar(&a.identityPath, "identity", os.Getenv("KNOWNGOOD_IDENTITY"), "identity `file` that opens snapshots (KNOWNGOOD_IDENTITY)")
	f.StringVar(&a.stateDir, "state-dir", os.Getenv("KNOWNGOOD_STATE_DIR"), "`directory` of the host's keys, memory and caches (KNOWNGOOD_STATE_DIR)")
	f.StringVar(&a.host, "host", "", "`name` of the host; the machine's own by default")
	f.BoolVar(&a.json, "json", false, "print progress as lines of JSON and the result as one object")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print no progress")
	a.passphraseFD = -1
	f.Var(decimal{&a.passphraseFD}, "passphrase-fd", "read the identity's passphrase from file `descriptor` N")
	f.StringVar(&a.limitUpload, "limit-upload", "", "at most so many bytes a second, such as 10MiB")
	f.StringVar(&a.limitDownload, "limit-download", "", "at most so many bytes a second")
	f.StringVar(&a.profileDir, "profile", "", "write CPU and heap profiles into `directory`")
	f.MarkHidden("profile")
	root.AddCommand(quickstartCommand(a), initCommand(a), snapshotCommand(a), listCommand(a), showCommand(a), lsCommand(a), catCommand(a),
		findCommand(a), diffCommand(a), restoreCommand(a), checkCommand(a), forgetCommand(a), pruneCommand(a), daemonCommand(a), statusCommand(a), keysCommand(a), configCommand(a), versionCommand(a), manCommand(a), outsideCommand(a))
	return root
}

// args wraps a check of arguments so that its error is one of usage.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usagef("%w (see %s --help)", err, cmd.CommandPath())
		}
		return nil
	}
}

// refuseEmpty refuses empty arguments and values of flags. They come from
// variables that are not set, and must not stand for the working directory, or
// for everything. An empty --identity or --config asks for none.
func refuseEmpty(cmd *cobra.Command, args []string) error {
	if cmd.Name() == cobra.ShellCompRequestCmd {
		return nil // the word to be completed
	}
	if slices.Contains(args, "") {
		return usagef("an argument is empty: is a variable not set? (see %s --help)", cmd.CommandPath())
	}
	var err error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Name == "identity" || f.Name == "config" {
			return
		}
		if list, ok := f.Value.(pflag.SliceValue); f.Value.String() == "" || ok && slices.Contains(list.GetSlice(), "") {
			err = usagef("--%s is empty: is a variable not set? Leave it out if you do not want it", f.Name)
		}
	})
	return err
}

// unknownCommand refuses what is no command, and says what was meant, perhaps.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	meant := ""
	if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
		meant = fmt.Sprintf(": did you mean %s?", strings.Join(s, ", "))
	}
	return usagef("there is no command %q%s (see %s --help)", args[0], meant, cmd.CommandPath())
}

// needsConfig tells commands that read the configuration from those that must
// work without, and with one that is broken: completions among them.
func needsConfig(cmd *cobra.Command) bool {
	switch cmd.Name() {
	case "help", cobra.ShellCompRequestCmd:
		return false
	}
	if cmd.Annotations["config"] == "none" {
		return false
	}
	return cmd.Parent() == nil || cmd.Parent().Name() != "completion"
}

// load reads the configuration and fills in what flags left open.
func (a *app) load(cmd *cobra.Command) (err error) {
	if a.profileDir != "" {
		if a.profiled, err = profile(a.profileDir); err != nil {
			return err
		}
	}
	path := a.configPath
	if path == "" {
		if _, err := os.Stat(configs.DefaultPath); err == nil {
			path = configs.DefaultPath
		}
	}
	if !needsConfig(cmd) {
		path = ""
	}
	a.advise = cmd.Annotations["config"] == "with advice"
	a.configFile, a.given = path, given{a.repoURL, a.identityPath, a.stateDir, a.host}
	err = a.readConfig(path)
	if err != nil && cmd.Annotations["config"] == "unless broken" && !errors.Is(err, fs.ErrNotExist) {
		a.unusable = err
		if err = a.readConfig(""); err == nil {
			a.config.Listen = configs.Listen(path)
		}
	}
	return err
}

// readConfig reads the configuration at path, the default one for "". What flags
// gave goes into it, and what they left open is taken from it.
func (a *app) readConfig(path string) (err error) {
	c := configs.Default()
	if path != "" {
		if c, err = a.loadConfig(path); err != nil {
			return err
		}
	}
	for _, f := range [...]struct{ flag, configured *string }{{&a.repoURL, &c.Repository.URL}, {&a.identityPath, &c.Identity}, {&a.stateDir, &c.StateDir}, {&a.host, &c.Host}} {
		if *f.flag == "" {
			*f.flag = *f.configured
		}
		*f.configured = *f.flag
	}
	if a.stateDir, err = filepath.Abs(a.stateDir); err != nil {
		return err
	}
	c.StateDir, a.config = a.stateDir, c
	return nil
}

// loadConfig reads and validates a configuration, as flags and variables gave what
// else holds.
func (a *app) loadConfig(path string) (*configs.Config, error) {
	o := daemon.LoadOptions{Version: version, Repository: a.given.repoURL, StateDir: a.given.stateDir, Advise: a.advise}
	if o.StateDir != "" {
		abs, err := filepath.Abs(o.StateDir)
		if err != nil {
			return nil, err
		}
		o.StateDir = abs
	}
	c, err := daemon.LoadConfig(path, o)
	if err != nil {
		return nil, &usageError{err}
	}
	return c, nil
}

// store opens the store of the repository URL; create makes its directory.
func (a *app) store(ctx context.Context, create bool) (storage.Store, error) {
	if a.repoURL == "" {
		return nil, usagef("which repository? Give --repo URL, set KNOWNGOOD_REPO, or name it in the configuration")
	}
	open := stores.Open
	if create {
		open = stores.Create
	}
	up, err := rate("--limit-upload", a.limitUpload, a.config.Limits.Upload)
	if err != nil {
		return nil, err
	}
	down, err := rate("--limit-download", a.limitDownload, a.config.Limits.Download)
	if err != nil {
		return nil, err
	}
	s, err := open(ctx, a.repoURL, stores.Options{Upload: int64(up), Download: int64(down)})
	if errors.Is(err, stores.ErrURL) {
		err = &usageError{err}
	}
	return s, err
}

// open opens the repository; with an identity when one is configured.
func (a *app) open(ctx context.Context) (*repository.Repository, error) {
	s, err := a.store(ctx, false)
	if err != nil {
		return nil, err
	}
	o := repository.OpenOptions{StateDir: a.stateDir, URL: stores.Redact(a.repoURL), Now: time.Now(), Fresh: max(a.fresh, time.Minute), KeepIndex: a.keepIndex}
	var file *identity.File
	if a.identityPath != "" {
		if file, err = a.identity(); err != nil {
			return nil, err
		}
		o.Pin = pinFor(file, o.URL)
	}
	r, err := repository.Open(ctx, s, o)
	if err != nil {
		return nil, err
	}
	a.repo = r
	if file != nil {
		r.Unlock(file)
	}
	return r, nil
}

// pinFor is what an identity file remembers of the repository; what was added
// last holds, for a repository may have been made anew at its URL.
func pinFor(f *identity.File, url string) *[32]byte {
	for i := range slices.Backward(f.Pins) {
		if f.Pins[i].Repository == url {
			return &f.Pins[i].Descriptor
		}
	}
	return nil
}

// openForReading opens the repository, and asks for an identity.
func (a *app) openForReading(ctx context.Context) (*repository.Repository, error) {
	if a.identityPath == "" {
		return nil, fmt.Errorf("%w: give --identity FILE, or set KNOWNGOOD_IDENTITY (a host that only captures has none; use the one made by init)", repository.ErrNoUsableIdentity)
	}
	return a.open(ctx)
}

func (a *app) identity() (*identity.File, error) {
	p := identity.NewPassphrase(a.passphraseFD)
	return identity.Load(a.identityPath, func() ([]byte, error) { return p.Get(a.identityPath) })
}

// resolve finds the snapshot of a reference, and the manifest path after it.
func (a *app) resolve(ctx context.Context, r *repository.Repository, text string) (*repository.Snapshot, string, error) {
	ref, sub, err := repository.ParseRef(text)
	if err != nil {
		return nil, "", &usageError{err}
	}
	s, err := r.Resolve(ctx, ref, a.host)
	if err != nil {
		return nil, "", err
	}
	return s, strings.Trim(sub, "/"), nil
}

// warnings prints what the repository found amiss and got round.
func (a *app) warnings() {
	if a.repo == nil {
		return
	}
	printErrors(a, "knowngood: warning: ", a.repo.Warnings())
}
