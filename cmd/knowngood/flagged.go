package main

import (
	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/internal/printable"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/statement"
)

// maxNamed is how many of the entries that share a flag are named.
const maxNamed = 5

// flagTexts are the flags that say that something was not captured as it was.
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

func flaggedJSONs(list []restore.Flagged) []flaggedJSON {
	out := []flaggedJSON{}
	for _, f := range list {
		out = append(out, flaggedJSON{console.JSONPath(f.Path), flagWords(f.Flags)})
	}
	return out
}

// printFlagged says that the snapshot is partial, and names what was restored
// although its capture may not show it as it was.
func (a *app) printFlagged(t *snapshot.Tree, r *restore.Result) {
	if t.Snapshot.Body.Status != statement.Partial {
		return
	}
	a.out.Messagef("note: %s is partial: knowngood show --problems %s lists what was not captured as it should", t.Snapshot.Ref(), t.Snapshot.Ref())
	if r.FlaggedCount == 0 {
		return
	}
	for i, f := range r.Flagged {
		if i == maxNamed {
			a.out.Messagef("note: and %s more", human.Counted(r.FlaggedCount-maxNamed, "such entry"))
			return
		}
		for _, x := range flagTexts {
			if f.Flags&x.flag != 0 {
				a.out.Messagef("note: %s %s", printable.Name("/"+f.Path), x.text)
			}
		}
	}
}
