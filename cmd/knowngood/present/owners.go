package present

import (
	"fmt"

	"github.com/dustin/go-humanize/english"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/internal/printable"
	"knowngood/restore"
	"knowngood/restore/owners"
)

// shownOwners is how many users and groups are named that are not the same here.
const shownOwners = 10

// printOwners prints how owners were found, and which are different here.
func printOwners(out *console.Console, o *restore.Options, owners *owners.Report) {
	out.Printf("owners %s\n", ownerRule(o, owners))
	for i, c := range owners.Changes {
		if i == shownOwners && len(owners.Changes) > shownOwners+1 {
			out.Messagef("note: and %s: --json lists all", moreOwners(uint64(len(owners.Changes)-i)+owners.More))
			return
		}
		out.Messagef("note: %s", changedOwner(&c, o.DryRun))
	}
}

func ownerRule(o *restore.Options, owners *owners.Report) string {
	switch {
	case o.Owners.Keep:
		return "not set: all files are those of the current user"
	case o.Owners.Numeric:
		return "by number, as asked for"
	case owners.ByNumber:
		return "by number, as the etc/passwd that is restored with them has them"
	}
	return "by name, as this machine has them"
}

// changedOwner describes what is different here about a user or group.
func changedOwner(c *owners.Change, dryRun bool) string {
	kind, whose := "user", "nobody's here"
	if c.Group {
		kind = "group"
	}
	if c.Here != "" {
		whose = fmt.Sprintf("which here is %s", printable.Name(c.Here))
	}
	kept, given := "kept", "given"
	if dryRun {
		kept, given = "would keep", "would be given"
	}
	where := ""
	if c.InACL {
		where = " of access lists"
	}
	amount := human.Counted(c.Count, "file")
	if c.Count == 1 {
		amount = "1 file"
	}
	switch {
	case c.Name == "" && c.InACL:
		return fmt.Sprintf("%s %d%s has no name that the snapshot knows: %s the number, %s (%s)", kind, c.Number, where, kept, whose, amount)
	case c.Name == "":
		return fmt.Sprintf("%s %d has no name in the snapshot: %s the number, %s (%s)", kind, c.Number, kept, whose, amount)
	case c.Missing:
		return fmt.Sprintf("%s %s%s does not exist here: %s number %d, %s (%s)", kind, printable.Name(c.Name), where, kept, c.Number, whose, amount)
	}
	return fmt.Sprintf("%s %s%s is %d in the snapshot and %d here: %s %d (%s)", kind, printable.Name(c.Name), where, c.Number, c.Given, given, c.Given, amount)
}

// ownersJSON is how owners were found, as --json prints it.
type ownersJSON struct {
	By      string            `json:"by"` // name, number or nobody
	Changes []ownerChangeJSON `json:"changes"`
	More    uint64            `json:"more_changes"`
}

type ownerChangeJSON struct {
	Kind    string `json:"kind"` // user or group
	Name    string `json:"name,omitempty"`
	Number  uint32 `json:"number"`
	Given   uint32 `json:"given"`
	Missing bool   `json:"missing"` // this machine does not have the name
	Here    string `json:"here,omitempty"`
	InACL   bool   `json:"in_acl"`
	Files   uint64 `json:"files"`
}

func toOwnersJSON(o *restore.Options, owners *owners.Report) ownersJSON {
	j := ownersJSON{By: "name", Changes: []ownerChangeJSON{}, More: owners.More}
	switch {
	case o.Owners.Keep:
		j.By = "nobody"
	case owners.ByNumber:
		j.By = "number"
	}
	for _, c := range owners.Changes {
		kind := "user"
		if c.Group {
			kind = "group"
		}
		j.Changes = append(j.Changes, ownerChangeJSON{kind, c.Name, c.Number, c.Given, c.Missing, c.Here, c.InACL, c.Count})
	}
	return j
}

func moreOwners(n uint64) string {
	return human.Count(n) + " " + english.PluralWord(int(n), "more user or group that is not the same here", "more users and groups that are not the same here")
}
