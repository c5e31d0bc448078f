package configs

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/coreos/go-systemd/v22/unit"
)

// Scale is how many equal instances of an environment run, and how they are started,
// probed and retired.
type Scale struct {
	Dir string `yaml:"dir"` // with the instances: 1, 2, and so on
	// Min and Max bound what the target asks for.
	Min    Count        `yaml:"min"`
	Max    Count        `yaml:"max"`
	Target *ScaleTarget `yaml:"target,omitempty"` // nil: only by hand
	// Up and Down are how many are added or retired at once, at most; 0 is any number.
	Up       Count    `yaml:"up,omitempty"`
	Down     Count    `yaml:"down,omitempty"`
	Cooldown Duration `yaml:"cooldown"`
	Overlay  bool     `yaml:"overlay,omitempty"`

	// Commands for one instance; words of them may have placeholders (Fill).
	Start        []Hook `yaml:"start,omitempty"`
	Stop         []Hook `yaml:"stop,omitempty"`
	BeforeRetire []Hook `yaml:"before_retire,omitempty"`

	Probes  []Probe  `yaml:"probes,omitempty"` // empty: those of the drill
	Timeout Duration `yaml:"timeout"`          // until the probes of a new instance pass
}

// ScaleTarget is where the wanted number of instances is read: what a command prints, or
// what a URL answers.
type ScaleTarget struct {
	Command []string `yaml:"command,omitempty"`
	HTTP    string   `yaml:"http,omitempty"`
	Timeout Duration `yaml:"timeout,omitempty"` // default: a minute
	Outside bool     `yaml:"outside,omitempty"` // of a command
}

// Placeholders replaces what stands for an instance in the words of commands and probes.
func Placeholders(number int, path, unit string) *strings.Replacer {
	return strings.NewReplacer("{number}", strconv.Itoa(number), "{path}", path, "{unit}", unit)
}

// InstanceUnit is the systemd unit that runs an instance from the tree at a path.
func InstanceUnit(path string) string {
	return "knowngood-instance@" + unit.UnitNamePathEscape(path) + ".service"
}

// maxUnit is how long the name of a unit of systemd can be.
const maxUnit = 255

// Fill returns a hook with its placeholders replaced.
func (h Hook) Fill(r *strings.Replacer) Hook {
	h.Command = slices.Clone(h.Command)
	for i := range h.Command {
		h.Command[i] = r.Replace(h.Command[i])
	}
	return h
}

// Fill returns a probe with its placeholders replaced.
func (p Probe) Fill(r *strings.Replacer) Probe {
	p.Command = Hook{Command: p.Command}.Fill(r).Command
	p.TCP = r.Replace(p.TCP)
	if p.File != nil {
		f := *p.File
		f.Path = r.Replace(f.Path)
		p.File = &f
	}
	if p.HTTP != nil {
		h := *p.HTTP
		h.URL = r.Replace(h.URL)
		p.HTTP = &h
	}
	return p
}

// LiveProbes are those that can be asked of a service that runs on this machine.
func LiveProbes(probes []Probe) (live []Probe) {
	for _, p := range probes {
		switch p.Kind() {
		case "file", "http", "tcp", "command":
			live = append(live, p)
		}
	}
	return live
}

// fillScale gives an environment with instances its defaults.
func (e *Environment) fillScale(given func(key string) bool) {
	s := e.Scale
	if s == nil {
		return
	}
	if s.Min == 0 && !given("min") {
		s.Min = 1
	}
	if s.Cooldown == 0 && !given("cooldown") {
		s.Cooldown = Duration(2 * time.Minute)
	}
	s.Max, s.Timeout = cmp.Or(s.Max, max(s.Min, 1)), cmp.Or(s.Timeout, Duration(time.Minute))
	fillProbes(s.Probes)
}

// maxInstances bounds max: each instance is a line of the state, and has a directory.
const maxInstances = 1000

func (v *validator) scale(e *Environment, key keyPath) {
	s := e.Scale
	v.absolute(s.Dir, key.child("dir"))
	switch {
	case path.Clean(s.Dir) != s.Dir || s.Dir == "/" || strings.ContainsFunc(s.Dir, unicode.IsControl):
		v.addf(key.child("dir"), "write it as a plain path of a directory, such as /srv/instances/web")
	case e.Root != "" && (isWithin(s.Dir, e.Root) || isWithin(e.Root, s.Dir)), slices.ContainsFunc(e.Sources, func(x Source) bool {
		return x.Path != "" && x.Exclude == nil && isWithin(s.Dir, strings.TrimSuffix(x.Path, "/"))
	}):
		v.addf(key.child("dir"), "%q lies in what the environment captures: choose a directory beside it, or exclude it", s.Dir)
	}
	if longest := InstanceUnit(s.Dir + "/" + strconv.Itoa(int(s.Max)+1)); len(longest) > maxUnit {
		v.addf(key.child("dir"), "the systemd unit of an instance in it would have a name of %d bytes, and %d are the most: choose a shorter path, in which only letters, digits, _ and . count once", len(longest), maxUnit)
	}
	if s.Max > maxInstances || s.Min > s.Max {
		v.addf(key.child("max"), "%d is not between min, %d, and %d", s.Max, s.Min, maxInstances)
	}
	if t := s.Target; t != nil {
		switch {
		case count(t.Command != nil, t.HTTP != "") != 1:
			v.addf(key.child("target"), "it is a command or http: a URL")
		case t.Command != nil:
			v.command(t.Command, key.child("target"))
		case !isHTTP(t.HTTP):
			v.addf(key.child("target", "http"), "%q is not an http URL", redactURL(t.HTTP))
		}
		if t.Outside && t.HTTP != "" {
			v.addf(key.child("target"), "outside belongs to a command")
		}
	}
	v.hooks(s.Start, key.child("start"))
	v.hooks(s.Stop, key.child("stop"))
	v.hooks(s.BeforeRetire, key.child("before_retire"))
	if len(s.Probes) > maxAsked {
		v.addf(key.child("probes"), "%d probes are too many: the most is %d", len(s.Probes), maxAsked)
	}
	one := Placeholders(1, s.Dir+"/1", "instance")
	for i := range s.Probes {
		k, p := key.child("probes").item(i), s.Probes[i].Fill(one)
		if (askValidator{v}).probe(&p, k); p.Kind() != "" && LiveProbes([]Probe{p}) == nil {
			v.addf(k, "a probe of kind %s cannot be asked of what runs: use file, http, tcp or command", p.Kind())
		}
	}
}
