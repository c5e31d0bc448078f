package session

import "knowngood/daemon/checking"

// RecordCheck has the daemon of this machine's host count a check by hand.
func RecordCheck(sess *Session, h checking.ByHand) {
	if own := sess.OwnHost(); own == "" || own != sess.Host {
		return // it does not concern what this machine stored
	}
	if err := h.Record(sess.StateDir); err != nil {
		sess.Out.Notef("status will not count this check: %v", err)
	}
}
