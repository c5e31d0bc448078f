package configs

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"time"
)

// Drill is a test restore into scratch space, with services started from the
// restored tree and probes.
type Drill struct {
	Schedule    string      `yaml:"schedule,omitempty"` // empty: by hand
	Snapshot    string      `yaml:"snapshot"`           // latest, unproven (the newest without a proof) or random
	Isolation   string      `yaml:"isolation,omitempty"`
	Base        string      `yaml:"base,omitempty"` // none, host, or a reference; empty: as the tree needs it
	MaxDuration Duration    `yaml:"max_duration,omitempty"`
	Limits      DrillLimits `yaml:"limits,omitempty"`
	Sample      *Percent    `yaml:"sample,omitempty"` // nil is all
	Services    []Service   `yaml:"services,omitempty"`
	Probes      []Probe     `yaml:"probes,omitempty"`
}

// leastMemory is what a cell needs for itself, twice.
const leastMemory = Size(32 << 20)

// DrillLimits are those of the programs of a tree; 0 is the default of the drill.
type DrillLimits struct {
	Memory    Size  `yaml:"memory,omitempty"`
	CPUs      Count `yaml:"cpus,omitempty"`
	Processes Count `yaml:"processes,omitempty"`
	Disk      Size  `yaml:"disk,omitempty"` // what they may write
	// Nice is how far other processes of the machine take precedence, up to 19; nil is 10.
	Nice *Count `yaml:"nice,omitempty"`
}

// Service is a program of the tree that probes ask. Paths are those of the
// snapshot.
type Service struct {
	Name    string   `yaml:"name"`
	Command []string `yaml:"command"`
	User    string   `yaml:"user,omitempty"`
	Data    []string `yaml:"data,omitempty"`
	Ready   *Ready   `yaml:"ready,omitempty"`
	Timeout Duration `yaml:"timeout"` // until it is ready
}

// Ready is how it shows that a service serves: by one of its fields.
type Ready struct {
	TCP     string     `yaml:"tcp,omitempty"`
	HTTP    *HTTPProbe `yaml:"http,omitempty"`
	File    string     `yaml:"file,omitempty"`
	Command []string   `yaml:"command,omitempty"`
}

// Probe is a question that the restored tree must answer. It has exactly one
// kind, which is one of the fields after Required.
type Probe struct {
	Name     string   `yaml:"name"`
	Timeout  Duration `yaml:"timeout"`
	Required *bool    `yaml:"required"` // never nil once defaults are filled in

	File     *FileProbe     `yaml:"file,omitempty"`
	Tree     *TreeProbe     `yaml:"tree,omitempty"`
	SQLite   *SQLiteProbe   `yaml:"sqlite,omitempty"`
	Postgres *PostgresProbe `yaml:"postgres,omitempty"`
	Canary   *CanaryProbe   `yaml:"canary,omitempty"`
	Scan     *ScanProbe     `yaml:"scan,omitempty"`
	Command  []string       `yaml:"command,omitempty"`
	HTTP     *HTTPProbe     `yaml:"http,omitempty"`
	TCP      string         `yaml:"tcp,omitempty"`

	// Of a command.
	User     string `yaml:"user,omitempty"`
	ExitCode Count  `yaml:"exit_code,omitempty"`
	Output   string `yaml:"output,omitempty"` // must be in what it prints
}

// Kind is the key that the probe has its kind by; empty when it has none, or
// several.
func (p *Probe) Kind() string {
	kind := ""
	for _, k := range []struct {
		name string
		set  bool
	}{
		{"file", p.File != nil}, {"tree", p.Tree != nil}, {"sqlite", p.SQLite != nil}, {"postgres", p.Postgres != nil}, {"canary", p.Canary != nil}, {"scan", p.Scan != nil},
		{"command", p.Command != nil}, {"http", p.HTTP != nil}, {"tcp", p.TCP != ""},
	} {
		switch {
		case k.set && kind != "":
			return ""
		case k.set:
			kind = k.name
		}
	}
	return kind
}

// Paths are those that the probe names: a sample restores them whole.
func (p *Probe) Paths() []string {
	switch p.Kind() {
	case "file":
		return []string{p.File.Path}
	case "sqlite":
		return []string{p.SQLite.File}
	case "postgres":
		return []string{cmp.Or(p.Postgres.Data, p.Postgres.Dump)}
	case "canary":
		return []string{p.Canary.Path}
	case "scan":
		return []string{cmp.Or(p.Scan.Path, "/")}
	case "command":
		return p.Command[:1]
	}
	return nil
}

