package drill

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"time"

	"knowngood/configs"
	"knowngood/restore"
	"knowngood/restore/isolate"
	"knowngood/restore/probe"
	"knowngood/snapshot"
)

// cell is a running cell and the way to ask it.
type cell struct {
	cell   *isolate.Cell
	client *probe.Client
}

// cells are those of one drill: one in which programs of the tree run, one in
// which files are read as they were restored, and further ones for probes that
// parse, so that what one of them reads cannot change the answer of another.
type cells struct {
	drill    *drill
	base     string // of programs
	programs *cell
	reader   *cell
	others   []*cell
	made     int
	ids      []uint32 // of Spec.IDs; nil when they are not known yet
	ended    bool     // programs answers no more
}

// skipped is why a probe has no cell.
type skipped struct{ cause string }

func (s *skipped) Error() string { return s.cause }

// of is the cell in which a probe runs.
func (c *cells) of(ctx context.Context, p *configs.Probe, kind probe.Kind) (*cell, error) {
	d := c.drill
	switch {
	case kind.Place == probe.Inside && c.programs == nil:
		return nil, &skipped{probe.NoRun}
	case kind.Place == probe.Inside && kind.Parses:
		return c.other(ctx, isolate.Namespaces, d.tree, c.base)
	case kind.Place == probe.Inside && c.ended:
		return nil, &skipped{probe.NoCell}
	case kind.Place == probe.Inside && d.missing:
		return nil, &skipped{probe.NoService}
	case kind.Place == probe.Inside:
		return c.programs, nil
	case kind.Place == probe.Scanner:
		return c.scanner(ctx, p)
	case kind.Parses:
		return c.other(ctx, isolate.Static, d.tree, "")
	}
	if c.reader == nil {
		reader, err := c.start(ctx, isolate.Static, d.tree, "")
		if err != nil {
			return nil, err
		}
		c.reader = reader
		c.proveStatic(reader)
	}
	return c.reader, nil
}

// scanner is a cell with this machine's programs, in which the restored tree is
// but a directory.
func (c *cells) scanner(ctx context.Context, p *configs.Probe) (*cell, error) {
	outer := filepath.Dir(c.drill.tree)
	if c.drill.o.Config.Isolation == isolate.Static {
		return nil, &skipped{probe.NoRun}
	}
	if err := withFiles(outer, p.Scan.With); err != nil {
		return nil, fmt.Errorf("probe %s: %w", p.Name, err)
	}
	cell, err := c.other(ctx, isolate.Namespaces, outer, "host")
	if unreachable := (*isolate.Unreachable)(nil); errors.As(err, &unreachable) {
		return nil, &skipped{probe.NoRun}
	}
	return cell, err
}

// other is a cell for one probe; the one before it ends.
func (c *cells) other(ctx context.Context, rung, tree, base string) (*cell, error) {
	for _, o := range c.others {
		if err := o.cell.Close(); err != nil {
			return nil, err
		}
	}
	c.others = nil
	cell, err := c.start(ctx, rung, tree, base)
	if err != nil {
		return nil, err
	}
	c.others = append(c.others, cell)
	if rung == isolate.Static {
		c.proveStatic(cell)
	}
	return cell, nil
}

// start starts a cell.
func (c *cells) start(ctx context.Context, rung, tree, base string) (*cell, error) {
	d := c.drill
	c.made++
	room, err := d.scratchDir(fmt.Sprintf("cell-%d", c.made))
	if err != nil {
		return nil, err
	}
	l := d.o.Config.Limits
	limits := isolate.Limits{Memory: int64(l.Memory), CPUs: float64(l.CPUs), Processes: int(l.Processes), Disk: int64(l.Disk), Nice: defaultNice}
	if limits.Memory == 0 {
		limits.Memory = defaultMemory
	}
	if limits.Disk == 0 {
		limits.Disk = defaultDisk
	}
	if l.Nice != nil {
		limits.Nice = int(*l.Nice)
	}
	if until, ok := ctx.Deadline(); ok {
		limits.Time = time.Until(until)
	}
	if rung == isolate.Namespaces && c.ids == nil {
		if c.ids, err = d.o.largeIDs(ctx); err != nil {
			return nil, err
		}
	}
	cl, err := isolate.Start(ctx, d.o.Cell, isolate.Spec{Rung: rung, Tree: tree, Base: base, Scratch: room, Limits: limits, IDs: c.ids})
	if err != nil {
		return nil, err
	}
	at := "/"
	if rung == isolate.Static {
		at = tree
	}
	client, err := probe.NewClient(cl.In(), cl.Out(), at)
	if err != nil {
		return nil, errors.Join(err, cl.Close())
	}
	return &cell{cl, client}, nil
}

// mostIDs is how many users and groups a cell is given beyond the usual ones.
const mostIDs = 1 << 12

// largeIDs are the users and groups of the snapshot, and of the one that lies beneath,
// that a cell has only if they are named: those beyond 65535, in ascending order.
func (o *Options) largeIDs(ctx context.Context) ([]uint32, error) {
	found := map[uint32]bool{}
	for _, tree := range []*snapshot.Tree{o.Tree, o.Base} {
		if tree == nil {
			continue
		}
		for e, err := range tree.Entries(ctx, "") {
			if err != nil {
				return nil, err
			}
			for _, id := range []uint32{e.UID, e.GID} {
				if id > math.MaxUint16 && len(found) < mostIDs {
					found[id] = true
				}
			}
		}
	}
	ids := slices.AppendSeq([]uint32{}, maps.Keys(found))
	slices.Sort(ids)
	return ids, ctx.Err()
}

// prove records what a cell proved.
func (c *cells) prove(of *cell) {
	i := &c.drill.rep.Result.Isolation
	proof := of.cell.Proof()
	i.Attempts, i.Refused, i.Limits = len(proof.Attempts), 0, proof.Limits
	for _, a := range proof.Attempts {
		if a.Refused {
			i.Refused++
		}
	}
}

// proveStatic does, where no programs run.
func (c *cells) proveStatic(of *cell) {
	if c.programs == nil && c.drill.rep.Result.Isolation.Attempts == 0 {
		c.prove(of)
	}
}

// drop ends a cell that answers no more; probes that need it are not tested.
func (c *cells) drop(of *cell) {
	_ = of.cell.Close() // close reports it again
	switch of {
	case c.programs:
		c.drill.missing, c.ended = true, true
	case c.reader:
		c.reader = nil
		c.others = append(c.others, of)
	}
}

// close ends all cells.
func (c *cells) close() (err error) {
	for _, o := range append(c.others, c.programs, c.reader) {
		if o != nil {
			err = errors.Join(err, o.cell.Close())
		}
	}
	return err
}

// restoreBase restores the snapshot that lies beneath, whole and verified.
func (d *drill) restoreBase(ctx context.Context) (string, error) {
	dir, err := d.scratchDir("base")
	if err != nil {
		return "", err
	}
	got, err := restore.Run(ctx, *d.options(d.o.Base, dir))
	if err == nil && got.Damaged {
		err = fmt.Errorf("the base %s: %w", d.o.Base.Snapshot.Ref(), got.Problems[0].Err)
	}
	if err == nil && got.Unlisted > 0 {
		err = fmt.Errorf("the base %s cannot be restored whole", d.o.Base.Snapshot.Ref())
	}
	return dir, err
}
