package configs

import (
	"fmt"
	"time"
)

// longLock is what hardly anybody means: a lock in compliance mode cannot be
// taken back.
const longLock = Duration(10 * 365 * 24 * hour)

// Warnings are of what is not wrong, but hardly what was meant. They are for a
// configuration that is valid.
func (c *Config) Warnings() []string {
	var out []string
	if c.Repository.Lock.Keep > longLock {
		out = append(out, fmt.Sprintf("repository.lock.keep: nobody can delete what is written for %d years", time.Duration(c.Repository.Lock.Keep)/(365*24*hour)))
	}
	for _, n := range c.EnvironmentNames() {
		for _, w := range c.Environments[n].warnings() {
			out = append(out, "environments."+n+": "+w)
		}
		if c.Environments[n].Drill != nil && c.Identity == "" {
			out = append(out, "environments."+n+": a drill restores, and this host has no identity: drills can run only where one is configured")
		}
	}
	return out
}

func (e *Environment) warnings() []string {
	var out []string
	shortest, longest, ok := intervals(e.Schedule)
	if ok && e.RPO > 0 && Duration(longest) > e.RPO {
		out = append(out, fmt.Sprintf("rpo is shorter than the time between two runs (up to %s): it will be broken between them", longest))
	}
	if ok && e.Jitter >= Duration(shortest) {
		out = append(out, fmt.Sprintf("jitter is not shorter than the time between two runs (down to %s): a shorter one spreads hosts as well", shortest))
	}
	if e.Schedule == "" && e.RPO > 0 {
		out = append(out, "rpo without a schedule: nothing takes snapshots by itself")
	}
	for _, s := range e.Sources {
		for _, p := range e.Sources {
			if s.As != "" && p.Path != "" && p.Path != "/" && isWithin("/"+s.As, p.Path) {
				out = append(out, fmt.Sprintf("the output %q lies within the source %q: a file of that name there would be in its way", s.As, p.Path))
			}
		}
	}
	return out
}