// FileProbe looks at one file of the snapshot.
type FileProbe struct {
	Path      string   `yaml:"path"`
	Exists    *bool    `yaml:"exists,omitempty"` // nil is true
	NotEmpty  bool     `yaml:"not_empty,omitempty"`
	SHA256    string   `yaml:"sha256,omitempty"`
	NewerThan Duration `yaml:"newer_than,omitempty"` // before the snapshot was begun
}

// TreeProbe compares files, and the metadata of all that is below a path, with
// the list of files of the snapshot.
type TreeProbe struct {
	Path   string   `yaml:"path,omitempty"`   // empty is all
	Sample *Percent `yaml:"sample,omitempty"` // of the files; nil is all
}

// SQLiteProbe checks the integrity of a database, and what a query answers.
type SQLiteProbe struct {
	File     string `yaml:"file"`
	Query    string `yaml:"query,omitempty"`
	Expected `yaml:",inline"`
}

// Expected is what the first column of the first row must be.
type Expected struct {
	AtLeast *Number `yaml:"at_least,omitempty"`
	AtMost  *Number `yaml:"at_most,omitempty"`
	Equals  *Value  `yaml:"equals,omitempty"`
}

// Any reports whether anything is expected.
func (e *Expected) Any() bool { return e.AtLeast != nil || e.AtMost != nil || e.Equals != nil }

// PostgresProbe starts a server from a data directory, or loads a dump into a fresh
// one, and asks it.
type PostgresProbe struct {
	Data     string          `yaml:"data,omitempty"`
	Dump     string          `yaml:"dump,omitempty"`    // of pg_dump or pg_dumpall; plain ones may be compressed with gzip
	Bin      string          `yaml:"bin,omitempty"`     // directory of the programs; empty is found
	User     string          `yaml:"user"`              // of the system, who runs the server, and of the database, who asks
	Amcheck  *bool           `yaml:"amcheck,omitempty"` // nil is true for a data directory
	Database string          `yaml:"database"`          // that the queries are for
	Queries  []PostgresQuery `yaml:"queries,omitempty"`
}

// PostgresQuery is a query, and what it must answer.
type PostgresQuery struct {
	Query      string `yaml:"query"`
	AgreesWith string `yaml:"agrees_with,omitempty"` // another query, which must answer the same
	Expected   `yaml:",inline"`
}

// CanaryProbe looks for a known value, which is the whole content of a file.
type CanaryProbe struct {
	Path      string `yaml:"path"`
	ValueFile string `yaml:"value_file,omitempty"` // on the machine that drills
	SHA256    string `yaml:"sha256,omitempty"`     // of the value
}

// ScanProbe is a scanner of this machine, which gets the path of the restored
// tree as its last argument, and whose exit code decides.
type ScanProbe struct {
	Command []string `yaml:"command"`
	Path    string   `yaml:"path,omitempty"` // in the snapshot; empty is all
	With    []string `yaml:"with,omitempty"` // files of this machine that it needs besides its program
}

// HTTPProbe asks a service.
type HTTPProbe struct {
	URL      string `yaml:"url"`
	Status   Count  `yaml:"status"`
	Contains string `yaml:"contains,omitempty"`
}

// sampled reports whether the drill restores less than all.
func (d *Drill) sampled() bool { return d.Sample != nil && *d.Sample < 100 }

// fill gives a drill its defaults.
func (d *Drill) fill() {
	d.Snapshot = cmp.Or(d.Snapshot, "latest")
	for i := range d.Services {
		s := &d.Services[i]
		s.Timeout = cmp.Or(s.Timeout, Duration(time.Minute))
		if s.Ready != nil && s.Ready.HTTP != nil {
			s.Ready.HTTP.Status = cmp.Or(s.Ready.HTTP.Status, 200)
		}
	}
	fillProbes(d.Probes)
}

