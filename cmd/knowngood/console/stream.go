package console

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/term"

	"knowngood/internal/printable"
)

// Stream is an output of a command. It keeps the first error, so that commands
// need not check what they print line by line: main asks once, at the end. After an
// error it writes nothing, unless it goes on. It is safe for concurrent use; each
// write stays in one piece.
//
// What it writes is always printable, because names, errors and reasons come from
// stores, hosts and files. The content of files goes to Content.
type Stream struct {
	mu     sync.Mutex
	w      io.Writer
	goesOn bool // what follows may be read separately, as messages can
	err    error
}

func (p *Stream) Write(b []byte) (int, error) {
	if _, err := p.Content().Write([]byte(printable.Text(string(b)))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Content returns a writer of bytes that are to be written as they are.
func (p *Stream) Content() io.Writer { return contentWriter{p} }

type contentWriter struct{ p *Stream }

func (w contentWriter) Write(b []byte) (int, error) {
	p := w.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil && !p.goesOn {
		return 0, p.err
	}

	n, err := p.w.Write(b)
	if err != nil {
		err = outputError(err)
		p.err = cmp.Or(p.err, err)
	}
	return n, err
}

// Lost is the first error.
func (p *Stream) Lost() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// File is the file that the output goes to; nil when it goes to none.
func (p *Stream) File() *os.File {
	f, _ := p.w.(*os.File)
	return f
}

// terminal is where the output goes, when that is a terminal; else nil.
func (p *Stream) terminal() *os.File {
	if f := p.File(); f != nil && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

// Close ends the output and returns its first error. Some file systems report
// what they could not store only when a file is closed.
func (p *Stream) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.w.(io.Closer); ok {
		if err := c.Close(); p.err == nil && err != nil {
			p.err = outputError(err)
		}
	}
	return p.err
}

func outputError(err error) error { return fmt.Errorf("write the output: %w", err) }
