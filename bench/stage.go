package main

import (
	"fmt"
	"os"
	"runtime"
	"testing"
)

// stage lets a program use the servers and the comparison that tests use. It
// has the methods of testing.TB that those call, and no others.
type stage struct {
	testing.TB
	dir      string // of temporary directories
	cleanups []func()
	failed   int
}

// Helper implements testing.TB.
func (*stage) Helper() {}

// Logf implements testing.TB.
func (*stage) Logf(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// Errorf implements testing.TB.
func (s *stage) Errorf(format string, args ...any) {
	s.failed++
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// Fatalf implements testing.TB: it ends the goroutine.
func (s *stage) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	runtime.Goexit()
}

// Fatal implements testing.TB.
func (s *stage) Fatal(args ...any) { s.Fatalf("%s", fmt.Sprint(args...)) }

// Cleanup implements testing.TB.
func (s *stage) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// TempDir implements testing.TB.
func (s *stage) TempDir() string {
	err := os.MkdirAll(s.dir, 0o700)
	if err != nil {
		s.Fatal(err)
	}
	dir, err := os.MkdirTemp(s.dir, "")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			s.Errorf("%v", err)
		}
	})
	return dir
}

// end cleans up, in reverse order.
func (s *stage) end() {
	for len(s.cleanups) > 0 {
		last := len(s.cleanups) - 1
		f := s.cleanups[last]
		s.cleanups = s.cleanups[:last]
		f()
	}
}