// fillProbes gives probes their defaults.
func fillProbes(probes []Probe) {
	for i := range probes {
		p := &probes[i]
		if p.Name == "" && p.Kind() != "" {
			p.Name = fmt.Sprintf("%s-%d", p.Kind(), i+1)
		}
		if p.Postgres != nil {
			p.Timeout = cmp.Or(p.Timeout, Duration(10*time.Minute))
			p.Postgres.User, p.Postgres.Database = cmp.Or(p.Postgres.User, "postgres"), cmp.Or(p.Postgres.Database, "postgres")
		}
		p.Timeout = cmp.Or(p.Timeout, Duration(30*time.Second))
		p.Required = cmp.Or(p.Required, new(true))
		if p.HTTP != nil {
			p.HTTP.Status = cmp.Or(p.HTTP.Status, 200)
		}
	}
}

// maxAsked is how many services and probes fit an attestation.
const maxAsked = 1000

func (v *validator) drill(d *Drill, zone string, key keyPath) {
	if d.Schedule != "" {
		v.schedule(d.Schedule, zone, key.child("schedule"))
	}
	switch d.Snapshot {
	case "latest", "unproven", "random":
	default:
		v.addf(key.child("snapshot"), "%q is none of latest, unproven and random", d.Snapshot)
	}
	switch d.Isolation {
	case "", "namespaces", "static":
	default:
		v.addf(key.child("isolation"), "%q is neither namespaces nor static", d.Isolation)
	}
	if b := d.Base; b != "" && b != "none" && b != "host" && !strings.Contains(b, "@") {
		v.addf(key.child("base"), "%q is neither none nor host, nor a reference such as debian@latest", b)
	}
	if m := d.Limits.Memory; m > 0 && m < leastMemory {
		v.addf(key.child("limits").child("memory"), "a cell does not start with so little: write %dMiB or more", leastMemory>>20)
	}
	if n := d.Limits.Nice; n != nil && *n > 19 {
		v.addf(key.child("limits").child("nice"), "%d is above 19, the most there is", *n)
	}
	if d.Sample != nil && *d.Sample == 0 {
		v.addf(key.child("sample"), "a sample of 0%% restores nothing: write 1%% or more")
	}
	if n := len(d.Services) + len(d.Probes); n > maxAsked {
		v.addf(key, "%d services and probes are too many: the most is %d", n, maxAsked)
	}
	seen := map[string]bool{}
	unique := func(n, what string, key keyPath) {
		switch {
		case !name.MatchString(n):
			v.addf(key, "%q is no name of a %s: %s", n, what, nameRule)
		case seen[what+n]:
			v.addf(key, "%q is a %s already", n, what)
		}
		seen[what+n] = true
	}
	for i := range d.Services {
		k := key.child("services").item(i)
		unique(d.Services[i].Name, "service", k.child("name"))
		askValidator{v}.service(&d.Services[i], k)
	}
	for i := range d.Probes {
		k := key.child("probes").item(i)
		if d.Probes[i].Name != "" {
			unique(d.Probes[i].Name, "probe", k.child("name"))
		}
		askValidator{v}.probe(&d.Probes[i], k)
	}
}

// askValidator checks services, and probes that ask them.
type askValidator struct{ *validator }

func (v askValidator) service(s *Service, key keyPath) {
	v.command(s.Command, key.child("command"))
	for i, p := range s.Data {
		v.inSnapshot(p, key.child("data").item(i))
	}
	if s.Ready == nil {
		return
	}
	r, k := s.Ready, key.child("ready")
	if n := count(r.TCP != "", r.HTTP != nil, r.File != "", r.Command != nil); n != 1 {
		v.addf(k, "it is one of tcp, http, file and command")
	}
	v.loopback(r.TCP, k.child("tcp"))
	if r.HTTP != nil {
		v.http(r.HTTP, k.child("http"))
	}
	if r.File != "" {
		v.inSnapshot(r.File, k.child("file"))
	}
	if r.Command != nil {
		v.command(r.Command, k.child("command"))
	}
}

