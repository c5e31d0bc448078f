package configs

// Drift is a comparison with the known-good state, on a schedule: of an environment's live
// tree or, on a drill host, of the newest snapshot.
type Drift struct {
	Schedule string   `yaml:"schedule,omitempty"`
	Content  bool     `yaml:"content,omitempty"` // read files whose stat shows no difference, too
	Ignore   []string `yaml:"ignore,omitempty"`  // patterns of what changes all the time
}

// compares reports whether this host has what the live tree of an environment can be
// compared with: generations, or an identity that reads snapshots.
func (c *Config) compares(e *Environment) bool { return e.Root != "" || c.Identity != "" }

// AllDrifts are the entries of AllDrills that are compared, with a schedule or without, and
// environments of this host that are not drilled.
func (c *Config) AllDrifts() (all []*DrillEntry) {
	for _, name := range c.EnvironmentNames() {
		if e := c.Environments[name]; e != nil && e.Drift != nil && c.compares(e) {
			all = append(all, &DrillEntry{Environment: name, TimeZone: e.TimeZone, Jitter: e.Jitter, CatchUp: e.CatchUp, Drift: e.Drift})
		}
	}
	for i := range c.Drills {
		if c.Drills[i].Drift != nil && c.Identity != "" {
			all = append(all, &c.Drills[i])
		}
	}
	return all
}

// IgnoredOf are the patterns that a comparison of an environment of a host leaves out. own
// is this machine as a host.
func (c *Config) IgnoredOf(own, host, environment string) []string {
	if e := c.Environments[environment]; e != nil && host == own {
		if e.Drift == nil {
			return nil
		}
		return e.Drift.Ignore
	}
	if d := c.DriftOf(host, environment); d != nil {
		return d.Drift.Ignore
	}
	return nil
}

// DriftOf is the first of Drills that has a comparison of an environment of a host; nil for
// none.
func (c *Config) DriftOf(host, environment string) *DrillEntry {
	for i := range c.Drills {
		if d := &c.Drills[i]; d.Drift != nil && d.Matches(host, environment) {
			return d
		}
	}
	return nil
}

func (v *validator) drift(d *Drift, zone string, key keyPath) {
	if d == nil {
		return
	}
	if d.Schedule != "" {
		v.schedule(d.Schedule, zone, key.child("schedule"))
	}
	v.patterns(d.Ignore, key.child("ignore"))
}
