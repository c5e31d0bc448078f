package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon/validation"
	"knowngood/storage/authentic"
	"knowngood/storage/repository"
)

// app is what commands share: flags, streams, and what they open.
type app struct {
	out *console.Console

	configPath, repoURL, identityPath, stateDir, host string
	pin                                               string
	passphraseFD                                      int
	limitUpload, limitDownload                        string

	config     *configs.Config
	configFile string // that config was read from; "" for none
	unusable   error  // of a configuration that status does without
	given      given
	advise     bool // the command shows what is odd in the configuration

	fresh, keepIndex time.Duration // of repository.Options
	writebackWindow  time.Duration // of snapshot.Options

	repo     *repository.Repository
	findings *authentic.Findings // of the repository

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

URLs: /path or file:///path for a directory,
s3://bucket/prefix?endpoint=https://host:port&region=… for a bucket, with
credentials from the standard AWS places (environment, ~/.aws, instance role).

References: web@42, web@latest, web@2026-11-20T10:00 (the newest not later), an
ID, host/web@42; where a path is taken, :/path follows.

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 done, but
incomplete (named); 10 no repository; 11 exists already; 12 no usable identity;
13 damage or tampering found; 130 interrupted.`,
		Example: `  knowngood quickstart                                try it; writes to a folder of its own
  knowngood init --repo URL --identity FILE           make a repository
  knowngood snapshot --repo URL --env web /srv/web    take a snapshot
  knowngood list --repo URL                           see what there is
  knowngood restore --repo URL --identity FILE web@latest --target DIR`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Annotations:   map[string]string{"config": "none"},
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Name() == cobra.ShellCompRequestCmd {
				return nil // the command that is completed reads what it needs
			}
			if err := usage.RefuseEmpty(cmd, args); err != nil {
				return err
			}
			return a.load(cmd)
		},
		Args: usage.UnknownCommand,

		SuggestionsMinimumDistance: 2,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(a.out.Stdout)
	root.SetErr(a.out.Stderr)
	root.SetFlagErrorFunc(usage.FlagError)
	root.Version = versionText()
	root.SetVersionTemplate("{{.Version}}\n")
	f := root.PersistentFlags()
	f.StringVar(&a.configPath, "config", os.Getenv("KNOWNGOOD_CONFIG"), "configuration `file`; /etc/knowngood/config.yaml when it exists (KNOWNGOOD_CONFIG)")
	f.StringVar(&a.repoURL, "repo", os.Getenv("KNOWNGOOD_REPO"), "repository `URL` (KNOWNGOOD_REPO)")
	f.StringVar(&a.identityPath, "identity", os.Getenv("KNOWNGOOD_IDENTITY"), "identity `file` that opens snapshots (KNOWNGOOD_IDENTITY)")
	f.StringVar(&a.pin, "pin", os.Getenv("KNOWNGOOD_PIN"), "`hash` of the repository's descriptor, as init printed it: any other repository is refused (KNOWNGOOD_PIN)")
	f.StringVar(&a.stateDir, "state-dir", os.Getenv("KNOWNGOOD_STATE_DIR"), "`directory` of the host's keys, memory and caches (KNOWNGOOD_STATE_DIR)")
	f.StringVar(&a.host, "host", "", "`name` of the host that the command is about (default: the host whose keys are in the state directory)")
	f.BoolVar(&a.out.JSON, "json", false, "print progress as lines of JSON and the result as one object")
	f.BoolVarP(&a.out.Quiet, "quiet", "q", false, "print no progress")
	a.passphraseFD = -1
	f.Var(usage.Count{Value: &a.passphraseFD}, "passphrase-fd", "read the identity's passphrase from file `descriptor` N")
	f.StringVar(&a.limitUpload, "limit-upload", "", "at most so many bytes a second, such as 10MiB")
	f.StringVar(&a.limitDownload, "limit-download", "", "at most so many bytes a second")
	root.RegisterFlagCompletionFunc("host", a.completeHosts())
	root.AddCommand(quickstartCommand(a), initCommand(a), snapshotCommand(a), listCommand(a), showCommand(a), statsCommand(a), lsCommand(a), catCommand(a),
		findCommand(a), diffCommand(a), restoreCommand(a), checkCommand(a), forgetCommand(a), acceptCommand(a), pruneCommand(a), probeCommand(a), daemonCommand(a), statusCommand(a), keysCommand(a), configCommand(a), versionCommand(a), manCommand(a), outsideCommand(a))
	return root
}

// needsConfig tells commands that read the configuration from those that must
// work without, and with one that is broken: completions among them.
func needsConfig(cmd *cobra.Command) bool {
	if cmd.Name() == "help" || cmd.Annotations["config"] == "none" {
		return false
	}
	return cmd.Parent() == nil || cmd.Parent().Name() != "completion"
}

// load reads the configuration and fills in what flags left open.
func (a *app) load(cmd *cobra.Command) (err error) {
	path := a.configPath
	a.advise = cmd.Annotations["config"] == "demanded, with advice"
	if path == "" {
		// Without the file that it takes, a command says which is missing.
		if _, err := os.Stat(configs.DefaultPath); err == nil || a.advise {
			path = configs.DefaultPath
		}
	}
	if !needsConfig(cmd) {
		path = ""
	}
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
// gave goes into it, and what they left open is taken from it. The host, unless a
// flag names it, is the one whose keys are in the state directory: that is who
// captures.
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
	if own := a.ownHost(); a.given.host == "" && own != "" {
		a.host, c.Host = own, own
	}
	c.StateDir, a.config = a.stateDir, c
	return nil
}

// loadConfig reads and validates a configuration, as flags and variables gave what
// else holds.
func (a *app) loadConfig(path string) (*configs.Config, error) {
	o := validation.Options{Version: version, Repository: a.given.repoURL, StateDir: a.given.stateDir, Advise: a.advise}
	if o.StateDir != "" {
		abs, err := filepath.Abs(o.StateDir)
		if err != nil {
			return nil, err
		}
		o.StateDir = abs
	}
	c, err := validation.Load(path, o)
	if err != nil {
		return nil, usage.Errorf("%w", err)
	}
	return c, nil
}

// warnings prints what the repository found wrong and worked around, and reports
// whether somebody tampered with it.
func (a *app) warnings() (tampered bool) {
	var errs []error
	for _, f := range a.findings.Take() {
		errs = append(errs, f.Err)
		tampered = tampered || f.Kind == authentic.Tampering
	}
	console.PrintErrors(a.out, "knowngood: warning: ", errs)
	return tampered
}
