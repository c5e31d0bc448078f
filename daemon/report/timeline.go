package report

import "time"

// Timeline is how much changed from each of the newest snapshots of an environment to
// the next.
type Timeline struct {
	Steps []TimelineStep // the newest last
	// Missing is why there are none, or none of the newest snapshot; empty when they
	// are complete.
	Missing string
}

// TimelineStep is a snapshot, and what changed since the one before it.
type TimelineStep struct {
	Snapshot, Before string // such as web@42; Before is empty for the first one
	Time             time.Time

	Added, Removed, Modified, Metadata uint64 // paths
	Bytes                              uint64 // content of the files that were added or modified, as a whole
	NewBytes                           uint64 // of that, what the repository did not have
	// Privileged are set-uid and the like, Executable what may be executed: files that
	// came, went or differ in content or rights.
	Privileged, Executable uint64

	Error string // why it could not be compared
}
