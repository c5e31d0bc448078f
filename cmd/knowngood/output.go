package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/schollz/progressbar/v3"

	"knowngood/configs"
	"knowngood/internal/printable"
)

// errDamage says that a command came to its end and found damage.
var errDamage = errors.New("damage found")

// printf prints for people; with --json it prints nothing.
func (a *app) printf(format string, args ...any) {
	if !a.json {
		fmt.Fprintf(a.stdout, format, args...)
	}
}

// result prints the one result object of --json.
func (a *app) result(v any) error {
	if !a.json {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%s\n", printable.JSON(b))
	return err
}

// content is standard output for the content of files, which is written as it is.
func (a *app) content() io.Writer {
	if p, ok := a.stdout.(*printer); ok {
		return p.content()
	}
	return a.stdout
}

// listed makes a list that is empty print as [], not as null.
func listed[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// rate reads a limit in bytes a second; without text it is the configured one.
func rate(flag, text string, configured configs.Rate) (configs.Rate, error) {
	if text == "" {
		return configured, nil
	}
	r, err := configs.ParseRate(text)
	if err != nil {
		return 0, usagef("%s: %w", flag, err)
	}
	return r, nil
}

func bytesText(n uint64) string { return humanize.IBytes(n) }

func count[N int | uint64](n N) string { return humanize.Comma(int64(n)) }

// counted is so many of something: 1 file, 2,000 directories.
func counted[N int | uint64](n N, noun string) string {
	return count(n) + " " + english.PluralWord(int(n), noun, "")
}

// quoted is a word of a command that is shown for copying, as a shell takes it:
// URLs have signs in them that mean something there. What a terminal would obey,
// or would not show, is escaped in a way that bash, zsh and ksh read.
func quoted(word string) string {
	switch {
	case !utf8.ValidString(word) || strings.ContainsFunc(word, func(r rune) bool { return !printable.Rune(r) }):
		return escaped(word)
	case word == "" || strings.ContainsAny(word, " &;|<>()$`\\\"'*?[]#~!{}^"):
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return word
}

// escaped is a word in the quotes $'...', in which the bytes of what cannot be
// printed are numbers.
func escaped(word string) string {
	var b strings.Builder
	b.WriteString("$'")
	for len(word) > 0 {
		r, n := utf8.DecodeRuneInString(word)
		switch valid := r != utf8.RuneError || n > 1; {
		case r == '\'' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case valid && printable.Rune(r):
			b.WriteRune(r)
		default:
			for _, x := range []byte(word[:n]) {
				fmt.Fprintf(&b, "\\%03o", x) // three digits always, for the next character may be one
			}
		}
		word = word[n:]
	}
	b.WriteByte('\'')
	return b.String()
}

// self is how this program is started again, in commands that are shown for
// copying: by its name where that is in the PATH, else by its file. One that go
// run made is gone, or may be, and is made again.
func self() string {
	path, err := os.Executable()
	if err != nil {
		return "knowngood"
	}
	if strings.Contains(path, "/go-build") {
		return "go run ./cmd/knowngood"
	}
	if found, err := exec.LookPath("knowngood"); err == nil {
		a, aerr := os.Stat(path)
		b, berr := os.Stat(found)
		if aerr == nil && berr == nil && os.SameFile(a, b) {
			return "knowngood"
		}
	}
	return quoted(path)
}

// progress shows how a long command gets on: a line that changes on a
// terminal, a line now and then elsewhere, JSON when asked.
type progress struct {
	a     *app
	stop  chan struct{}
	done  sync.WaitGroup
	start time.Time
	began time.Time // of the rate: before it all was found as it should be
	state func() progressState
}

// progressState is one look at a command under way.
type progressState struct {
	Files, Bytes, Total uint64 // bytes in all; 0 when not known
	Found               uint64 // bytes of these that the command had not to do
	Note                string
}

func (a *app) progress(state func() progressState) *progress {
	p := &progress{a: a, stop: make(chan struct{}), start: time.Now(), state: state}
	p.began = p.start
	if a.quiet {
		return p
	}
	var terminal *os.File
	if out, ok := a.stderr.(*printer); ok && !a.json {
		terminal = out.terminal()
	}
	every := 10 * time.Second
	switch {
	case a.json:
		every = time.Second
	case terminal != nil:
		every = 200 * time.Millisecond
	}
	var bar *progressbar.ProgressBar
	if terminal != nil {
		bar = progressbar.NewOptions64(-1, progressbar.OptionSetWriter(terminal), progressbar.OptionSpinnerType(14), progressbar.OptionSetElapsedTime(false), progressbar.OptionClearOnFinish())
	}
	p.done.Add(1)
	go func() {
		defer p.done.Done()
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
	}()
	return p
}

// rate is how fast a command is, in bytes a second, and how many seconds are
// left at that rate; less than 0 when that is not known. What it found done
// already counts for neither.
func (p *progress) rate(s progressState, now time.Time) (perSecond uint64, left float64) {
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

func (p *progress) show(bar *progressbar.ProgressBar) {
	s, now := p.state(), time.Now()
	perSecond, left := p.rate(s, now)
	if p.a.json {
		m := map[string]any{"type": "progress", "files": s.Files, "bytes": s.Bytes, "found_bytes": s.Found, "bytes_per_second": perSecond, "seconds": now.Sub(p.start).Seconds()}
		if left >= 0 {
			m["total_bytes"], m["seconds_left"] = s.Total, left
		}
		p.a.result(m)
		return
	}
	text := bytesText(s.Bytes)
	if s.Found > 0 {
		text += fmt.Sprintf(" (%s of it was there)", bytesText(s.Found))
	}
	text += fmt.Sprintf(", %s/s", bytesText(perSecond))
	if s.Files > 0 {
		text = counted(s.Files, "file") + ", " + text
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
	fmt.Fprintln(p.a.stderr, text)
}

func (p *progress) end() {
	close(p.stop)
	p.done.Wait()
}

// duration in the form that people read.
func duration(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}
