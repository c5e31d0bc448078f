// Package validation judges a configuration by those who will use it: the stores,
// the patterns of sources, notifications, and the rights on what root runs by it.
//
// It is the one validation: of config check, of the start and the reload of a
// daemon, of every other command.
package validation

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"knowngood/configs"
	"knowngood/daemon/notify"
	"knowngood/snapshot/filter"
	"knowngood/snapshot/live"
	"knowngood/storage/s3"
	"knowngood/storage/stores"
)

// Options qualify Load.
type Options struct {
	Version string // of the program
	// Repository and StateDir are given in place of those of the configuration;
	// empty: they are not.
	Repository string
	StateDir   string // absolute
	// Advise has what is missing or hardly meant looked for as well; see
	// configs.LoadOptions.
	Advise bool
}

// Load reads a configuration and validates it. What it takes a daemon can use;
// what it finds all the same is in Config.Findings. Errors are those of
// configs.Load.
func Load(path string, o Options) (*configs.Config, error) {
	return configs.Load(path, configs.LoadOptions{
		Judge: func(c *configs.Config, f configs.Findings) {
			if o.Advise {
				judgeLacks(c, f, o.Repository)
				judgeAbsent(c, f)
			}
			judgeUse(c, f)
			judgeRights(c, f, path)
		},
		Advise:  o.Advise,
		Forgive: func(c *configs.Config) bool { return takenEarlier(cmp.Or(o.StateDir, c.StateDir), o.Version, c.Sum) },
	})
}

// judgeLacks warns of what is missing, so that nothing is captured.
func judgeLacks(c *configs.Config, f configs.Findings, repository string) {
	if c.Empty {
		f.Add(configs.Advice, nil, "the file is empty, so nothing is captured: name a repository and environments")
		return
	}
	if c.Repository.URL == "" && repository == "" {
		f.Add(configs.Advice, []string{"repository", "url"}, "no repository is named, so nothing is captured: write file:///path or s3://bucket/prefix")
	}
	if len(c.Environments) == 0 && !c.DrillsOnly() {
		f.Add(configs.Advice, []string{"environments"}, "there are none, so nothing is captured")
	}
	for _, name := range c.EnvironmentNames() {
		env, key := c.Environments[name], []string{"environments", name}
		if env.Schedule == "" && env.RPO == 0 { // else the rpo is warned of
			f.Add(configs.Advice, key, "it has no schedule: snapshots are only taken by hand (knowngood snapshot %s); write one such as \"@every 1h\" to have the daemon take them", name)
		}
		if len(env.Hooks.Before) > 0 {
			continue // what they make is not there yet
		}
		for i, s := range env.Sources {
			if s.Path == "" {
				continue
			}
			if _, err := os.Lstat(s.Path); errors.Is(err, fs.ErrNotExist) {
				f.Add(configs.Advice, append(key[:2:2], "sources", strconv.Itoa(i), "path"), "%s does not exist: while that is so, every run fails", s.Path)
			}
		}
	}
}

// judgeAbsent warns of programs and files that the configuration names by their
// absolute paths, and that do not exist.
func judgeAbsent(c *configs.Config, f configs.Findings) {
	absent := func(path string, key []string, so string) {
		if !filepath.IsAbs(path) {
			return
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			f.Add(configs.Advice, key, "%s does not exist: while that is so, %s", path, so)
		}
	}

	for _, p := range programs(c) {
		absent(p.argv[0], p.key, "running it fails")
	}
	if e := c.Notify.Email; e != nil {
		absent(e.PasswordFile, []string{"notify", "email", "password_file"}, "no mail is sent")
	}
	for _, n := range c.EnvironmentNames() {
		d := c.Environments[n].Drill
		if d == nil {
			continue
		}
		for i, p := range d.Probes {
			key := []string{"environments", n, "drill", "probes", strconv.Itoa(i)}
			if p.Scan != nil && len(p.Scan.Command) > 0 {
				absent(p.Scan.Command[0], append(key[:len(key):len(key)], "scan", "command"), "the probe is not tested")
			}
			if p.Canary != nil {
				absent(p.Canary.ValueFile, append(key[:len(key):len(key)], "canary", "value_file"), "the probe is not tested")
			}
		}
	}
	absent(c.Identity, []string{"identity"}, "nothing can be read or restored with it (knowngood init makes it)")
}

// judgeUse has those who will use the configuration judge it.
func judgeUse(c *configs.Config, f configs.Findings) {
	if c.Repository.URL != "" {
		for _, err := range stores.Check(c.Repository.URL) {
			severity := configs.Invalid
			if errors.Is(err, s3.ErrBucketName) { // some servers have such buckets
				severity = configs.Unfit
			}
			f.Add(severity, []string{"repository", "url"}, "%v", err)
		}
	}

	for _, name := range c.EnvironmentNames() {
		for i, s := range c.Environments[name].Sources {
			if s.Path == "" {
				continue
			}
			if _, err := filter.Compile(s.Path, s.Include, s.Exclude); err != nil {
				f.Add(configs.Invalid, []string{"environments", name, "sources", strconv.Itoa(i)}, "%v", err)
			}
		}
	}

	judgePlaces(c, f)
	notify.Check(c.Notify, func(key []string, format string, args ...any) {
		f.Add(configs.Unfit, append([]string{"notify"}, key...), format, args...)
	})
}

// place is a directory whose content is replaced by what an environment does.
type place struct {
	environment, path, real string // real: free of links above it, as far as it exists
	key                     []string
}

// judgePlaces refuses roots, their generations and instances of one environment that lie
// in those of another: a switch of the one would replace the other.
func judgePlaces(c *configs.Config, f configs.Findings) {
	var others []place
	for _, name := range c.EnvironmentNames() {
		env, key := c.Environments[name], []string{"environments", name}
		var own []place
		add := func(path string, below ...string) {
			real := filepath.Clean(path)
			if parent, err := filepath.EvalSymlinks(filepath.Dir(real)); err == nil {
				real = filepath.Join(parent, filepath.Base(real))
			}
			own = append(own, place{name, path, real, slices.Concat(key, below)})
		}
		if env.Root != "" {
			add(env.Root, "root")
			add(filepath.Join(filepath.Dir(env.Root), live.DirName(env.Root)), "root")
		}
		if env.Scale != nil && env.Scale.Dir != "" {
			add(env.Scale.Dir, "scale", "dir")
		}

		for _, p := range own {
			if i := slices.IndexFunc(others, p.meets); i >= 0 {
				o := others[i]
				how := "contains " + o.path + " of"
				switch {
				case p.real == o.real:
					how = "is also used by"
				case strings.HasPrefix(p.real, o.real+"/"):
					how = "lies in " + o.path + " of"
				}
				f.Add(configs.Unfit, p.key, "%s %s environment %s: a switch of one would replace what is of the other. Give each a directory of its own", p.path, how, o.environment)
				break
			}
		}
		others = append(others, own...)
	}
}

// meets reports whether one of two places is the other, or lies in it.
func (p *place) meets(other place) bool {
	within := func(path, parent string) bool { return path == parent || strings.HasPrefix(path, parent+"/") }
	return within(p.real, other.real) || within(other.real, p.real)
}
