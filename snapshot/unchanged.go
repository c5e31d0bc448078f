package snapshot

import (
	"time"

	"knowngood/snapshot/manifest"
	"knowngood/snapshot/walk"
)

const (
	// clockTick bounds how coarsely the kernel's clock stamps files.
	clockTick = 50 * time.Millisecond
	// coarseTick is the granularity of file systems that keep no fractions of
	// a second: ext3, HFS, many servers; FAT keeps even seconds only.
	coarseTick = 2 * time.Second
)

// stillHolds reports whether the host sees a node as it was when a run that
// began at started, in nanoseconds since 1970, recorded e. All names of a group
// have the same turn to be read again: else they could come to differ.
func (m *merger) stillHolds(n *walk.Node, group *linkGroup, e *manifest.Entry, started int64) bool {
	turn := hash(n.Path)
	if group != nil {
		turn = group.name
	}
	s := &n.Stat
	old := e.Stat
	return e.Type == s.Type && old.Inode == s.Ino && old.Ctime == s.Ctime && e.Mtime == s.Mtime &&
		(e.Type != manifest.File || e.Size == s.Size && !n.Volume.Kind().SizeUnknown(s.Size)) &&
		e.Flags&^manifest.Implied == 0 && e.Flags&manifest.Implied != 0 == n.Implied && n.Err == nil &&
		m.settled(n, started) && !m.due(turn, started)
}

// settled reports whether a node had been unchanged for long enough, when a
// run began, that a later change must have moved its time stamps.
func (m *merger) settled(n *walk.Node, started int64) bool {
	window := time.Duration(0)
	if n.Stat.Type == manifest.File {
		// A write through a mapping moves the time stamps only when the page was
		// clean before, which it is again after its write-back.
		window = m.WritebackWindow
	}
	if !olderThan(n.Stat.Ctime, started, window) {
		return false
	}
	// FAT and some servers state the time of creation as ctime. An mtime in the
	// future was set, and shows nothing about changes.
	return stamp(n.Stat.Mtime) > m.started.UnixNano() || olderThan(n.Stat.Mtime, started, window)
}

// olderThan reports whether a time stamp lies before a moment, in nanoseconds
// since 1970, by more than a window and what it may be off.
func olderThan(at manifest.Time, moment int64, window time.Duration) bool {
	tick := clockTick
	if at.Nsec == 0 {
		tick = coarseTick
	}
	return stamp(at) < moment-int64(max(tick, window))
}

// stamp is a time in nanoseconds since 1970.
func stamp(t manifest.Time) int64 { return t.Sec*1_000_000_000 + int64(t.Nsec) }

// due reports whether it is a node's turn to be read again although nothing
// speaks for a change. Each turn has a moment of its own in every period, and
// those that lie between a run and the next are that one's.
func (m *merger) due(turn uint64, started int64) bool {
	period := int64(m.RereadEvery)
	if period <= 0 {
		return false
	}
	phase := int64(turn % uint64(period))
	return (m.started.UnixNano()-phase)/period > (started-phase)/period
}

// hash is FNV-1a, which is the same in every run.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
