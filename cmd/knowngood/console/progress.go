package console

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"

	"knowngood/cmd/knowngood/human"
	"knowngood/internal/printable"
)

// Progress shows how a long command gets on: a line that changes on a
// terminal, a line now and then elsewhere, JSON when asked.
type Progress struct {
	out   *Console
	stop  chan struct{}
	done  sync.WaitGroup
	start time.Time
	began time.Time // of the rate: before it all was found as it should be
	state func() State
}

// State is one look at a command under way.
type State struct {
	Files, Bytes, Total uint64 // bytes in all; 0 when not known
	Found               uint64 // bytes of these that the command had not to do
	Note                string
}

// Progress shows how a command gets on, which state returns, until End.
func (c *Console) Progress(state func() State) *Progress {
	p := &Progress{out: c, stop: make(chan struct{}), start: time.Now(), state: state}
	p.began = p.start
	if c.Quiet {
		return p
	}
	var terminal *os.File
	if !c.JSON {
		terminal = c.Stderr.terminal()
	}
	every := 10 * time.Second
	switch {
	case c.JSON:
		every = time.Second
	case terminal != nil:
		every = 200 * time.Millisecond
	}
	var bar *progressbar.ProgressBar
	if terminal != nil {
		bar = progressbar.NewOptions64(-1, progressbar.OptionSetWriter(terminal), progressbar.OptionSpinnerType(14), progressbar.OptionSetElapsedTime(false), progressbar.OptionClearOnFinish())
	}
	p.done.Go(func() {
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-p.stop:
				if bar != nil {
					bar.Finish()
				}
				return
			case <-t.C:
				p.show(bar)
			}
		}
	})
	return p
}

// rate is how fast a command is, in bytes a second, and how many seconds are
// left at that rate; less than 0 when that is not known. What it found done
// already counts for neither.
func (p *Progress) rate(s State, now time.Time) (perSecond uint64, left float64) {
	done := s.Bytes - min(s.Found, s.Bytes)
	if done == 0 {
		p.began = now
		return 0, -1
	}
	rate := float64(done) / max(now.Sub(p.began), time.Millisecond).Seconds()
	if s.Total == 0 || s.Bytes > s.Total {
		return uint64(rate), -1
	}
	return uint64(rate), float64(s.Total-s.Bytes) / rate
}

func (p *Progress) show(bar *progressbar.ProgressBar) {
	s, now := p.state(), time.Now()
	perSecond, left := p.rate(s, now)
	if p.out.JSON {
		m := map[string]any{"type": "progress", "files": s.Files, "bytes": s.Bytes, "found_bytes": s.Found, "bytes_per_second": perSecond, "seconds": now.Sub(p.start).Seconds()}
		if left >= 0 {
			m["total_bytes"], m["seconds_left"] = s.Total, left
		}
		p.out.Result(m)
		return
	}
	text := human.Bytes(s.Bytes)
	if s.Found > 0 {
		text += fmt.Sprintf(" (%s of it was there)", human.Bytes(s.Found))
	}
	text += fmt.Sprintf(", %s/s", human.Bytes(perSecond))
	if s.Files > 0 {
		text = human.Counted(s.Files, "file") + ", " + text
	}
	if left >= 0 {
		text += fmt.Sprintf(", %d %%, %s left", s.Bytes*100/s.Total, (time.Duration(left) * time.Second).Round(time.Second))
	}
	if s.Note != "" {
		text += ", " + s.Note
	}
	if bar != nil {
		bar.Describe(printable.Line(text)) // it writes to the terminal itself
		bar.Add(1)
		return
	}
	fmt.Fprintln(p.out.Stderr, text)
}

// End ends it, and returns when nothing is shown any more.
func (p *Progress) End() {
	close(p.stop)
	p.done.Wait()
}
