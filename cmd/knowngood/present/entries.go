package present

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/internal/printable"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/statement"
)

// Entries prints the entries that ls and find list, as they come: people see
// a line for each. --json has one result object with all of them, which is
// written in pieces, because a snapshot can have more entries than fit in memory.
// Nothing else may be printed with --json between the first add and end.
type Entries struct {
	out   *console.Console
	long  bool
	begun bool // the result object
	Count int  // of entries that were added
}

// ListedJSON is the rest of the result of ls.
type ListedJSON struct {
	Snapshot SnapshotJSON `json:"snapshot"`
	console.PathJSON
}

// FoundJSON is the rest of the result of find.
type FoundJSON struct {
	Snapshots []SnapshotJSON `json:"snapshots"` // that were searched as a whole
}

// NewEntries returns an empty list; long adds mode, owner, size and time.
func NewEntries(out *console.Console, long bool) *Entries { return &Entries{out: out, long: long} }

// Add prints an entry. People see ref in front, unless it is empty.
func (l *Entries) Add(ref string, e *manifest.Entry) error {
	l.Count++
	if !l.out.JSON {
		return printEntry(l.out, ref, e, l.long)
	}
	b, err := json.Marshal(toEntryJSON(ref, e))
	if err != nil {
		return err
	}
	return l.write(",", string(b))
}

// write writes a piece of the result object; between goes in front of it,
// unless it is the first one.
func (l *Entries) write(between, piece string) error {
	if !l.begun {
		l.begun, between = true, `{"type":"result","entries":[`
	}
	_, err := l.out.Stdout.Write(printable.JSON([]byte(between + piece)))
	return err
}

// End completes the result object with the fields of rest, which is a struct. An
// error that ended the listing before its first entry leaves no result.
func (l *Entries) End(rest any, err error) error {
	if !l.out.JSON || err != nil && !l.begun {
		return err
	}
	b, merr := json.Marshal(rest)
	if merr != nil {
		return errors.Join(merr, err)
	}
	return errors.Join(l.write("", "],"+string(b[1:])+"\n"), err)
}

// entryJSON is an entry as --json prints it.
type entryJSON struct {
	Ref string `json:"ref,omitempty"` // of its snapshot; of what find found
	console.PathJSON
	Type        string   `json:"type"`
	Size        uint64   `json:"size"`
	Mode        string   `json:"mode"`
	UID         uint32   `json:"uid"`
	GID         uint32   `json:"gid"`
	User        string   `json:"user,omitempty"`
	Group       string   `json:"group,omitempty"`
	Mtime       timeJSON `json:"mtime"`
	Target      string   `json:"target,omitempty"`
	ExactTarget []byte   `json:"target_base64,omitempty"`
	Flags       []string `json:"flags,omitempty"` // what could not be captured as it was
}

func toEntryJSON(ref string, e *manifest.Entry) entryJSON {
	return entryJSON{ref, console.JSONPath(e.Path), e.Type.String(), e.Size, fmt.Sprintf("%04o", e.Mode), e.UID, e.GID, e.User, e.Group, timeJSON(e.Mtime), e.Target, console.Exact(e.Target), flagWords(e.Flags)}
}

// printEntry prints one line of a listing for people; ref, unless it is empty,
// in front.
func printEntry(out *console.Console, ref string, e *manifest.Entry, long bool) error {
	name := printable.Name("/" + e.Path)
	if ref != "" {
		ref += "  "
	}
	if !long {
		name = ref + name
		_, err := fmt.Fprintln(out.Stdout, name)
		return err
	}
	if e.Type == manifest.Symlink {
		name += " -> " + printable.Name(e.Target)
	}
	for _, x := range flagTexts {
		if e.Flags&x.flag != 0 {
			name += " (" + x.text + ")"
		}
	}
	_, err := fmt.Fprintf(out.Stdout, "%s%s %-8s %-8s %12d %s %s\n", ref, modeText(e), ownerText(e.User, e.UID), ownerText(e.Group, e.GID), e.Size, timeText(e.Mtime, time.Local, "2006-01-02 15:04:05"), name)
	return err
}

func ownerText(name string, id uint32) string {
	if name != "" {
		return printable.Name(name)
	}
	return fmt.Sprint(id)
}

// modeText is the mode as ls(1) prints it.
func modeText(e *manifest.Entry) string {
	kind := map[manifest.Type]byte{manifest.Dir: 'd', manifest.Symlink: 'l', manifest.Fifo: 'p', manifest.Socket: 's', manifest.CharDevice: 'c', manifest.BlockDevice: 'b'}
	text := []byte("-rwxrwxrwx")
	if k, ok := kind[e.Type]; ok {
		text[0] = k
	}
	for i := range 9 {
		if e.Mode&(0o400>>i) == 0 {
			text[1+i] = '-'
		}
	}
	for _, special := range []struct {
		bit    uint32
		at     int
		letter byte // in capitals where execution is not allowed
	}{{0o4000, 3, 's'}, {0o2000, 6, 's'}, {0o1000, 9, 't'}} {
		if e.Mode&special.bit == 0 {
			continue
		}
		if text[special.at] == '-' {
			special.letter -= 'a' - 'A'
		}
		text[special.at] = special.letter
	}
	return string(text)
}

// maxNamed is how many of the entries that share a flag are named.
const maxNamed = 5

// flagTexts are the flags of entries where something was not captured as it was.
var flagTexts = []struct {
	flag       manifest.Flags
	word, text string
}{
	{manifest.ContentUnread, "content_unread", "could not be read whole"},
	{manifest.ListingUnread, "listing_unread", "could not be listed whole"},
	{manifest.Changed, "changed", "changed while it was read"},
	{manifest.MetadataIncomplete, "metadata_incomplete", "lacks some metadata"},
}

// flagWords are the flags of an entry in --json.
func flagWords(f manifest.Flags) (out []string) {
	for _, t := range flagTexts {
		if f&t.flag != 0 {
			out = append(out, t.word)
		}
	}
	return out
}

// flaggedJSON is an entry whose capture may not show it as it was.
type flaggedJSON struct {
	console.PathJSON
	Flags []string `json:"flags"`
}

// printFlagged prints that the snapshot is partial, and names what was restored
// although its capture may not show it as it was.
func printFlagged(out *console.Console, t *snapshot.Tree, r *restore.Result) {
	if t.Snapshot.Body.Status != statement.Partial {
		return
	}
	out.Messagef("note: %s is partial: knowngood show --problems %s lists what was not captured as it should", t.Snapshot.Ref(), t.Snapshot.Ref())
	if r.FlaggedCount == 0 {
		return
	}
	for i, f := range r.Flagged {
		if i == maxNamed {
			out.Messagef("note: and %s more", human.Counted(r.FlaggedCount-maxNamed, "such entry"))
			return
		}
		for _, x := range flagTexts {
			if f.Flags&x.flag != 0 {
				out.Messagef("note: %s %s", printable.Name("/"+f.Path), x.text)
			}
		}
	}
}
