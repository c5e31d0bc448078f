package configs

import (
	"cmp"
	"path"
	"slices"
	"time"
)

// Switch is how the generations of an environment go live, or without a root what a patch
// does around its command.
type Switch struct {
	Method      string   `yaml:"method"` // link or exchange
	Watch       Duration `yaml:"watch"`  // how long the probes must pass; 0 asks them once
	Trial       Duration `yaml:"trial"`  // after which it goes back unless committed
	Confirm     string   `yaml:"confirm"`
	Stop        []Hook   `yaml:"stop,omitempty"`
	Start       []Hook   `yaml:"start,omitempty"`
	AfterSwitch []Hook   `yaml:"after_switch,omitempty"`
	Seal        bool     `yaml:"seal"`
}

// Data is a path below the root that programs change while they run.
type Data struct {
	Path string `yaml:"path"`
	// Policy is carry (the same for all generations), snapshot-first (so, and a snapshot
	// before each switch) or restore (part of each generation).
	Policy string `yaml:"policy"`
}

// Carried reports whether all generations have the same.
func (d *Data) Carried() bool { return d.Policy != "restore" }

// Carried are the paths of carried data, below the root.
func (e *Environment) Carried() (paths []string) {
	for _, d := range e.Data {
		if e.Root != "" && d.Carried() {
			paths = append(paths, d.Path)
		}
	}
	return paths
}

// Generations is how many of them are kept on the disk, the live one included.
type Generations struct {
	Keep Count `yaml:"keep"`
}

// DefaultSwitch is that of an environment whose configuration has none.
func DefaultSwitch() *Switch {
	return &Switch{Confirm: "none", Watch: Duration(time.Minute), Trial: Duration(10 * time.Minute)}
}

// fillSwitch gives an environment with a root its defaults.
func (e *Environment) fillSwitch(given func(key string) bool) {
	if e.Root == "" && e.Switch == nil {
		return
	}
	d := DefaultSwitch()
	s := cmp.Or(e.Switch, d)
	e.Switch = s
	s.Confirm = cmp.Or(s.Confirm, d.Confirm)
	if s.Watch == 0 && !given("watch") {
		s.Watch = d.Watch
	}
	s.Trial = cmp.Or(s.Trial, d.Trial)
	if e.Root == "" {
		return
	}
	s.Method = cmp.Or(s.Method, "link")
	e.Generations = cmp.Or(e.Generations, &Generations{})
	e.Generations.Keep = cmp.Or(e.Generations.Keep, 3)
}

// minGenerations are the live one and the one before.
const minGenerations = 2

func (v *validator) generations(e *Environment, key keyPath) {
	if e.Root == "" {
		s := cmp.Or(e.Switch, &Switch{})
		const takesRoot = "take root: the directory whose versions are switched"
		if e.Data != nil || e.Generations != nil {
			v.addf(key, "data and generations "+takesRoot)
		}
		if s.Method != "" || s.Seal {
			v.addf(key.child("switch"), "method and seal "+takesRoot)
		}
		v.switching(e.Switch, key.child("switch"))
		return
	}
	v.absolute(e.Root, key.child("root"))
	switch {
	case path.Clean(e.Root) != e.Root || e.Root == "/":
		v.addf(key.child("root"), "write it as a plain path of a directory, such as /srv/app")
	case !slices.ContainsFunc(e.Sources, func(s Source) bool { return s.Path == e.Root }):
		v.addf(key.child("root"), "%q is no source of the environment: add {path: %[1]s} to its sources", e.Root)
	}
	s, k := e.Switch, key.child("switch")
	if s == nil || e.Generations == nil {
		return // not filled in
	}
	if s.Method != "link" && s.Method != "exchange" {
		v.addf(k.child("method"), "%q is neither link nor exchange", s.Method)
	}
	if s.Seal && s.Method == "exchange" {
		v.addf(k.child("seal"), "a sealed directory cannot change places: use method: link, or leave seal out")
	}
	v.switching(s, k)
	if e.Generations.Keep < minGenerations {
		v.addf(key.child("generations", "keep"), "%d is too few: the live one and the one before are always kept", e.Generations.Keep)
	}
	for i, d := range e.Data {
		v.data(&d, e.Data[:i], key.child("data").item(i))
	}
}

// switching validates what is around a switch, or a patch.
func (v *validator) switching(s *Switch, k keyPath) {
	if s == nil || s.Confirm == "" {
		return // not filled in
	}
	if s.Confirm != "none" && s.Confirm != "external" {
		v.addf(k.child("confirm"), "%q is neither none nor external", s.Confirm)
	}
	if s.Trial <= s.Watch {
		v.addf(k.child("trial"), "%v is not longer than watch, %v: nothing could be committed before it ends", s.Trial, s.Watch)
	}
	v.hooks(s.Stop, k.child("stop"))
	v.hooks(s.Start, k.child("start"))
	v.hooks(s.AfterSwitch, k.child("after_switch"))
}

func (v *validator) data(d *Data, before []Data, key keyPath) {
	k := key.child("path")
	if !isPlain(d.Path) {
		v.addf(k, "%q is not a plain path below root, such as var/lib/app", d.Path)
	}
	switch d.Policy {
	case "carry", "snapshot-first", "restore":
	default:
		v.addf(key.child("policy"), "%q is none of carry, snapshot-first and restore", d.Policy)
	}
	for _, other := range before {
		if isWithin(d.Path, other.Path) || isWithin(other.Path, d.Path) {
			v.addf(k, "%q and %q are in each other's way", d.Path, other.Path)
		}
	}
}
