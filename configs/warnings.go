package configs

import (
	"cmp"
	"time"
)

// longLock is what hardly anybody means: a lock in compliance mode cannot be
// taken back.
const longLock = Duration(10 * 365 * 24 * hour)

// adviser warns of what is not wrong, but hardly what was meant, in a valid
// configuration.
type adviser struct{ *problems }

func (v adviser) advicef(key keyPath, format string, args ...any) {
	v.add(Advice, key, format, args...)
}

func (v adviser) config(c *Config) {
	if c.Repository.Lock.Keep > longLock {
		v.advicef(keyPath{"repository", "lock", "keep"}, "nobody can delete what is written for %d years", time.Duration(c.Repository.Lock.Keep)/(365*24*hour))
	}
	v.drills(c)
	for _, n := range c.EnvironmentNames() {
		e, key := c.Environments[n], keyPath{"environments", n}
		v.times(e, key)
		if e.Drift != nil && e.Drift.Schedule != "" && !c.compares(e) {
			v.advicef(key.child("drift", "schedule"), "without root and without an identity there is nothing here to compare with: it has no effect. Compare snapshots where the identity is, with drift below drills")
		}
		v.outputs(e.Sources, key)
		v.paths(e, key.child("drill"))
	}
}

func (v adviser) times(e *Environment, key keyPath) {
	shortest, longest, ok := intervals(e.Schedule)
	if ok && e.RPO > 0 && Duration(longest) > e.RPO {
		v.advicef(key.child("rpo"), "rpo is shorter than the time between two runs (up to %s): it will be broken between them", longest)
	}
	if ok && e.Jitter >= Duration(shortest) {
		v.advicef(key.child("jitter"), "jitter is not shorter than the time between two runs (down to %s): a shorter one spreads hosts as well", shortest)
	}
	if e.RTO > 0 && e.Drill == nil {
		v.advicef(key.child("rto"), "rto without drill: only drills measure it")
	}
	if e.Schedule == "" && e.RPO > 0 {
		v.advicef(key.child("rpo"), "rpo without a schedule: nothing takes snapshots by itself")
	}
}

func (v adviser) outputs(sources []Source, key keyPath) {
	for i, s := range sources {
		for _, p := range sources {
			if s.As != "" && p.Path != "" && p.Path != "/" && isWithin("/"+s.As, p.Path) {
				v.advicef(key.child("sources").item(i).child("as"), "the output %q lies within the source %q: a file of that name there would be in its way", s.As, p.Path)
			}
		}
	}
}

// paths warns of what a drill needs and no source captures.
func (v adviser) paths(e *Environment, key keyPath) {
	if e.Drill == nil {
		return
	}
	look := func(p string, key keyPath) {
		for _, s := range e.Sources {
			at := cmp.Or(s.Path, "/"+s.As)
			if at == "/" || isWithin(p, at) || p == "/" || isWithin(at, p) {
				return
			}
		}
		v.advicef(key, "no source of the environment captures %q: a drill does not find it", p)
	}
	for i, s := range e.Drill.Services {
		for j, p := range s.Data {
			look(p, key.child("services").item(i).child("data").item(j))
		}
	}
	for i := range e.Drill.Probes {
		// A program may be of what lies beneath; of a database the other files need not be there.
		if p := &e.Drill.Probes[i]; p.Command == nil && len(p.Paths()) > 0 {
			look(p.Paths()[0], key.child("probes").item(i).child(p.Kind()))
		}
	}
}
