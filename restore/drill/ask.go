package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"knowngood/configs"
	"knowngood/restore/isolate"
	"knowngood/restore/probe"
	"knowngood/snapshot/manifest"
	"knowngood/storage/attest"
)

// ask starts the services and runs the probes.
func (d *drill) ask(ctx context.Context) error {
	if err := d.phase(phaseIsolate, time.Now(), func() error { return d.isolate(ctx) }); err != nil {
		return err
	}
	if d.failed {
		d.skipAll()
		return nil
	}
	if len(d.o.Config.Services) > 0 {
		if err := d.phase(phaseServices, time.Now(), func() error { return d.services(ctx) }); err != nil {
			return err
		}
	}
	if len(d.o.Config.Probes) == 0 {
		return d.stillRun(ctx)
	}
	return d.phase(phaseProbes, time.Now(), func() error { return errors.Join(d.probes(ctx), d.stillRun(ctx)) })
}

// stillRun fails the services that have ended since they were started: what was
// asked of them before proves little.
func (d *drill) stillRun(ctx context.Context) error {
	for i := range d.o.Config.Services {
		p, answer := &d.rep.Result.Probes[i], &d.rep.Answers[i]
		if d.cells.ended || p.Status != attest.Passed {
			continue
		}
		a, err := d.cells.programs.client.Runs(ctx, &d.o.Config.Services[i])
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			a = probe.Answer{Status: attest.Failed, Detail: err.Error()}
			d.cells.drop(d.cells.programs)
		}
		if a.Status != attest.Passed {
			p.Status, answer.Detail, answer.Output = attest.Failed, "it was well at first: "+a.Detail, a.Output
		}
	}
	return nil
}

// isolate makes the cell in which programs of the tree run, where something of
// them is to run or the configuration demands it. A machine that cannot falls back
// to a cell that runs none.
func (d *drill) isolate(ctx context.Context) error {
	c := d.o.Config
	programs := len(c.Services) > 0
	for i := range c.Probes {
		programs = programs || probe.KindOf(&c.Probes[i]).Place == probe.Inside
	}
	if c.Isolation == isolate.Static || !programs && c.Isolation == "" {
		return nil
	}
	base, name, id, err := d.base(ctx)
	if err != nil {
		return err
	}
	d.cells.base = base
	unreachable := (*isolate.Unreachable)(nil)
	d.cells.programs, err = d.cells.start(ctx, isolate.Namespaces, d.tree, base)
	switch {
	case errors.As(err, &unreachable) && c.Isolation == "":
		d.unproven(whyNoPrograms, unreachable.Why)
		return nil
	case errors.As(err, &unreachable):
		d.fail(whyRung, unreachable.Why)
		return nil
	case err != nil:
		return err
	}
	d.rep.Result.Isolation.Rung, d.rep.Result.Isolation.Base, d.rep.Result.Isolation.BaseID = isolate.Namespaces, name, id
	d.cells.prove(d.cells.programs)
	return nil
}

// loaders are where a tree has what starts its programs.
var loaders = []string{"/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-x86_64.so.1", "/lib/ld-musl-aarch64.so.1", "/lib/ld-linux-armhf.so.3", "/lib64/ld64.so.2", "/lib/ld64.so.1"}

// base is what lies beneath the restored tree: how isolate names it, how the
// result does, and the ID of a snapshot.
func (d *drill) base(ctx context.Context) (beneath, name, id string, err error) {
	name = d.o.Config.Base
	if d.o.Base != nil {
		beneath, err = d.restoreBase(ctx)
		s := d.o.Base.Snapshot
		return beneath, s.Host + "/" + s.Ref(), fmt.Sprintf("%x", s.ID), err
	}
	if name == "" {
		name = "host"
		for _, l := range loaders {
			if probe.Exists(d.tree, l) && probe.Exists(d.tree, "/bin/sh") {
				name = "none"
			}
		}
	}
	return name, name, "", nil
}

// services starts the services, each when the one before it is ready. After one
// that does not run no other is started.
func (d *drill) services(ctx context.Context) error {
	for i := range d.o.Config.Services {
		s := &d.o.Config.Services[i]
		p := attest.Probe{Name: s.Name, Kind: "service", Required: true}
		if d.cells.programs == nil {
			d.skip(p, probe.NoRun)
			continue
		}
		if d.missing {
			d.skip(p, probe.NoService)
			continue
		}
		started := time.Now()
		a, err := d.cells.programs.client.Start(ctx, s)
		if err := d.note(ctx, p, started, d.cells.programs, a, err); err != nil {
			return err
		}
		d.missing = a.Status != attest.Passed
	}
	return nil
}

