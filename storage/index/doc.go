// Package index finds where the chunks of a domain lie: the bodies of index
// runs (docs/FORMAT.md section 9), the local cache that maps them, the table
// that a writer and its readers look chunks up in, and the merging of runs.
//
// Memory does not grow with the repository: runs are mapped, not loaded; what
// a writer adds goes to mapped files as it grows; a merge streams.
//
// The cache is private to a machine and may be lost at any time. A damaged
// file of it is found when it is opened and is an error of its own, for the
// caller to delete the file and fetch the run again. The package does no
// network I/O and opens no sealed data.
package index
