package session

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon/runner"
	"knowngood/daemon/validation"
	"knowngood/snapshot"
)

// Load reads the configuration and fills in what flags left open.
func (sess *Session) Load(cmd *cobra.Command) (err error) {
	path := sess.ConfigPath
	sess.Advise = cmd.Annotations["config"] == "demanded, with advice"
	if path == "" {
		// Without the file that it needs, a command reports which is missing.
		if _, err := os.Stat(configs.DefaultPath); err == nil || sess.Advise {
			path = configs.DefaultPath
		}
	}
	if !needsConfig(cmd) {
		path = ""
	}
	sess.ConfigFile, sess.Given = path, Given{sess.RepoURL, sess.IdentityPath, sess.StateDir, sess.Host}
	err = sess.readConfig(path)
	if err != nil && cmd.Annotations["config"] == "unless broken" && !errors.Is(err, fs.ErrNotExist) {
		sess.Unusable = err
		if err = sess.readConfig(""); err == nil {
			sess.Config.Listen = configs.Listen(path)
		}
	}
	return err
}

// readConfig reads the configuration at path, the default one for "". What flags
// gave goes into it, and what they left open is taken from it. The host, unless a
// flag names it, is the one whose keys are in the state directory: that is who
// captures.
func (sess *Session) readConfig(path string) (err error) {
	c := configs.Default()
	if path != "" {
		if c, err = sess.LoadConfig(path); err != nil {
			return err
		}
	}
	for _, f := range [...]struct{ flag, configured *string }{{&sess.RepoURL, &c.Repository.URL}, {&sess.IdentityPath, &c.Identity}, {&sess.StateDir, &c.StateDir}, {&sess.Host, &c.Host}} {
		*f.flag = cmp.Or(*f.flag, *f.configured)
		*f.configured = *f.flag
	}
	if sess.StateDir, err = filepath.Abs(sess.StateDir); err != nil {
		return err
	}
	if own := sess.OwnHost(); sess.Given.Host == "" && own != "" {
		sess.Host, c.Host = own, own
	}
	c.StateDir, sess.Config = sess.StateDir, c
	return nil
}

// LoadConfig reads and validates a configuration, together with the values of flags
// and variables.
func (sess *Session) LoadConfig(path string) (*configs.Config, error) {
	o := validation.Options{Version: sess.Version, Repository: sess.Given.RepoURL, StateDir: sess.Given.StateDir, Advise: sess.Advise}
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

// Reload reads the configuration as it is now, flags applied as at the start.
func (sess *Session) Reload() (*configs.Config, error) {
	at := *sess
	at.RepoURL, at.IdentityPath, at.StateDir, at.Host = sess.Given.RepoURL, sess.Given.IdentityPath, sess.Given.StateDir, sess.Given.Host
	if err := at.readConfig(sess.ConfigFile); err != nil {
		return nil, err
	}
	return at.Config, nil
}

// NoEnvironment is the mistake of naming an environment that the configuration does
// not have.
func (sess *Session) NoEnvironment(name string) error {
	names := sess.Config.EnvironmentNames()
	switch {
	case sess.ConfigFile == "":
		return usage.Errorf("no environment %q: %s", name, configs.Missing(configs.DefaultPath))
	case len(names) == 0:
		return usage.Errorf("%s has no environment %q, nor any other", sess.ConfigFile, name)
	}
	return usage.Errorf("%s has no environment %q. It has: %s", sess.ConfigFile, name, strings.Join(names, ", "))
}

// WhichEnvironment is the mistake of naming no environment.
func (sess *Session) WhichEnvironment() error {
	names := sess.Config.EnvironmentNames()
	if len(names) == 0 {
		return usage.Errorf("which environment? There is none in the configuration")
	}
	return usage.Errorf("which environment? The configuration has: %s", strings.Join(names, ", "))
}

// Today is what a capture of the environment would mean now, as the
// configuration has it; nil where it does not have it.
func (sess *Session) Today(environment string) (*snapshot.Scope, error) {
	env := sess.Config.Environments[environment]
	if env == nil {
		return nil, nil
	}
	o, err := runner.CaptureOptions(environment, env)
	if err != nil {
		return nil, usage.Errorf("%w", err)
	}
	return snapshot.NewScope(o.Sources), nil
}

// needsConfig reports whether a command reads the configuration. The others work
// without one, and with one that is broken: completions among them.
func needsConfig(cmd *cobra.Command) bool {
	if cmd.Name() == "help" || cmd.Annotations["config"] == "none" {
		return false
	}
	return cmd.Parent() == nil || cmd.Parent().Name() != "completion"
}
