package snapshot

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"knowngood/snapshot/manifest"
)

// Progress is what a capture has done so far. The numbers may be read while it
// runs.
type Progress struct {
	Files, Bytes         atomic.Uint64 // captured, of files read or unchanged
	FilesRead, BytesRead atomic.Uint64
	Unchanged            atomic.Uint64 // files that cost a stat only
	Problems             atomic.Uint64
	Expected             atomic.Uint64 // bytes, those of the last snapshot; 0 without one
	Verified             atomic.Uint64 // bytes of objects in the store that were read to verify them

	// Problem, when set, is called with each problem as it is met; Warn with
	// what went wrong without harm to the snapshot; Note with what is as it
	// should be, and may surprise. All may be called concurrently.
	Problem func(path, reason string)
	Warn    func(message string)
	Note    func(message string)
}

func (p *Progress) note(message string) {
	if p.Note != nil {
		p.Note(message)
	}
}

func (p *Progress) warn(message string) {
	if p.Warn != nil {
		p.Warn(message)
	}
}

// problems gathers what could not be captured as it should.
type problems struct {
	progress *Progress

	mu    sync.Mutex
	all   []manifest.Problem
	count uint64
}

// add adds a problem, and reports it.
func (p *problems) add(path, reason string) {
	p.mu.Lock()
	p.count++
	if len(p.all) < manifest.MaxProblems {
		p.all = append(p.all, manifest.Problem{Path: strings.Clone(path), Reason: reason})
	}
	p.mu.Unlock()
	p.progress.Problems.Add(1)
	if p.progress.Problem != nil {
		p.progress.Problem(path, reason)
	}
}

// list is in the order of manifest.CompareProblems.
func (p *problems) list() ([]manifest.Problem, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.Clone(p.all)
	slices.SortFunc(all, manifest.CompareProblems)
	return all, p.count
}
