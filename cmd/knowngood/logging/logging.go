// Package logging makes the log of the daemon and of runs that the daemon would
// make: to the journal, with fields, or a line each.
package logging

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"knowngood/internal/printable"
)

// New returns a log to the journal, with fields, where w is standard error and
// that goes to the journal; else to w, a line each.
func New(w io.Writer, level string) (*zap.Logger, error) {
	at, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("%q is none of debug, info, warn, error", level)
	}
	enc := zapcore.EncoderConfig{MessageKey: "msg", LevelKey: "level", TimeKey: "time", EncodeLevel: zapcore.CapitalLevelEncoder, EncodeTime: zapcore.RFC3339TimeEncoder,
		EncodeDuration: zapcore.StringDurationEncoder, ConsoleSeparator: " "}
	if toJournal(w) && journal.Enabled() {
		enc.TimeKey, enc.LevelKey = "", "" // which the journal has
		return zap.New(&journalCore{LevelEnabler: at, text: zapcore.NewConsoleEncoder(enc)}), nil
	}

	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(enc), zapcore.Lock(zapcore.AddSync(w)), at)), nil
}

// toJournal reports whether w is standard error, or writes to it, and the service
// manager connected that to the journal.
func toJournal(w io.Writer) bool {
	if on, ok := w.(interface{ File() *os.File }); ok {
		w = on.File()
	}
	if w != io.Writer(os.Stderr) {
		return false
	}
	journaled, err := journal.StderrIsJournalStream()
	return err == nil && journaled
}

// journalCore writes to the journal: a complete text, and each field.
type journalCore struct {
	zapcore.LevelEnabler
	text   zapcore.Encoder
	fields []zapcore.Field
}

func (c *journalCore) With(fields []zapcore.Field) zapcore.Core {
	return &journalCore{c.LevelEnabler, c.text, append(append([]zapcore.Field{}, c.fields...), fields...)}
}

func (c *journalCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *journalCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	fields = append(append([]zapcore.Field{}, c.fields...), fields...)
	line, err := c.text.EncodeEntry(e, fields)
	if err != nil {
		return err
	}
	defer line.Free()
	m := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(m)
	}
	vars := map[string]string{"SYSLOG_IDENTIFIER": "knowngood"}
	for k, v := range m.Fields {
		vars["KNOWNGOOD_"+strings.ToUpper(strings.Map(fieldRune, k))] = fmt.Sprint(v)
	}
	return journal.Send(printable.Text(strings.TrimRight(line.String(), "\n")), priority(e.Level), vars)
}

func (c *journalCore) Sync() error { return nil }

// fieldRune keeps to what the journal takes in names of fields.
func fieldRune(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
		return r
	}
	return '_'
}

func priority(l zapcore.Level) journal.Priority {
	switch {
	case l < zapcore.InfoLevel:
		return journal.PriDebug
	case l == zapcore.InfoLevel:
		return journal.PriInfo
	case l == zapcore.WarnLevel:
		return journal.PriWarning
	case l == zapcore.ErrorLevel:
		return journal.PriErr
	}
	return journal.PriCrit
}
