package notify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"

	"knowngood/daemon/report"
	"knowngood/internal/printable"
)

// Event of a run, as healthchecks.io defined them and others adopted.
type Event string

// Events. Success is posted to the address itself, the others below it.
const (
	Started   Event = "start"
	Succeeded Event = "success"
	Failing   Event = "fail"
)

// ping is a dead man's switch.
type ping struct {
	*address
	client *client
}

func newPing(text string, c *client) (*ping, error) {
	a, err := newAddress(text, nil)
	return &ping{a, c}, err
}

func (p *ping) name() string { return "ping " + p.host() }

func (p *ping) send(ctx context.Context, e Event, text string) error {
	suffix := string(e)
	if e == Succeeded {
		suffix = ""
	}
	post := func(text string) error {
		return p.client.post(ctx, p.address, suffix, "text/plain; charset=utf-8", []byte(printable.Text(text)))
	}
	err := post(text)
	for _, limit := range shortTexts {
		if len(text) > limit && errors.As(err, new(refusedError)) {
			err = post(cut(text, limit))
		}
	}
	return err
}

// pingText is what the monitor shows of a run.
func pingText(host, environment string, run *report.Run) string {
	text := host + "/" + environment
	switch {
	case run == nil:
		return text + ": started"
	case run.Result == report.Suspect:
		return cut(fmt.Sprintf("%s: %s is suspect: %s", text, run.Snapshot, strings.Join(run.Suspect, "; ")), 8<<10)
	case !run.Result.Good():
		return cut(fmt.Sprintf("%s: %s: %s", text, run.Result, run.Error), 8<<10)
	}
	text += fmt.Sprintf(": %s, %s in %v", run.Result, run.Snapshot, run.Duration().Round(time.Second))
	if run.Problems > 0 {
		text += fmt.Sprintf("; %s could not be read whole", english.Plural(int(run.Problems), "file", ""))
	}
	return text
}
