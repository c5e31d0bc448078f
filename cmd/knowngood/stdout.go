package main

import (
	"fmt"
	"io"
	"sync"
)

// printer is the standard output of a command. It keeps the first error and
// writes nothing after it, so that commands need not check what they print line
// by line: run asks once, at the end. It is safe for concurrent use; each write
// stays in one piece.
type printer struct {
	mu  sync.Mutex
	w   io.Writer
	err error
}

func (p *printer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return 0, p.err
	}

	n, err := p.w.Write(b)
	if err != nil {
		p.err = outputError(err)
	}
	return n, p.err
}

// close ends the output and returns its first error. Some file systems report
// what they could not store only when a file is closed.
func (p *printer) close() error {
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
