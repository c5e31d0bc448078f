// Package index finds where the chunks of a domain lie: the bodies of index
// runs (docs/FORMAT.md section 9), the local cache that maps them, the table
// that a writer and its readers look chunks up in, and the merging of runs.
//
// Memory does not grow with the repository: runs are mapped, not loaded; what
// a writer adds goes to mapped files as it grows; a merge streams. A lookup asks
// finders, each of which covers many runs, so that its time does not grow with them.
//
// The cache is private to a machine and may be lost at any time. Its files are
// verified block by block as they are used. A run that turns out to be damaged holds
// nothing any more: a capture stores again what it does not find, Merge and Unsaved
// refuse it, DropDamaged removes it for the caller to fetch it again, and who may not
// miss anything asks Whole first. The package does no network I/O and opens no sealed
// data.
package index
