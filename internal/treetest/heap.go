package treetest

import "runtime"

// Heap is how many bytes are in use, once what is not used any more is freed.
func Heap() int64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}