// probes runs the probes in their order.
func (d *drill) probes(ctx context.Context) error {
	for i := range d.o.Config.Probes {
		p := &d.o.Config.Probes[i]
		kind := probe.KindOf(p)
		r := recorded(p, &kind)
		started := time.Now()
		if kind.Place == probe.Restorer {
			a, err := d.listed(ctx, p)
			if err != nil {
				return err
			}
			d.add(r, started, a)
			continue
		}
		c, err := d.cells.of(ctx, p, kind)
		switch why := (*skipped)(nil); {
		case errors.As(err, &why):
			d.skip(r, why.cause)
			continue
		case err != nil:
			return err
		}
		a, err := c.client.Probe(ctx, p, d.o.Tree.Snapshot.Body.Started)
		if err := d.note(ctx, r, started, c, a, err); err != nil {
			return err
		}
	}
	return nil
}

// listed compares a part of the tree with the list of files.
func (d *drill) listed(ctx context.Context, p *configs.Probe) (probe.Answer, error) {
	share := configs.Percent(100)
	if p.Tree.Sample != nil {
		share = *p.Tree.Sample
	}
	under := ""
	if p.Tree.Path != "" {
		met, err := follow(ctx, d.o.Tree, p.Tree.Path)
		if err != nil {
			return probe.Answer{}, err
		}
		under = met[len(met)-1]
	}
	if e, err := d.o.Tree.Find(ctx, under); err != nil || e == nil && under != "" {
		return probe.Answer{Status: attest.Failed, Detail: "the snapshot does not have it"}, err
	}
	n, where, err := d.differences(ctx, under, share)
	if err != nil || n > 0 {
		return probe.Answer{Status: attest.Failed, Detail: where}, err
	}
	return probe.Answer{Status: attest.Passed, Detail: "as the snapshot lists it"}, nil
}

// note records an answer; err is why the cell gave none, which ends it.
func (d *drill) note(ctx context.Context, p attest.Probe, started time.Time, c *cell, a probe.Answer, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		a = probe.Answer{Status: attest.Failed, Detail: err.Error()}
		if text := c.cell.Stderr(); text != "" {
			a.Output = text
		}
		d.cells.drop(c)
	}
	if u := c.cell.Usage(); a.Status == attest.Failed && (u.OOMKills > 0 || u.ProcessLimit > 0) {
		a.Detail += fmt.Sprintf(" (so far in the cell: %d processes killed for want of memory, %d times no further process was allowed; see limits)", u.OOMKills, u.ProcessLimit)
	}
	d.add(p, started, a)
	return nil
}

func (d *drill) add(p attest.Probe, started time.Time, a probe.Answer) {
	p.Status, p.Cause, p.Took = a.Status, a.Cause, time.Since(started)
	d.rep.Result.Probes = append(d.rep.Result.Probes, p)
	d.rep.Answers = append(d.rep.Answers, Answer{Name: p.Name, Detail: a.Detail, Output: a.Output})
}

func (d *drill) skip(p attest.Probe, cause string) {
	d.add(p, time.Now(), probe.Answer{Status: attest.NotTested, Cause: cause})
}

// skipAll records that nothing was asked.
func (d *drill) skipAll() {
	for _, s := range d.o.Config.Services {
		d.skip(attest.Probe{Name: s.Name, Kind: "service", Required: true}, probe.NotAsked)
	}
	for i := range d.o.Config.Probes {
		p := &d.o.Config.Probes[i]
		kind := probe.KindOf(p)
		d.skip(recorded(p, &kind), probe.NotAsked)
	}
}

// recorded is a probe as the result has it, before it has an answer.
func recorded(p *configs.Probe, kind *probe.Kind) attest.Probe {
	return attest.Probe{Name: p.Name, Kind: p.Kind(), Required: *p.Required, Outside: kind.Outside(), Proves: kind.Proves(p)}
}

// withFiles puts what a scanner needs besides its program beside the restored tree, in the
// place of what an earlier scanner needed. Links that were copied lead nowhere else.
func withFiles(outer string, paths []string) error {
	root, err := os.OpenRoot(outer)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, p := range paths {
		to := strings.Trim(p, "/")
		if tree := strings.Trim(probe.TreeInScan, "/"); manifest.Within(to, tree) || manifest.Within(tree, to) {
			return fmt.Errorf("%s has the place of the restored tree: put it elsewhere", p)
		}
		err := errors.Join(root.RemoveAll(to), root.MkdirAll(filepath.Dir(to), 0o755))
		if err != nil {
			return err
		}
		st, err := os.Stat(p)
		switch {
		case err != nil:
			return err
		case st.IsDir():
			err = os.CopyFS(filepath.Join(outer, to), os.DirFS(p))
		default:
			var b []byte
			if b, err = os.ReadFile(p); err == nil {
				err = root.WriteFile(to, b, 0o644)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