func (v askValidator) probe(p *Probe, key keyPath) {
	kind := p.Kind()
	if kind == "" {
		v.addf(key, "a probe is one of file, tree, sqlite, postgres, canary, scan, command, http and tcp")
	}
	if kind != "command" && (p.User != "" || p.ExitCode != 0 || p.Output != "") {
		v.addf(key, "user, exit_code and output belong to a command")
	}
	if p.ExitCode > 255 {
		v.addf(key.child("exit_code"), "%d is no exit code: the most is 255", p.ExitCode)
	}
	k := key.child(kind)
	switch kind {
	case "file":
		v.inSnapshot(p.File.Path, k.child("path"))
		v.sha256(p.File.SHA256, k.child("sha256"))
		if f := p.File; f.Exists != nil && !*f.Exists && (f.NotEmpty || f.SHA256 != "" || f.NewerThan != 0) {
			v.addf(k, "what must not exist has no content")
		}
	case "tree":
		if p.Tree.Path != "" {
			v.inSnapshot(p.Tree.Path, k.child("path"))
		}
		if p.Tree.Sample != nil && *p.Tree.Sample == 0 {
			v.addf(k.child("sample"), "a sample of 0%% compares nothing: write 1%% or more")
		}
	case "sqlite":
		v.inSnapshot(p.SQLite.File, k.child("file"))
		if (p.SQLite.Query != "") != p.SQLite.Any() {
			v.addf(k, "a query goes with at_least, at_most or equals")
		}
	case "postgres":
		v.postgres(p.Postgres, k)
	case "canary":
		v.inSnapshot(p.Canary.Path, k.child("path"))
		v.sha256(p.Canary.SHA256, k.child("sha256"))
		if count(p.Canary.ValueFile != "", p.Canary.SHA256 != "") != 1 {
			v.addf(k, "a canary needs its value: value_file or sha256")
		} else if p.Canary.ValueFile != "" {
			v.absolute(p.Canary.ValueFile, k.child("value_file"))
		}
	case "scan":
		v.command(p.Scan.Command, k.child("command"))
		if p.Scan.Path != "" {
			v.inSnapshot(p.Scan.Path, k.child("path"))
		}
		for i, f := range p.Scan.With {
			v.inSnapshot(f, k.child("with").item(i))
		}
	case "command":
		v.command(p.Command, k)
	case "http":
		v.http(p.HTTP, k)
	case "tcp":
		v.loopback(p.TCP, k)
	}
}

func (v askValidator) postgres(p *PostgresProbe, key keyPath) {
	if count(p.Data != "", p.Dump != "") != 1 {
		v.addf(key, "name one of data, a data directory, and dump, a file")
	} else {
		v.inSnapshot(cmp.Or(p.Data, p.Dump), key)
	}
	if p.Bin != "" {
		v.inSnapshot(p.Bin, key.child("bin"))
	}
	if p.Dump != "" && p.Amcheck != nil && *p.Amcheck {
		v.addf(key.child("amcheck"), "loading a dump makes its indexes anew: amcheck is for data")
	}
	for i, q := range p.Queries {
		if q.Query == "" || !q.Any() && q.AgreesWith == "" {
			v.addf(key.child("queries").item(i), "it is a query, and at_least, at_most, equals or agrees_with")
		}
	}
}

// count is how many are true.
func count(set ...bool) (n int) {
	for _, s := range set {
		if s {
			n++
		}
	}
	return n
}

// inSnapshot checks a path of the original tree.
func (v *validator) inSnapshot(p string, key keyPath) {
	if v.absolute(p, key); path.IsAbs(p) && path.Clean(p) != p {
		v.addf(key, "write it as %q", path.Clean(p))
	}
}

func (v askValidator) sha256(s string, key keyPath) {
	if s != "" && (len(s) != 64 || strings.Trim(s, "0123456789abcdef") != "") {
		v.addf(key, "%q is no SHA-256: 64 digits and letters from a to f", s)
	}
}

func (v askValidator) http(p *HTTPProbe, key keyPath) {
	u, err := url.Parse(p.URL)
	if err != nil || !isHTTP(p.URL) {
		v.addf(key.child("url"), "%q is not an http URL", redactURL(p.URL))
		return
	}
	v.reached(u.Hostname(), key.child("url"))
	if p.Status < 100 || p.Status > 599 {
		v.addf(key.child("status"), "%d is no status of HTTP", p.Status)
	}
}

func (v askValidator) loopback(address string, key keyPath) {
	if address == "" {
		return
	}
	host, _, _ := net.SplitHostPort(address)
	if !isHostPort(address) {
		v.addf(key, "%q is not host:port", address)
		return
	}
	v.reached(host, key)
}

// reached checks that a host is one that exists in a cell.
func (v askValidator) reached(host string, key keyPath) {
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		v.addf(key, "%q is not reached in a drill, where there is no network but loopback: write 127.0.0.1", host)
	}
}
