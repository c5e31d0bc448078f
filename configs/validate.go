package configs

import (
	"net"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// validator checks the values of a configuration.
type validator struct{ *problems }

var name = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

const nameRule = "lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 63"

func (v *validator) config(c *Config) {
	if !name.MatchString(c.Host) {
		v.addf(keyPath{"host"}, "%q is no name of a host: %s", c.Host, nameRule)
	}
	v.repository(&c.Repository)
	v.absolute(c.StateDir, keyPath{"state_dir"})
	if c.Identity != "" {
		v.absolute(c.Identity, keyPath{"identity"})
	}
	v.listen(c.Listen, keyPath{"listen"})
	if c.ListenTCP != "" {
		if strings.HasPrefix(c.ListenTCP, "unix:") {
			v.addf(keyPath{"listen_tcp"}, "%q is no loopback address such as 127.0.0.1:9321: a socket goes into listen", c.ListenTCP)
		} else {
			v.listen(c.ListenTCP, keyPath{"listen_tcp"})
		}
		if strings.TrimPrefix(c.ListenTCP, "tcp://") == strings.TrimPrefix(c.Listen, "tcp://") {
			v.addf(keyPath{"listen_tcp"}, "%q is what listen has already: choose another port, or leave it out", c.ListenTCP)
		}
	}
	if c.MaxRuns < 1 {
		v.addf(keyPath{"max_runs"}, "%d is less than one: write 1 or more", c.MaxRuns)
	}
	switch c.Compression {
	case "default", "fastest", "better":
	default:
		v.addf(keyPath{"compression"}, "%q is none of default, fastest, better", c.Compression)
	}
	for _, n := range c.EnvironmentNames() {
		key := keyPath{"environments", n}
		if !name.MatchString(n) {
			v.addKeyf(key, "%q is no name of an environment: %s", n, nameRule)
		}
		if c.Environments[n] == nil {
			v.addf(key, "the environment is empty: it needs sources")
			continue
		}
		v.environment(c.Environments[n], key)
	}
	v.drills(c.Drills)
	if c.Prune != nil {
		v.prune(c.Prune, keyPath{"prune"})
	}
	if c.Check != nil {
		v.check(c.Check, keyPath{"check"})
	}
	v.notify(&c.Notify)
}

// minAnnounce is twice the time that a writer may run without looking whether
// what it reuses is still there (docs/FORMAT.md, section 10).
const minAnnounce = Duration(48 * hour)

func (v *validator) prune(p *Prune, key keyPath) {
	v.zone(p.TimeZone, key.child("time_zone"))
	if !p.Off() {
		v.schedule(p.Schedule, p.TimeZone, key.child("schedule"))
	}
	if p.Announce < minAnnounce {
		v.addf(key.child("announce"), "%v is too short: a deletion is announced at least 48h ahead, or a run under way could lose what it reuses", p.Announce)
	}
}

func (v *validator) check(c *Check, key keyPath) {
	v.zone(c.TimeZone, key.child("time_zone"))
	if !c.Off() {
		v.schedule(c.Schedule, c.TimeZone, key.child("schedule"))
	}
	switch share := c.ReadData.Share(); c.ReadData {
	case "auto", "none", "all":
	default:
		if !(share > 0 && share <= 1) {
			v.addf(key.child("read_data"), "%q is none of auto, none, all, and no percentage such as 5%%", string(c.ReadData))
		}
	}
	if c.Cycle < Duration(24*hour) {
		v.addf(key.child("cycle"), "%v is too short: write 1d or more, or read_data: all", c.Cycle)
	}
}

func (v *validator) absolute(p string, key keyPath) {
	switch {
	case strings.HasPrefix(p, "~"):
		v.addf(key, "%q: ~ is not replaced here: write the path out", p)
	case !path.IsAbs(p):
		v.addf(key, "%q is not an absolute path", p)
	case strings.ContainsRune(p, 0):
		v.addf(key, "%q is not a path", p)
	}
}

// maxLock is the longest that a store can be asked to lock objects for; see
// trust.MaxLock.
const maxLock = Duration(29200 * 24 * hour)

func days(d Duration) string { return strconv.Itoa(int(time.Duration(d)/(24*hour))) + "d" }

func (v *validator) repository(r *Repository) {
	key := keyPath{"repository", "lock"}
	switch r.Lock.Mode {
	case "":
		if r.Lock.Keep != 0 {
			v.addf(key.child("keep"), "a duration without a mode: add mode: compliance")
		}
	case "compliance", "governance":
		switch {
		case r.Lock.Keep == 0:
			v.addf(key, "a lock needs keep, such as 30d")
		case time.Duration(r.Lock.Keep)%time.Second != 0:
			v.addf(key.child("keep"), "a lock is kept for whole seconds")
		case r.Lock.Keep > maxLock:
			v.addf(key.child("keep"), "%s is too long: the most is 29200d (80 years)", days(r.Lock.Keep))
		}
	default:
		v.addf(key.child("mode"), "%q is neither compliance nor governance", r.Lock.Mode)
	}
}

// maxSocket is the longest path of a socket in Linux, in bytes.
const maxSocket = 107

func (v *validator) listen(s string, key keyPath) {
	if p, ok := strings.CutPrefix(s, "unix://"); ok {
		switch v.absolute(p, key); {
		case len(p) > maxSocket:
			v.addf(key, "the path of a socket has at most %d bytes, this one %d: choose a shorter one", maxSocket, len(p))
		case path.IsAbs(p) && path.Clean(p) != p:
			v.addf(key, "write it as %q", "unix://"+path.Clean(p))
		}
		return
	}
	host, port, err := net.SplitHostPort(strings.TrimPrefix(s, "tcp://"))
	ip, ipErr := netip.ParseAddr(host)
	switch {
	case err != nil || host != "localhost" && (ipErr != nil || !ip.IsLoopback()):
		v.addf(key, "%q is neither unix:///path nor a loopback address such as 127.0.0.1:9321", s)
	case !isPort(port):
		v.addf(key, "%q is no port, such as 9321", port)
	}
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// isHostPort reports whether an address can be dialled.
func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && host != "" && isPort(port)
}
