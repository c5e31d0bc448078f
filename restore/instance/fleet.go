package instance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"knowngood/configs"
	"knowngood/restore/generation"
)

// together is how many instances are started, or asked, at a time.
const together = 8

// pollEvery is how often the probes of a new instance are asked.
const pollEvery = 500 * time.Millisecond

// fleet is the instances that run: it starts, probes and retires them.
type fleet struct{ stock }

// start starts instances one after another, and waits until the probes of all pass. One that
// fails is stopped and removed; the error is ErrProbe where a probe failed.
func (f *fleet) start(ctx context.Context, all ...*Instance) error {
	var failed []error
	for some := range slices.Chunk(all, together) {
		if ctx.Err() != nil {
			break
		}
		errs := make([]error, len(some))
		for i, in := range some {
			errs[i] = f.launch(ctx, in)
		}
		f.probeAll(ctx, some, errs)
		for i, in := range some {
			failed = append(failed, f.started(ctx, in, errs[i]))
		}
	}
	return errors.Join(failed...)
}

// launch runs what starts an instance.
func (f *fleet) launch(ctx context.Context, in *Instance) error {
	if in.Way == overlay {
		if err := f.mount(in); err != nil {
			return err
		}
	}
	in.Status, in.Boot = Starting, generation.BootID()
	err := f.save("starting")
	if err == nil {
		err = f.run(ctx, "start", f.Config.Start, in, false)
	}
	f.point("after start")
	return err
}

// started records that an instance came up, or takes it away where it did not.
func (f *fleet) started(ctx context.Context, in *Instance, err error) error {
	if err == nil {
		in.Status = f.up()
		return f.save("ready")
	}
	err = fmt.Errorf("instance %d did not come up: %w", in.Number, err)
	if in.Status != Starting {
		return err
	}
	return errors.Join(err, f.stop(context.WithoutCancel(ctx), in))
}

// again asks the probes of an instance that came up, before another one is retired for it.
// One that fails is stopped and removed.
func (f *fleet) again(ctx context.Context, in *Instance) error {
	err := f.probe(ctx, in)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("instance %d came up, and failed then: %w", in.Number, err)
	return errors.Join(err, f.stop(context.WithoutCancel(ctx), in))
}

// probeAll asks the probes of instances at the same time, but of those that have an error.
func (f *fleet) probeAll(ctx context.Context, all []*Instance, errs []error) {
	var g errgroup.Group
	g.SetLimit(together)
	for i, in := range all {
		if errs[i] == nil {
			g.Go(func() error { errs[i] = f.probe(ctx, in); return nil })
		}
	}
	_ = g.Wait()
}

// up is the status of an instance that counts.
func (f *fleet) up() Status {
	if len(f.Probes) == 0 {
		return Started
	}
	return Ready
}

// probe asks the probes of an instance until they pass.
func (f *fleet) probe(ctx context.Context, in *Instance) error {
	if len(f.Probes) == 0 {
		return nil
	}
	var probes []configs.Probe
	for _, p := range f.Probes {
		probes = append(probes, p.Fill(f.placeholders(in)))
	}
	within, cancel := context.WithTimeout(ctx, time.Duration(f.Config.Timeout))
	defer cancel()
	var failed error
	for {
		err := f.Ask(within, probes)
		if err == nil {
			in.Probed = f.Now()
			return nil
		}
		if failed == nil || within.Err() == nil { // not that the time is over
			failed = err
		}
		select {
		case <-within.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%w within %v: %w", ErrProbe, time.Duration(f.Config.Timeout), failed)
		case <-time.After(pollEvery):
		}
	}
}

// retire drains an instance, stops it and removes it. One that cannot be drained stays, unless
// it failed.
func (f *fleet) retire(ctx context.Context, in *Instance) error {
	if in.Status == Made {
		return f.discard(in)
	}
	in.Status = Draining
	if err := f.save("draining"); err != nil {
		return err
	}
	if err := f.run(ctx, "before_retire", f.Config.BeforeRetire, in, false); err != nil && in.Why == "" {
		in.Status = f.up()
		return errors.Join(fmt.Errorf("instance %d was not retired: %w", in.Number, err), f.save("not drained"))
	}
	return f.stop(ctx, in)
}

// stop stops an instance and removes it. The next command goes on where it fails.
func (f *fleet) stop(ctx context.Context, in *Instance) error {
	in.Status = Stopping
	if err := f.save("stopping"); err != nil {
		return err
	}
	if err := f.run(ctx, "stop", f.Config.Stop, in, true); err != nil {
		return fmt.Errorf("instance %d may still run: %w", in.Number, err)
	}
	return f.discard(in)
}

// run runs commands for an instance. It goes on after one that fails when all is set.
func (f *fleet) run(ctx context.Context, what string, hooks []configs.Hook, in *Instance, all bool) error {
	env := []string{"KNOWNGOOD_ENVIRONMENT=" + f.Environment, "KNOWNGOOD_INSTANCE=" + strconv.Itoa(in.Number), "KNOWNGOOD_INSTANCE_PATH=" + f.Path(in), "KNOWNGOOD_INSTANCE_UNIT=" + f.Unit(in)}
	filled := slices.Clone(hooks)
	for i := range filled {
		filled[i] = filled[i].Fill(f.placeholders(in))
	}
	return generation.RunHooks(ctx, what, filled, env, all)
}
