package drifts

import (
	"fmt"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/internal/printable"
	"knowngood/restore/drift"
)

var marks = map[drift.Change]string{drift.Added: "+", drift.Removed: "-", drift.Changed: "M", drift.Metadata: "m"}

// print prints a comparison, and sets the exit code. One after which something is put back
// is not the result.
func (c *comparison) print(out *console.Console, result bool) error {
	c.problems.End()
	rows, more := c.set.Rows()
	counts, always := map[drift.Change]int{}, map[string]int{}
	for _, r := range rows {
		counts[r.Change]++
		always[r.Why]++
		why := ""
		if r.Why != "" {
			why = "  (" + r.Why + ")"
		}
		out.Printf("%s %s%s\n", marks[r.Change], printable.Name("/"+r.Path), why)
		if err := out.Result(struct {
			Type   string       `json:"type"`
			Change drift.Change `json:"change"`
			Why    string       `json:"why,omitempty"`
			console.PathJSON
		}{"difference", r.Change, r.Why, console.JSONPath(r.Path)}); err != nil {
			return err
		}
	}
	groups := c.set.Groups()
	for _, g := range groups {
		out.Printf("%s (%s)\n", printable.Line(text(g)), human.Counted(g.Paths, "path"))
	}
	out.Code = c.code()
	switch {
	case len(rows)+more == 0:
		out.Printf("%s: nothing differs from %s\n", c.Environment, c.From)
	case more > 0:
		out.Printf("%s: %s from %s differ in more paths than can be listed: %s are not\n", c.Environment, c.To, c.From, human.Count(more))
	default:
		out.Printf("%s, from %s to %s: %d added, %d removed, %d changed, %d with other metadata\n", c.Environment, c.From, c.To, counts[drift.Added], counts[drift.Removed], counts[drift.Changed], counts[drift.Metadata])
	}
	kind := "comparison"
	if result {
		kind = "result"
	}
	return out.Result(map[string]any{"type": kind, "environment": c.Environment, "from": c.From, "to": c.To, "paths": len(rows) + more, "unlisted": more,
		"added": counts[drift.Added], "removed": counts[drift.Removed], "changed": counts[drift.Changed], "metadata": counts[drift.Metadata],
		"set_uid": always[drift.SetUID], "new_programs": always[drift.Program], "units": always[drift.Unit], "explained": groups, "problems": c.problems.Count()})
}

// text is a group in words.
func text(g *drift.Group) string {
	switch {
	case g.What == "database":
		return "the package database itself"
	case g.What == "data":
		return "data /" + g.Name
	case g.What == "ignored":
		return "left out by drift.ignore"
	case g.From == "":
		return fmt.Sprintf("changed by packages: %s %s installed", g.Name, g.To)
	case g.To == "":
		return fmt.Sprintf("changed by packages: %s %s removed", g.Name, g.From)
	case g.From == g.To:
		return fmt.Sprintf("as packages have it: %s %s", g.Name, g.To)
	}
	return fmt.Sprintf("changed by packages: %s %s → %s", g.Name, g.From, g.To)
}
