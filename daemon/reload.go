package daemon

import (
	"errors"
	"fmt"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"knowngood/configs"
)

// Reload loads the configuration again. One that is not valid, or that only a
// restart can put in force, changes nothing.
func (d *Daemon) Reload() error {
	d.Notify("RELOADING=1\n" + monotonic())
	defer d.Notify("READY=1")
	c, err := d.Load()
	d.jobs.mu.Lock()
	defer d.jobs.mu.Unlock()
	if d.ctx == nil || d.ctx.Err() != nil {
		return nil // it was just loaded, or is not needed any more
	}
	if err == nil {
		err = reloadable(d.jobs.config, c)
	}
	if err == nil {
		err = d.messages.configure(c)
	}
	d.warnings.Remove(notLoaded) // only the newest counts, and is logged again
	if err != nil {
		d.warnings.Add(notLoaded+err.Error(), false)
		d.Notify("STATUS=The new configuration was not taken: " + firstLine(err.Error()))
		return err
	}

	d.repo.configure(c)
	for _, j := range d.jobs.byName {
		j.kept.Invalidate() // runs without a policy did not add to it
	}
	d.published.Store(nil) // it may be that the configuration was not loaded
	d.configure(c)
	d.Log.Info("configuration taken", zap.Int("environments", len(c.Environments)))
	d.wake.wake()
	return nil
}

// notLoaded begins the warning of a configuration that is not valid.
const notLoaded = "the new configuration was not taken, the old one stays in force: "

// reloadable refuses a configuration that changes what is fixed since the start.
func reloadable(before, c *configs.Config) error {
	switch {
	case c.StateDir != before.StateDir:
		return errors.New("state_dir changed: restart the daemon for that")
	case c.Listen != before.Listen || c.ListenTCP != before.ListenTCP:
		return errors.New("listen or listen_tcp changed: restart the daemon for that")
	}
	return nil
}

// monotonic is the time by which the service manager orders the notifications of a
// reload.
func monotonic() string {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return ""
	}
	return fmt.Sprintf("MONOTONIC_USEC=%d", ts.Nano()/1000)
}
