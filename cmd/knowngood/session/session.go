// Package session opens what a command works on, as the flags that all commands
// share and the configuration name it: the store, the repository, this machine's
// host, the identity, a snapshot.
package session

import (
	"os"
	"time"

	"github.com/spf13/pflag"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/repository"
	"knowngood/storage/throttle"
)

// Flags are those of all commands. After Load, what they left open is that of the
// configuration.
type Flags struct {
	ConfigPath, RepoURL, IdentityPath, StateDir, Host string

	Pin                        string
	PassphraseFD               int
	LimitUpload, LimitDownload string
}

// Add adds the flags; variables of the environment are their defaults.
func (fl *Flags) Add(f *pflag.FlagSet) {
	f.StringVar(&fl.ConfigPath, "config", os.Getenv("KNOWNGOOD_CONFIG"), "configuration `file`; /etc/knowngood/config.yaml when it exists (KNOWNGOOD_CONFIG)")
	f.StringVar(&fl.RepoURL, "repo", os.Getenv("KNOWNGOOD_REPO"), "repository `URL` (KNOWNGOOD_REPO)")
	f.StringVar(&fl.IdentityPath, "identity", os.Getenv("KNOWNGOOD_IDENTITY"), "identity `file` that opens snapshots (KNOWNGOOD_IDENTITY)")
	f.StringVar(&fl.Pin, "pin", os.Getenv("KNOWNGOOD_PIN"), "`hash` of the repository's descriptor, as init printed it: any other repository is refused (KNOWNGOOD_PIN)")
	f.StringVar(&fl.StateDir, "state-dir", os.Getenv("KNOWNGOOD_STATE_DIR"), "`directory` of the host's keys, memory and caches; by default /var/lib/knowngood for root, ~/.local/state/knowngood for others (KNOWNGOOD_STATE_DIR)")
	f.StringVar(&fl.Host, "host", "", "`name` of the host that the command is about (default: the host whose keys are in the state directory)")
	fl.PassphraseFD = -1
	f.Var(usage.Count{Value: &fl.PassphraseFD}, "passphrase-fd", "read the identity's passphrase from file `descriptor` N")
	f.StringVar(&fl.LimitUpload, "limit-upload", "", "upload at most this `rate` a second, such as 10MiB")
	f.StringVar(&fl.LimitDownload, "limit-download", "", "download at most this `rate` a second, such as 10MiB")
}

// Given is what flags and variables set, before the configuration.
type Given struct{ RepoURL, IdentityPath, StateDir, Host string }

// Session is one run of a command.
type Session struct {
	Flags
	Proof   Proof
	Given   Given
	Version string // of the program
	Out     *console.Console

	Config     *configs.Config
	ConfigFile string // that Config was read from; "" for none
	Unusable   error  // why the configuration cannot be used, for a command that does without
	Advise     bool   // the command shows what is odd in the configuration

	Fresh           time.Duration                     // of trust.Options
	Limits          *throttle.Limits                  // in place of those of flags and configuration
	Region          string                            // of stores.Options
	Over            func(storage.Store) storage.Store // decorates the store; nil for not
	WritebackWindow time.Duration                     // of snapshot.Options
	WorkFactor      int                               // of identity.WriteOptions

	Repo     *repository.Repository // that was opened; nil before
	Findings *authentic.Findings    // of the repository
	Damage   Damage                 // that the command found
}

// New returns a session of the program of this version, before any flag is read.
func New(out *console.Console, version string) *Session {
	return &Session{Out: out, Version: version, Findings: &authentic.Findings{}}
}
