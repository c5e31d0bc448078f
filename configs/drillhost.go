package configs

import (
	"path"
	"time"
)

// DrillEntry is a drill of environments that other hosts captured: of those that
// both patterns match, and no entry before it.
type DrillEntry struct {
	Host        string   `yaml:"host"`
	Environment string   `yaml:"environment"`
	TimeZone    string   `yaml:"time_zone,omitempty"`
	Jitter      Duration `yaml:"jitter,omitempty"`
	CatchUp     Duration `yaml:"catch_up"`
	RTO         Duration `yaml:"rto,omitempty"`
	Drill       `yaml:",inline"`
	Drift       *Drift `yaml:"drift,omitempty"`
}

// Name is how commands and reports name the entry: web-*/web, or for an environment
// of this host web.
func (d *DrillEntry) Name() string {
	if d.Host == "" {
		return d.Environment
	}
	return d.Host + "/" + d.Environment
}

// Matches reports whether the entry is for an environment of a host.
func (d *DrillEntry) Matches(host, environment string) bool {
	h, _ := path.Match(d.Host, host)
	e, _ := path.Match(d.Environment, environment)
	return h && e
}

// AllDrills are the drills of this host's environments, in the order of their names,
// for which Host is empty, and after them those of Drills.
func (c *Config) AllDrills() (all []*DrillEntry) {
	for _, name := range c.EnvironmentNames() {
		if e := c.Environments[name]; e != nil && e.Drill != nil {
			all = append(all, &DrillEntry{Environment: name, TimeZone: e.TimeZone, Jitter: e.Jitter, CatchUp: e.CatchUp, RTO: e.RTO, Drill: *e.Drill})
		}
	}
	for i := range c.Drills {
		all = append(all, &c.Drills[i])
	}
	return all
}

// DrillOf is the drill of an environment of a host, and whether the configuration has
// one; otherwise it is a restore without probes. own is this machine as a host.
func (c *Config) DrillOf(own, host, environment string) (d *DrillEntry, configured bool) {
	for _, d := range c.AllDrills() {
		if d.Host != "" && d.Matches(host, environment) || d.Host == "" && host == own && d.Environment == environment {
			return d, true
		}
	}
	d = &DrillEntry{Drill: Drill{Snapshot: "latest"}}
	if e := c.Environments[environment]; e != nil && host == own {
		d.RTO = e.RTO
	}
	return d, false
}

// DrillsOnly reports whether this machine captures nothing and drills for others.
func (c *Config) DrillsOnly() bool { return len(c.Environments) == 0 && len(c.Drills) > 0 }

func (c *Config) fillDrills(given func(keyPath) bool) {
	for i := range c.Drills {
		d := &c.Drills[i]
		if d.TimeZone == "" {
			d.TimeZone = "Local"
		}
		if d.CatchUp == 0 && !given(keyPath{"drills"}.item(i).child("catch_up")) {
			d.CatchUp = Duration(24 * time.Hour)
		}
		d.fill()
	}
}

func (v *validator) drills(drills []DrillEntry) {
	seen := map[string]bool{}
	for i := range drills {
		d, key := &drills[i], keyPath{"drills"}.item(i)
		for _, p := range []struct{ key, pattern, example string }{{"host", d.Host, "web-*"}, {"environment", d.Environment, "web"}} {
			if _, err := path.Match(p.pattern, ""); err != nil || p.pattern == "" || len(p.pattern) > 63 {
				v.addf(key.child(p.key), "%q is no pattern of names such as %s: at most 63 characters, * for any, ? for one", p.pattern, p.example)
			}
		}
		if seen[d.Name()] {
			v.addf(key, "there is an entry of %s already, which is the one that counts", d.Name())
		}
		seen[d.Name()] = true
		v.zone(d.TimeZone, key.child("time_zone"))
		v.drill(&d.Drill, d.TimeZone, key)
		v.drift(d.Drift, d.TimeZone, key.child("drift"))
	}
}

// drills warns of schedules that this machine cannot keep.
func (v adviser) drills(c *Config) {
	if c.Identity != "" {
		return
	}
	for _, d := range c.AllDrills() {
		if key := (keyPath{"environments", d.Environment, "drill", "schedule"}); d.Host == "" && d.Schedule != "" {
			v.advicef(key, "this host has no identity, and a drill reads what was captured: it has no effect here. Drills of hosts that only write are configured where the identity is, below drills")
		}
	}
	if len(c.Drills) > 0 {
		v.advicef(keyPath{"drills"}, "a drill host needs an identity: name its file with identity, or nothing is drilled")
	}
}
