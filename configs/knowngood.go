package configs

import "slices"

// KnownGood is what makes a snapshot of an environment known-good.
type KnownGood struct {
	Require      string   `yaml:"require,omitempty"` // restored or probed; empty for what the probes of the drill give
	NotOlderThan Duration `yaml:"not_older_than,omitempty"`
	AllowPartial bool     `yaml:"allow_partial,omitempty"`
}

// provable are the levels that a configuration can require.
var provable = []string{"restored", "probed"}

// Required is the level that makes a snapshot known-good: the configured one, else
// probed where the drill has probes and restores all, and restored where not.
func (e *Environment) Required() string {
	switch {
	case e.KnownGood != nil && e.KnownGood.Require != "":
		return e.KnownGood.Require
	case e.Drill != nil && len(e.Drill.Probes) > 0 && !e.Drill.sampled():
		return "probed"
	}
	return "restored"
}

func (v *validator) knownGood(e *Environment, key keyPath) {
	k := e.KnownGood
	if k == nil {
		return
	}
	if k.Require != "" && !slices.Contains(provable, k.Require) {
		v.addf(key.child("require"), "%q is no level that can be required: restored or probed", k.Require)
	}
	switch {
	case k.Require != "probed" || e.Drill == nil:
	case e.Drill.sampled():
		v.addf(key.child("require"), "the drill of this environment restores a sample, which is never probed: remove sample from drill, or require restored")
	case len(e.Drill.Probes) == 0:
		v.addf(key.child("require"), "the drill of this environment has no probes, so nothing of it is ever probed: add probes to drill, or require restored")
	}
}
