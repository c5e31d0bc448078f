package posix

import "knowngood/snapshot/manifest"

// Owns reports whether a node that has st's owner has the one that Apply would
// give it.
func (a *Applier) Owns(st *Stat, e *manifest.Entry) bool {
	return a.opts.KeepOwner || e.UID == st.UID && e.GID == st.GID
}
