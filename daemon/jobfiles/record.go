package jobfiles

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/daemon/report"
)

// RecordSize is the room in a lock file, in bytes. It is taken when the file is
// made and written in place, so a disk that is full later hinders no run.
const RecordSize = 4096

// recordMark begins the line of a lock file that holds a record.
const recordMark = "runs "

// maxDiedError is what is kept in a record of the error of a run, in bytes.
const maxDiedError = 1000

// Record is what the lock file of an environment holds of its runs: whoever takes
// the lock next learns from it that a run died. Nothing in it is executed: it holds
// when a run began, and today's configuration decides what follows.
type Record struct {
	// Run is under way; when nobody holds the lock, it died.
	Run *report.Run `json:"run,omitempty"`
	// Died is one that died. Its hooks have run, and no daemon has counted it yet.
	Died *report.Run `json:"died,omitempty"`
}

// read reads the file; the lock is held. A record that cannot be
// read is that of a run of which nothing is known but that it died.
func (l *Lock) read() error {
	b := make([]byte, RecordSize)
	n, err := l.file.ReadAt(b, 0)
	if err != nil && err != io.EOF {
		return err
	}
	l.made = n == 0
	for line := range strings.Lines(string(b[:n])) {
		text, ok := strings.CutPrefix(line, recordMark)
		if !ok {
			continue
		}
		if json.Unmarshal([]byte(text), &l.Record) != nil {
			l.Record = Record{Run: &report.Run{}}
		}
		if r := l.Record.Run; r != nil && r.Started.IsZero() {
			st, err := l.file.Stat()
			if err != nil {
				return err
			}
			r.Started = st.ModTime()
		}
	}
	return nil
}

// Write writes who holds the lock, and the record.
func (l *Lock) write() error {
	text := []byte(l.Holder + "\n")
	if l.Record != (Record{}) {
		line, err := json.Marshal(l.Record)
		if err != nil {
			return err
		}
		text = fmt.Appendf(text, "%s%s\n", recordMark, line)
	}
	if len(text) > RecordSize {
		return fmt.Errorf("write %s: a record of %d bytes, in a room of %d", l.file.Name(), len(text), RecordSize)
	}
	text = append(text, bytes.Repeat([]byte("\n"), RecordSize-len(text))...)
	_, err := l.file.WriteAt(text, 0)
	return err
}

// keep writes the record, which is on disk when keep returns nil.
func (l *Lock) keep() error {
	if err := l.write(); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(l.file.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", l.file.Name(), err)
	}
	if !l.made {
		return nil
	}
	if err := errors.Join(l.dir.Sync(), l.dir.In("..").Sync()); err != nil {
		return err
	}
	l.made = false
	return nil
}

// Begin records that a run is under way.
func (l *Lock) Begin(run *report.Run) error {
	l.Record.Run = &report.Run{Trigger: run.Trigger, Scheduled: run.Scheduled, Started: run.Started, Missed: run.Missed}
	return l.keep()
}

// End records that it came to its end.
func (l *Lock) End() error {
	l.Record.Run = nil
	return l.keep()
}

// Bury records that the hooks of a run that died have run.
func (l *Lock) Bury(run report.Run) error {
	run.Error = report.Shorten(run.Error, maxDiedError)
	l.Record = Record{Died: &run}
	return l.keep()
}

// Drop removes what is recorded.
func (l *Lock) Drop() error {
	l.Record = Record{}
	return l.keep()
}

// Counted records that a daemon has counted it.
func (l *Lock) Counted() error {
	l.Record.Died = nil
	return l.keep()
}
