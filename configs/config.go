package configs

import (
	"cmp"
	"knowngood/snapshot/retention"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DefaultPath is where the configuration lies unless a flag names another file.
const DefaultPath = "/etc/knowngood/config.yaml"

// Config is a configuration.
type Config struct {
	Repository   Repository              `yaml:"repository"`
	Host         string                  `yaml:"host"`
	Identity     string                  `yaml:"identity,omitempty"`
	StateDir     string                  `yaml:"state_dir"`
	Listen       string                  `yaml:"listen"`
	ListenTCP    string                  `yaml:"listen_tcp,omitempty"`
	MaxRuns      Count                   `yaml:"max_runs"`
	Compression  Compression             `yaml:"compression"`
	Limits       Limits                  `yaml:"limits,omitempty"`
	Environments map[string]*Environment `yaml:"environments,omitempty"`
	Drills       []DrillEntry            `yaml:"drills,omitempty"` // for other hosts
	Prune        *Prune                  `yaml:"prune,omitempty"`
	Check        *Check                  `yaml:"check,omitempty"` // never nil once defaults are filled in
	Notify       Notify                  `yaml:"notify,omitempty"`

	// What reading the file found besides.
	Sum      [32]byte   `yaml:"-"` // SHA-256 of its text
	Empty    bool       `yaml:"-"` // it is empty
	Secret   []string   `yaml:"-"` // the key of a secret in its text; nil for none
	Findings []*Problem `yaml:"-"` // what a person should know though it was taken, in the order of the file
}

// Repository is where snapshots are stored.
type Repository struct {
	URL  string `yaml:"url,omitempty"`
	Lock Lock   `yaml:"lock,omitempty"`
	// Quota is what the store may hold, in bytes, for the forecast of when it
	// is full; 0 is not known.
	Quota Size `yaml:"quota,omitempty"`
}

// Lock is the Object Lock of what is written; both fields or none.
type Lock struct {
	Mode LockMode `yaml:"mode,omitempty"`
	Keep Duration `yaml:"keep,omitempty"`
}

// LockMode is compliance or governance.
type LockMode string

// Compression is default, fastest or better.
type Compression string

// Limits of transfer; 0 is none.
type Limits struct {
	Upload   Rate `yaml:"upload,omitempty"`
	Download Rate `yaml:"download,omitempty"`
}

// Environment is what is captured and restored together.
type Environment struct {
	Schedule string   `yaml:"schedule,omitempty"`
	TimeZone string   `yaml:"time_zone,omitempty"`
	Jitter   Duration `yaml:"jitter,omitempty"`
	CatchUp  Duration `yaml:"catch_up"`
	RPO      Duration `yaml:"rpo,omitempty"`
	Timeout  Duration `yaml:"timeout,omitempty"`
	Retries  Count    `yaml:"retries"`
	Sources  []Source `yaml:"sources"`
	Reread   Duration `yaml:"reread,omitempty"`
	Hooks    Hooks    `yaml:"hooks,omitempty"`
	Keep     Keep     `yaml:"keep,omitempty"`
	// Shrink is how much its sources must still have of what they had, or a
	// snapshot is suspect; nil is half.
	Shrink *Percent `yaml:"shrink,omitempty"`
	// Root is the directory whose versions are generations; Switch and Generations
	// are set where it is.
	Root        string       `yaml:"root,omitempty"`
	Switch      *Switch      `yaml:"switch,omitempty"`
	Data        []Data       `yaml:"data,omitempty"`
	Generations *Generations `yaml:"generations,omitempty"`
	Scale       *Scale       `yaml:"scale,omitempty"` // nil: it has no instances

	Drill *Drill `yaml:"drill,omitempty"`
	// RTO is how long a restore may take, services and probes of the drill included.
	RTO  Duration `yaml:"rto,omitempty"`
	Ping string   `yaml:"ping,omitempty"` // in place of that of Notify

	KnownGood *KnownGood `yaml:"known_good,omitempty"`
	Drift     *Drift     `yaml:"drift,omitempty"`
}

// ShrinkOf is what a source must still have of what it had; 0 is any amount.
func (e *Environment) ShrinkOf(s *Source) Percent {
	switch {
	case s.Shrink != nil:
		return *s.Shrink
	case e.Shrink != nil:
		return *e.Shrink
	}
	return defaultShrink
}

// defaultShrink is that of suspect.DefaultShrink, in percent.
const defaultShrink = Percent(50)

// Source is a path or a command; that may run as a hook does, outside.
type Source struct {
	Path             string   `yaml:"path,omitempty"`
	Include          []string `yaml:"include,omitempty"`
	Exclude          []string `yaml:"exclude,omitempty"`
	ExcludeCaches    bool     `yaml:"exclude_caches,omitempty"`
	ExcludeIfPresent []string `yaml:"exclude_if_present,omitempty"`
	OneFileSystem    bool     `yaml:"one_file_system,omitempty"`
	MaxFileSize      Size     `yaml:"max_file_size,omitempty"`
	Attributes       string   `yaml:"attributes,omitempty"` // current or cached
	Frozen           bool     `yaml:"frozen,omitempty"`     // a hook freezes it, or it is a snapshot

	Command []string `yaml:"command,omitempty"`
	As      string   `yaml:"as,omitempty"`
	Restore []string `yaml:"restore,omitempty"`
	Timeout Duration `yaml:"timeout,omitempty"`
	Outside bool     `yaml:"outside,omitempty"`

	Shrink  *Percent `yaml:"shrink,omitempty"`  // in place of that of the environment
	Require string   `yaml:"require,omitempty"` // mounted or not_empty
}

// Hooks are commands around a run.
type Hooks struct {
	Before    []Hook `yaml:"before,omitempty"`
	After     []Hook `yaml:"after,omitempty"`
	OnFailure []Hook `yaml:"on_failure,omitempty"`
}

// Hook is a command with a time limit. Outside, it runs in a unit of its own,
// beyond the sandbox of the daemon's.
type Hook struct {
	Command []string `yaml:"command"`
	Timeout Duration `yaml:"timeout,omitempty"`
	Outside bool     `yaml:"outside,omitempty"`
}

// Keep are the rules by which snapshots are kept; what no rule names is forgotten.
type Keep struct {
	Last      Count    `yaml:"last,omitempty"`
	Hourly    Count    `yaml:"hourly,omitempty"`
	Daily     Count    `yaml:"daily,omitempty"`
	Weekly    Count    `yaml:"weekly,omitempty"`
	Monthly   Count    `yaml:"monthly,omitempty"`
	Yearly    Count    `yaml:"yearly,omitempty"`
	Within    Duration `yaml:"within,omitempty"`
	KnownGood Count    `yaml:"known_good,omitempty"`
}

// Policy is the retention policy that the rules make.
func (k Keep) Policy() retention.Policy {
	return retention.Policy{
		Last: int(k.Last), Hourly: int(k.Hourly), Daily: int(k.Daily), Weekly: int(k.Weekly), Monthly: int(k.Monthly), Yearly: int(k.Yearly),
		Within: time.Duration(k.Within), KnownGood: int(k.KnownGood),
	}
}

// Prune frees what no kept snapshot needs, on a schedule.
type Prune struct {
	Schedule  string   `yaml:"schedule"` // "off": never
	TimeZone  string   `yaml:"time_zone,omitempty"`
	Announce  Duration `yaml:"announce"`             // between announcement and deletion
	MaxRepack Size     `yaml:"max_repack,omitempty"` // bytes rewritten in a run, or read again by a capture
}

// Off reports whether this host does not prune on a schedule.
func (p *Prune) Off() bool { return p.Schedule == "off" }

// CaptureRepack is how many bytes of unchanged files a capture reads again, so that
// packs of which little is needed can be freed: those are not rewritten by a prune
// where it has no identity.
func (c *Config) CaptureRepack() uint64 {
	if c.Prune == nil || c.Identity != "" {
		return 0
	}
	return uint64(c.Prune.MaxRepack)
}

// Check verifies what this host stored, on a schedule.
type Check struct {
	Schedule string   `yaml:"schedule"` // "off": never
	TimeZone string   `yaml:"time_zone,omitempty"`
	Jitter   Duration `yaml:"jitter,omitempty"`
	ReadData ReadData `yaml:"read_data"`
	Cycle    Duration `yaml:"cycle"`    // within which read_data: auto reads everything
	MaxData  Size     `yaml:"max_data"` // and the most that it reads a day, in bytes
}

// Off reports whether nothing is checked on a schedule.
func (c *Check) Off() bool { return c.Schedule == "off" }

// ReadData is how much stored data a check reads: auto, none, all, or a percentage.
type ReadData string

// Share is the percentage as a part of 1; 0 where it is a word.
func (r ReadData) Share() float64 {
	n, err := strconv.ParseFloat(strings.TrimSuffix(string(r), "%"), 64)
	if err != nil || !strings.HasSuffix(string(r), "%") {
		return 0
	}
	return n / 100
}

// Notify is who is notified.
type Notify struct {
	Webhook []Webhook `yaml:"webhook,omitempty"`
	Email   *Email    `yaml:"email,omitempty"`
	Command []string  `yaml:"command,omitempty"`
	Ping    string    `yaml:"ping,omitempty"`
	Repeat  Duration  `yaml:"repeat"` // how often what continues is reported again
}

// Webhook is an address that messages are posted to. Template, when set, makes
// the body; JSON of the whole message is the default.
type Webhook struct {
	URL      string            `yaml:"url"`
	Headers  map[string]string `yaml:"headers,omitempty"`
	Template string            `yaml:"template,omitempty"`
}

// Email is how messages are mailed.
type Email struct {
	From     string   `yaml:"from"`
	To       []string `yaml:"to"`
	Server   string   `yaml:"server"` // host:port
	User     string   `yaml:"user,omitempty"`
	Password string   `yaml:"password,omitempty"`
	// PasswordFile is a file with the password, such as a systemd credential.
	PasswordFile string  `yaml:"password_file,omitempty"`
	TLS          MailTLS `yaml:"tls,omitempty"`
}

// MailTLS is starttls, tls (from the first byte, port 465) or none; when it is
// empty the port decides.
type MailTLS string

// EnvironmentNames are the names of the environments, sorted.
func (c *Config) EnvironmentNames() []string { return slices.Sorted(maps.Keys(c.Environments)) }

// Default is the configuration of a machine that has none.
func Default() *Config {
	c := &Config{}
	c.fill(func(keyPath) bool { return false })
	return c
}

// fill gives what was left out its default; given reports the values for which
// zero is a choice too.
func (c *Config) fill(given func(keyPath) bool) {
	c.Host = cmp.Or(c.Host, hostName())
	c.StateDir = cmp.Or(c.StateDir, stateDir())
	c.Listen = cmp.Or(c.Listen, "unix:///run/knowngood/api.sock")
	c.Compression = cmp.Or(c.Compression, "default")
	c.MaxRuns = cmp.Or(c.MaxRuns, 2)
	if c.Notify.Repeat == 0 && !given(keyPath{"notify", "repeat"}) {
		c.Notify.Repeat = Duration(24 * hour)
	}
	if p := c.Prune; p != nil {
		p.Announce = cmp.Or(p.Announce, Duration(7*24*hour))
		p.TimeZone = cmp.Or(p.TimeZone, "Local")
	}
	c.fillCheck(given)
	c.fillDrills(given)
	for name, e := range c.Environments {
		if e == nil {
			continue
		}
		if e.Retries == 0 && !given(keyPath{"environments", name, "retries"}) {
			e.Retries = 4
		}
		if e.CatchUp == 0 && !given(keyPath{"environments", name, "catch_up"}) {
			e.CatchUp = Duration(24 * hour)
		}
		e.TimeZone = cmp.Or(e.TimeZone, "Local")
		e.fillSwitch(func(key string) bool { return given(keyPath{"environments", name, "switch", key}) })
		e.fillScale(func(key string) bool { return given(keyPath{"environments", name, "scale", key}) })
		e.Shrink = cmp.Or(e.Shrink, new(defaultShrink))
		if e.Drill != nil {
			e.Drill.fill()
		}
	}
}

// fillCheck gives the check its defaults: once a night, at a time of this host's
// own.
func (c *Config) fillCheck(given func(keyPath) bool) {
	c.Check = cmp.Or(c.Check, &Check{})
	k := c.Check
	if k.Schedule == "" && !given(keyPath{"check", "schedule"}) {
		k.Schedule = "0 1 * * *"
		if k.Jitter == 0 && !given(keyPath{"check", "jitter"}) {
			k.Jitter = Duration(5 * hour)
		}
	}
	k.TimeZone = cmp.Or(k.TimeZone, "Local")
	k.ReadData = cmp.Or(k.ReadData, "auto")
	k.Cycle = cmp.Or(k.Cycle, Duration(90*24*hour))
	k.MaxData = cmp.Or(k.MaxData, 1<<30)
}

// hostName is the short name of the machine, fit to be a host's.
func hostName() string {
	h, err := os.Hostname()
	if err != nil {
		return "host"
	}
	h, _, _ = strings.Cut(strings.ToLower(h), ".")
	h = strings.TrimLeft(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '-'
	}, h), "-_")
	if h == "" {
		return "host"
	}
	return h[:min(len(h), 63)]
}

// stateDir is what the unit that this process belongs to has for it, if any.
func stateDir() string {
	if d, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); filepath.IsAbs(d) {
		return d
	}
	if os.Geteuid() == 0 {
		return "/var/lib/knowngood"
	}
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "knowngood")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = homeOfUser()
	}
	return filepath.Join(home, ".local", "state", "knowngood")
}

// homeOfUser is the home directory for processes that do not know theirs.
func homeOfUser() string {
	if u, err := user.Current(); err == nil && filepath.IsAbs(u.HomeDir) {
		return u.HomeDir
	}
	return "/"
}
