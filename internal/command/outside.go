package command

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// booted reports whether systemd is in charge of this machine, as sd_booted(3)
// does.
func booted() bool {
	_, err := os.Lstat("/run/systemd/system")
	return err == nil
}

// outside is what runs the program in a transient unit, and the unit's name.
// systemd-run waits for it, passes its output on and ends with its exit status.
// Values of variables are passed by name, for arguments show in process lists.
func (c *Command) outside(booted bool) (argv []string, unit string, err error) {
	if !booted {
		return nil, "", errors.New("outside: true needs systemd to run it in a unit of its own, and this machine was not booted with it: leave outside out")
	}
	unit = "knowngood-" + strings.ToLower(rand.Text()[:12]) + ".service"
	argv = []string{"systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--no-ask-password", "--service-type=exec", "--unit=" + unit, "--property=TimeoutStopSec=10"}
	if c.Timeout > 0 {
		// Should we die meanwhile, it still ends.
		argv = append(argv, fmt.Sprintf("--property=RuntimeMaxSec=%d", int64((c.Timeout+grace)/time.Second)+1))
	}
	for _, v := range c.Env {
		name, _, _ := strings.Cut(v, "=")
		argv = append(argv, "--setenv="+name)
	}
	return append(append(argv, "--"), c.Argv...), unit, nil
}

// asked is what has root's server run the program: this one, which may have
// been replaced on disk by a newer version.
func (c *Command) asked() []string {
	return append([]string{"/proc/self/exe", "outside", "--"}, c.Argv...)
}

// stopUnit ends a unit, with all its processes: what systemd-run started is no
// child of ours, and does not end with it.
func stopUnit(unit string, grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*grace)
	defer cancel()
	_ = exec.CommandContext(ctx, "systemctl", "stop", unit).Run()
}
