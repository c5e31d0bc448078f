package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"knowngood/cmd/knowngood/console"
	"knowngood/internal/printable"
	"knowngood/snapshot/manifest"
)

// entryList prints the entries that ls and find list, as they come: people see
// a line for each. --json has one result object with all of them, which is
// written in pieces, because a snapshot can hold more entries than memory does.
// Nothing else may be printed with --json between the first add and end.
type entryList struct {
	a     *app
	long  bool
	begun bool // the result object
	count int
}

// listedJSON is the rest of the result of ls.
type listedJSON struct {
	Snapshot snapshotJSON `json:"snapshot"`
	console.PathJSON
}

// foundJSON is the rest of the result of find.
type foundJSON struct {
	Snapshots []snapshotJSON `json:"snapshots"` // that were searched as a whole
}

func (a *app) entryList(long bool) *entryList { return &entryList{a: a, long: long} }

// add prints an entry. People see ref in front, unless it is empty.
func (l *entryList) add(ref string, e *manifest.Entry) error {
	l.count++
	if !l.a.out.JSON {
		return l.a.printEntry(ref, e, l.long)
	}
	b, err := json.Marshal(toEntryJSON(ref, e))
	if err != nil {
		return err
	}
	return l.write(",", string(b))
}

// write writes a piece of the result object; between goes in front of it,
// unless it is the first one.
func (l *entryList) write(between, piece string) error {
	if !l.begun {
		l.begun, between = true, `{"type":"result","entries":[`
	}
	_, err := l.a.out.Stdout.Write(printable.JSON([]byte(between + piece)))
	return err
}

// end completes the result object with the fields of rest, which is a struct. An
// error that ended the listing before its first entry leaves no result.
func (l *entryList) end(rest any, err error) error {
	if !l.a.out.JSON || err != nil && !l.begun {
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
func (a *app) printEntry(ref string, e *manifest.Entry, long bool) error {
	name := printable.Name("/" + e.Path)
	if ref != "" {
		ref += "  "
	}
	if !long {
		name = ref + name
		_, err := fmt.Fprintln(a.out.Stdout, name)
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
	_, err := fmt.Fprintf(a.out.Stdout, "%s%s %-8s %-8s %12d %s %s\n", ref, modeText(e), ownerText(e.User, e.UID), ownerText(e.Group, e.GID), e.Size, timeText(e.Mtime, time.Local, "2006-01-02 15:04:05"), name)
	return err
}
