package signs

import (
	"fmt"
	"path"
	"strings"

	"knowngood/snapshot/manifest"
)

// Counts are what a capture sees of files beside their earlier marks. Only files
// of which both marks are known count.
type Counts struct {
	Changed   int    // files with other content than before, or under another name
	Encrypted int    // of Changed: they look encrypted now, and did not before
	Renamed   int    // of Encrypted, those under another name
	Restored  int    // of Changed: they looked encrypted before, and do not now
	First     string // the path of the first of Encrypted

	Gone, GoneRandom int // files that are gone and have no successor: others, and those that looked random
	New, NewRandom   int // files that are new and have no predecessor, likewise

	waiting *successor
}

// successor is a new file that has the name of another except for the extension. It counts
// as its successor if that turns out to be gone.
type successor struct {
	now, before *manifest.Entry
	stored      bool
}

// File counts a file of the run. They come in the order of their paths. before is its
// entry in the parent, or that of its predecessor; nil for neither. stored reports
// whether some of its content was new to the repository. The entries are kept for a
// while, and must not change.
func (c *Counts) File(now, before *manifest.Entry, stored bool) {
	if w := c.waiting; w != nil && w.before.Path == now.Path {
		c.waiting = nil
		c.added(w.now)
	}
	switch {
	case before == nil:
		c.added(now)
	case before.Path != now.Path:
		c.settle()
		c.waiting = &successor{now, before, stored}
	case before != now && !manifest.SameContent(before, now):
		c.changed(now, before, stored)
	}
}

// Done completes the counts after the last file.
func (c *Counts) Done(l *Losses) {
	c.settle()
	c.Gone, c.GoneRandom = c.Gone+l.gone, c.GoneRandom+l.random
}

func (c *Counts) settle() {
	w := c.waiting
	if w == nil {
		return
	}
	c.waiting = nil
	if mark(w.before).class() == random {
		c.GoneRandom--
	} else {
		c.Gone--
	}
	c.changed(w.now, w.before, w.stored)
}

func (c *Counts) added(e *manifest.Entry) {
	switch m := mark(e); {
	case m.class() == random:
		c.NewRandom++
	case m.sure():
		c.New++
	}
}

func (c *Counts) changed(now, before *manifest.Entry, stored bool) {
	is, was := mark(now), mark(before)
	if is == 0 || was == 0 {
		return
	}
	c.Changed++
	renamed := now.Path != before.Path
	switch {
	case was.class() == random && is.class() != random && is.sure():
		c.Restored++
	case stored && encrypted(is, was, renamed):
		c.Encrypted++
		if renamed {
			c.Renamed++
		}
		if c.First == "" {
			c.First = now.Path
		}
	}
}

// encrypted reports whether a file lost its magic bytes, or its compressibility
// together with its first bytes. What got another name and the magic bytes of a
// compressed format was compressed.
func encrypted(is, was Mark, renamed bool) bool {
	const quarter = 64
	if is.class() == random {
		return was.class() != random && was.sure()
	}
	return !renamed && was.class() == plain && was.part() < quarter && is.part() > 255-quarter && is.head() != was.head()
}

func mark(e *manifest.Entry) Mark { return Mark(e.Stat.Mark) }

// Losses follows the files that are gone, in path order.
type Losses struct {
	gone, random int             // as in Counts, those with successors among them
	last         *manifest.Entry // the last one
}

// Add adds an entry of the parent that is gone. It is kept for a while.
func (l *Losses) Add(e *manifest.Entry) {
	if !mark(e).sure() {
		return
	}
	if l.last = e; mark(e).class() == random {
		l.random++
	} else {
		l.gone++
	}
}

// Predecessor is the file whose place a new one seems to have taken: the one that was
// gone last, or the next one of the parent, which may still be there. Their names
// differ in nothing but extensions. It is nil where there is none, and next may be nil.
func (l *Losses) Predecessor(path string, next *manifest.Entry) *manifest.Entry {
	if last := l.last; last != nil && alike(last.Path, path) {
		l.last = nil
		return last
	}
	if next != nil && mark(next).sure() && alike(next.Path, path) {
		return next
	}
	return nil
}

// alike reports whether a name is that of an old file with another extension, with one
// more, or with one less.
func alike(old, name string) bool {
	stem := strings.TrimSuffix(old, path.Ext(old))
	rest, ok := strings.CutPrefix(name, stem)
	return ok && !strings.HasSuffix(stem, "/") && (rest == "" || strings.IndexByte(".-_[~ ", rest[0]) >= 0) && !strings.Contains(rest, "/")
}

// lost is how many files look encrypted, of how many, and how many do not any more.
// Where names have nothing in common, only the balance shows what became of files:
// some went and as many came that look random, while neither have others in their place.
func (c *Counts) lost() (files, of, back int) {
	swapped := min(c.Gone-c.New, c.NewRandom-c.GoneRandom)
	returned := min(c.New-c.Gone, c.GoneRandom-c.NewRandom)
	return c.Encrypted + max(0, swapped), c.Changed + c.Gone, c.Restored + max(0, returned)
}

// rules are what makes a snapshot suspect. docs/SECURITY.md has what they were
// measured with.
var rules = []struct {
	recent       bool // over the last runs, too, each of which counts 31/32 of the one after it
	files, share float64
}{
	// Somebody may well encrypt a dozen files. In the corpus no run had more than
	// two, and an encryptor at work touches little but what it encrypts.
	{recent: false, files: least, share: 0.2},
	// One that takes its time hides among what changes anyway. Because single files
	// add up here, it takes more of them.
	{recent: true, files: 40, share: 0.1},
}

const (
	fade  = 31.0 / 32
	least = 20 // files that make a snapshot suspect
)

// State is what an environment remembers from run to run. The zero value remembers
// nothing.
type State struct {
	Files float64 `json:"files,omitempty"` // of the last runs, that look encrypted
	Of    float64 `json:"of,omitempty"`

	// Encrypted is how many files look encrypted since the newest snapshot is suspect,
	// 0 when it is not; Most is what that was at most. First is the path of one.
	Encrypted int    `json:"encrypted,omitempty"`
	Most      int    `json:"most,omitempty"`
	First     string `json:"first,omitempty"`
}

// Suspected is the state of an environment whose newest snapshot is suspect, when no
// more is known.
func Suspected() State { return State{Encrypted: least, Most: least} }

// Suspect reports whether the newest snapshot is suspect.
func (s State) Suspect() bool { return s.Encrypted > 0 }

// After is the state after one more run. Once suspect, an environment stays so until
// half of the files are back; whoever accepts it begins with the zero value.
func (s State) After(c *Counts) State {
	files, of, back := c.lost()
	s.Files, s.Of = s.Files*fade+float64(files), s.Of*fade+float64(of)
	if c.First != "" {
		s.First = c.First
	}
	if s.Suspect() {
		s.Encrypted += files - back
		s.Most = max(s.Most, s.Encrypted)
		if s.Encrypted <= s.Most/2 {
			return State{}
		}
		return s
	}

	for _, r := range rules {
		found, among := float64(files), float64(of)
		if r.recent {
			found, among = s.Files, s.Of
		}
		if found >= r.files && found >= r.share*among {
			s.Encrypted, s.Most = int(found), int(found)
			break
		}
	}
	return s
}

// Describe is why an environment is suspect after a run with counts, in words and
// without a path.
func (s State) Describe(c *Counts) string {
	files, of, _ := c.lost()
	return fmt.Sprintf("files that lost their magic bytes or their compressibility: %d; in this run %d of %d that changed, %d of them under other names", s.Encrypted, files, of, files-c.Encrypted+c.Renamed)
}
