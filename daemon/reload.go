package daemon

import (
	"errors"
	"reflect"

	"go.uber.org/zap"

	"knowngood/configs"
)

// Reload takes in the configuration as it is now. One that is not valid, or
// asks for what only a restart can do, changes nothing.
func (d *Daemon) Reload() error {
	d.Notify("RELOADING=1\n" + monotonic())
	defer d.Notify("READY=1")
	c, err := d.Load()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx == nil || d.ctx.Err() != nil {
		return nil // it has only just been read, or is needed no more
	}
	if err == nil {
		err = d.reloadable(c)
	}
	same := err == nil && reflect.DeepEqual(tellingOf(c), tellingOf(d.config))
	t := d.teller
	if err == nil && !same {
		t, err = d.newTeller(c)
	}
	if err != nil {
		d.unwarn(notTaken) // the last one counts, and is logged again
		d.warn(notTaken+err.Error(), false)
		d.Notify("STATUS=The new configuration was not taken: " + firstLine(err.Error()))
		return err
	}
	if c.Repository.URL != d.config.Repository.URL || c.Host != d.config.Host || c.Limits != d.config.Limits {
		d.repo.replace(d.Now(), d.busy == 0)
	}
	for _, j := range d.jobs {
		j.kept.doubt() // a policy may begin, of which runs before took no account
	}
	d.unwarn(notTaken)
	d.said = "" // it may have been that it was not taken
	if !same {
		t.start(d.teller, d.Now())
		d.teller = t
	}
	d.apply(c)
	d.Log.Info("configuration taken", zap.Int("environments", len(c.Environments)))
	d.look()
	return nil
}

// notTaken begins the warning of a configuration that is not valid; one that is
// takes it back.
const notTaken = "the new configuration was not taken, the old one stays in force: "

// reloadable refuses what is held since the start.
func (d *Daemon) reloadable(c *configs.Config) error {
	switch {
	case c.StateDir != d.config.StateDir:
		return errors.New("state_dir changed: restart the daemon for that")
	case c.Listen != d.config.Listen || c.ListenTCP != d.config.ListenTCP:
		return errors.New("listen or listen_tcp changed: restart the daemon for that")
	}
	return nil
}
