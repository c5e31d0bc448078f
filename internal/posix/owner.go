package posix

import "knowngood/snapshot/manifest"

// Owns tells whether a node that has st's owner has the one that Apply would
// give it.
func (a *Applier) Owns(st *Stat, e *manifest.Entry) bool {
	uid, gid, ok := a.owner(e)
	return !ok || uid == st.UID && gid == st.GID
}
