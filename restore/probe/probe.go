// Package probe asks a restored tree questions: is a file there, does a database
// pass its integrity check, does a service answer. It has two ends. Serve runs in
// a cell (package isolate), in a process that holds no identity, key or
// credential; it starts services, and parses and runs what is in the tree. Client
// is the end that decides, and takes nothing from the cell but bounded answers.
//
// A probe that could not run was not tested: it never passes. Probes of which
// Kind.Outside is true are evaluated by this program on files as they were
// restored, in a cell in which no program of the tree runs; the others ask
// programs of the tree, which can answer what they like.
package probe

import (
	"context"
	"time"

	"knowngood/configs"
	"knowngood/storage/attest"
)

// Place is the process in which probes of a kind run.
type Place int

const (
	Inside   Place = iota // beside the services, asking programs of the tree
	Verified              // in a cell without programs, on the files as restored
	Scanner               // in a cell of its own, by a program of this machine
	Restorer              // in the process that restored, which parses nothing of the tree
)

// Kind is what probes of one key of the configuration do.
type Kind struct {
	Place Place
	// Parses means that it interprets content, so that it gets a cell of its own.
	Parses bool
	// Proves reports whether a pass of the probe shows that data is right, so that
	// it can prove the level probed.
	Proves func(*configs.Probe) bool
	// run asks; nil for what the restoring process does.
	run func(context.Context, *env, *configs.Probe) Answer
}

// Outside reports whether this program evaluates the probe, not one of the tree.
func (k *Kind) Outside() bool { return k.Place != Inside }

// KindOf is the kind of a probe.
func KindOf(p *configs.Probe) Kind { return kinds()[p.Kind()] }

func always(*configs.Probe) bool { return true }

func never(*configs.Probe) bool { return false }

// kinds is the table of all kinds; docs/SECURITY.md repeats it.
func kinds() map[string]Kind {
	return map[string]Kind{
		"file": {Place: Verified, run: file, Proves: func(p *configs.Probe) bool {
			return p.File.NotEmpty || p.File.SHA256 != "" || p.File.NewerThan != 0
		}},
		"canary": {Place: Verified, run: canary, Proves: always},
		"sqlite": {Place: Verified, Parses: true, run: sqlite, Proves: always},
		"postgres": {Place: Inside, Parses: true, run: postgres, Proves: func(p *configs.Probe) bool {
			return len(p.Postgres.Queries) > 0
		}},
		"scan":    {Place: Scanner, run: scan, Proves: never},
		"tree":    {Place: Restorer, Proves: never},
		"command": {Place: Inside, run: program, Proves: always},
		"http": {Place: Inside, run: web, Proves: func(p *configs.Probe) bool {
			return p.HTTP.Contains != ""
		}},
		"tcp": {Place: Inside, run: port, Proves: never},
	}
}

// Causes why something was not tested, in fixed words.
const (
	NoProgram   = "its program does not exist here"
	NoUser      = "its user does not exist here"
	NoRun       = "no program can run here"
	NoRoom      = "limits.disk is too small for it"
	NoExtension = "the database needs an extension of SQLite that is not here"
	NoService   = "a service is missing"
	NoCell      = "the cell of programs ended at an earlier probe"
	NotAsked    = "the restore failed, or its isolation"
)

// Answer is what a probe, or the start of a service, came to.
type Answer struct {
	Status attest.Status
	Cause  string // why it was not tested: one of the constants, or the client's words
	Detail string // what was found; it may quote the tree
	Output string // of programs: the end of it
}

// maxOutput is how much of a program's output is kept, and maxDetail of a text,
// in bytes.
const (
	maxOutput = 16 << 10
	maxDetail = 1 << 10
)

func passed(detail string) Answer { return Answer{Status: attest.Passed, Detail: detail} }

func failed(detail string) Answer { return Answer{Status: attest.Failed, Detail: detail} }

func notTested(cause, detail string) Answer {
	return Answer{Status: attest.NotTested, Cause: cause, Detail: detail}
}

// hello is the first line to a cell: in which directory paths are looked up.
type hello struct{ Root string }

// request is what the deciding end asks for: to start a service, or to run a probe.
type request struct {
	ID      uint64
	Service *configs.Service `json:",omitempty"`
	Probe   *configs.Probe   `json:",omitempty"`
	Again   bool             `json:",omitempty"` // the service was started: is it still well?
	Begun   time.Time        // when the snapshot was begun
}

// reply answers one request.
type reply struct {
	ID     uint64
	Answer Answer
}

// env is where probes of a cell run.
type env struct {
	root     *root
	begun    time.Time
	services map[string]*running // that were started, by their names
}
