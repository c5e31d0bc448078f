package main

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"time"
)

// profile writes cpu.pprof and, as of the greatest heap seen, heap.pprof into
// dir, for developers. The function that it returns ends it.
func profile(dir string) (stop func(), err error) {
	f, err := os.Create(filepath.Join(dir, "cpu.pprof"))
	if err != nil {
		return nil, err
	}
	runtime.MemProfileRate = 64 << 10
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		var greatest uint64
		for {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond):
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			if m.HeapInuse > greatest+greatest/20 {
				greatest = m.HeapInuse
				if h, err := os.Create(filepath.Join(dir, "heap.pprof")); err == nil {
					pprof.WriteHeapProfile(h)
					h.Close()
				}
			}
		}
	}()
	return func() {
		close(done)
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}
