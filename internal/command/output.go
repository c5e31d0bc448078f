package command

import (
	"bytes"
	"strings"
	"sync"

	"knowngood/internal/printable"
)

const (
	lineLimit  = 4 << 10
	linesLimit = 1000
	logLimit   = 64 << 10
	tailLimit  = 2 << 10
)

// log takes the lines of a program's output, as many as it has room for.
type log struct {
	mu     sync.Mutex
	line   func(stream, line string)
	lines  int
	bytes  int
	closed bool
}

func (l *log) add(stream, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.line == nil || l.closed {
		return
	}
	if l.lines++; l.lines > linesLimit || l.bytes+len(line) > logLimit {
		l.closed = true
		l.line(stream, "... more output is left out")
		return
	}
	l.bytes += len(line)
	l.line(stream, line)
}

// lines cuts one stream into lines. Of a long one it keeps the beginning.
type lines struct {
	log    *log
	stream string
	tail   *tail // nil when nobody asks for it
	open   []byte
	cut    bool
}

func (w *lines) Write(b []byte) (int, error) {
	if w.tail != nil {
		w.tail.add(b)
	}
	for rest := b; len(rest) > 0; {
		// Progress bars end their lines with a return.
		i := bytes.IndexAny(rest, "\n\r")
		part := rest
		if i >= 0 {
			part = rest[:i]
		}
		room := min(len(part), lineLimit-len(w.open))
		w.open = append(w.open, part[:room]...)
		w.cut = w.cut || room < len(part)
		if i < 0 {
			break
		}
		w.end()
		rest = rest[i+1:]
	}
	return len(b), nil
}

// end gives away the line that is open.
func (w *lines) end() {
	text := shown(w.open)
	if len(text) > lineLimit { // escapes are longer than what they represent
		text, w.cut = strings.ToValidUTF8(text[:lineLimit], ""), true
	}
	if w.cut {
		text += "..."
	}
	w.open, w.cut = w.open[:0], false
	if text != "" {
		w.log.add(w.stream, text)
	}
}

// shown is a line of a program's output for messages.
func shown(line []byte) string {
	return strings.TrimRight(printable.Line(string(line)), " ")
}

// tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex
	b   []byte
	cut bool
}

func (t *tail) add(b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b[max(0, len(b)-tailLimit-1):]...)
	if over := len(t.b) - tailLimit; over > 0 {
		t.b, t.cut = append(t.b[:0], t.b[over:]...), true
	}
}

// String is the tail in whole lines, unless one is longer than all of it.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.b
	if i := bytes.IndexByte(b, '\n'); t.cut && i >= 0 && i < len(b)-1 {
		b = b[i+1:]
	}
	var kept []string
	for _, line := range strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' || r == '\r' }) {
		if line = shown([]byte(line)); line != "" {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}
