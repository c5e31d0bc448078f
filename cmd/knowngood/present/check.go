package present

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dustin/go-humanize/english"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/session"
	"knowngood/internal/printable"
	"knowngood/snapshot/check"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/statement"
)

func Check(out *console.Console, r *check.Report, url string, store *statement.Probe) error {
	list := console.Each(r.Damage, func(d check.Damage) damageJSON {
		return damageJSON{d.Object, d.Err.Error(), d.Lock, console.Each(d.Affected, toHurtJSON), d.Count}
	})
	printDamage(out, r.Damage)
	for _, n := range r.Notes {
		printNote(out, n)
	}
	for _, u := range r.Unneeded {
		printNote(out, u.String())
	}
	read := ", without reading their data (--read-data does that)"
	if r.BytesRead > 0 {
		read = fmt.Sprintf(", %s read and verified", human.Bytes(r.BytesRead))
	}
	short := 0
	for _, d := range r.Damage {
		if d.Lock {
			short++
		}
	}
	verdict := "no damage found"
	if n := len(list) - short; n > 0 {
		verdict = human.Counted(n, "object") + " DAMAGED"
	}
	if short > 0 {
		verdict += ", " + english.Plural(short, "snapshot is", "snapshots are") + " LOCKED FOR LESS than their roots claim"
	}
	if r.Locks > 0 {
		read += ", the locks of " + human.Counted(r.Locks, "object")
	}
	forgotten := ""
	if r.Forgotten > 0 {
		forgotten = fmt.Sprintf(" (only the roots of %s that are forgotten)", human.Count(r.Forgotten))
	}
	out.Printf("checked %s%s, %s, %s%s: %s; %s\n", human.Counted(r.Snapshots, "snapshot"), forgotten, human.Counted(r.Packs, "pack"), human.Counted(r.Chunks, "chunk"), read, verdict, human.Duration(r.Duration))
	Unprotected(out, url, store)
	err := out.Result(map[string]any{"type": "result", "store": StoreJSON(store), "snapshots": r.Snapshots, "forgotten": r.Forgotten, "packs": r.Packs, "containers": r.Containers, "chunks": r.Chunks, "segments": r.Segments,
		"bytes_read": r.BytesRead, "locks": r.Locks, "damage": list, "heals": r.Heals, "lost": r.Lost, "lost_files": r.LostFiles, "repaired": r.Repaired, "unneeded": r.Unneeded, "notes": r.Notes, "duration_seconds": r.Duration.Seconds()})
	if err == nil && len(list) > 0 {
		switch n := len(list) - short; n {
		case 0:
			err = fmt.Errorf("%w: locks of %s end earlier than its root claims", exit.ErrDamage, human.Counted(short, "snapshot"))
		default:
			err = fmt.Errorf("%w: %s%s", exit.ErrDamage, human.Counted(n, "object"), remedies(r, n))
		}
	}
	return err
}

// printNote prints a note in one line, even where it has line breaks.
func printNote(out *console.Console, text string) {
	out.Printf("note: %s\n", printable.Line(strings.ReplaceAll(text, "\n", "; ")))
}

// remedies are sentences on what is lost, and what heals the rest of the damage to so
// many objects.
func remedies(r *check.Report, objects int) string {
	var text strings.Builder
	if n := len(r.LostFiles); n > 0 {
		var lost []string
		for _, l := range r.LostFiles[:min(n, firstDamaged)] {
			what := human.Counted(l.Count, "file")
			if !strings.HasPrefix(l.Files[0], "/") {
				what = l.Files[0] // all of it
			}
			lost = append(lost, what+" of "+l.Ref)
		}
		if n > firstDamaged {
			lost = append(lost, human.Counted(n-firstDamaged, "more snapshot"))
		}
		fmt.Fprintf(&text, ". LOST: %s. Get the %s from another copy of the repository, or forget what cannot be restored (knowngood forget)", strings.Join(lost, ", "), english.PluralWord(objects, "object", "objects"))
	}
	for i, h := range r.Heals {
		if i == 0 {
			text.WriteString(". What did not change since is stored again by these commands")
		}
		fmt.Fprintf(&text, ", on host %s: knowngood snapshot %s --verify", h.Host, h.Environment)
	}
	if len(r.Heals) > 0 {
		text.WriteString(" " + session.NotConfigured)
	}
	text.WriteString(otherRemedies(r.Damage, len(r.Heals)+len(r.Lost) > 0))
	return text.String()
}

// otherRemedies returns what to do about damage, by the kind of the objects. Of packs and
// containers it returns nothing where the files that they affect were printed. Tampering,
// wrapped keys and the folders of no host have their remedy in the error.
func otherRemedies(damage []check.Damage, hurts bool) string {
	indexed, objects, uncertified := map[string]bool{}, map[string]bool{}, map[string]bool{}
	var roots []string
	others := false
	for _, d := range damage {
		host, run := runOf(d.Object)
		_, environment, number, root := layout.ParseRootKey(d.Object)
		certified, _, certificate := layout.ParseCertificateKey(d.Object)
		_, stored := deletion.ParseKey(d.Object)
		_, folder := layout.ParseHostPrefix(d.Object + "/")
		switch {
		case folder || d.Lock || authentic.Tampered(d.Err) || strings.HasPrefix(d.Object, "keys/"):
		case run:
			indexed[host] = true
		case root:
			roots = append(roots, fmt.Sprintf("%s/%s@%d", host, environment, number))
		case certificate:
			uncertified[certified] = true
		case stored && !hurts:
			objects[host] = true
		case !stored:
			others = true
		}
	}

	var text strings.Builder
	for _, host := range slices.Sorted(maps.Keys(indexed)) {
		fmt.Fprintf(&text, ". Rebuild the index on host %s: knowngood check --repair", host)
	}
	for _, host := range slices.Sorted(maps.Keys(objects)) {
		fmt.Fprintf(&text, ". The next knowngood snapshot on host %s stores again what is still there", host)
	}
	for _, host := range slices.Sorted(maps.Keys(uncertified)) {
		fmt.Fprintf(&text, ". Get the certificate of host %s from another copy of the repository, or make a new one on the host: knowngood init --join --reenrol", host)
	}
	if n := len(roots); n > 0 {
		fmt.Fprintf(&text, ". Get the roots from another copy of the repository; knowngood prune goes on without them after knowngood forget %s", strings.Join(roots[:min(n, firstDamaged)], " "))
	}
	if others {
		text.WriteString(". Get it from another copy of the repository: no snapshot heals it")
	}
	return text.String()
}

// runOf reports whether a damaged object is an index run, and of which host.
func runOf(object string) (host string, run bool) {
	host, rest, _ := strings.Cut(strings.TrimPrefix(object, layout.PrefixHosts), "/")
	return host, strings.HasPrefix(object, layout.PrefixHosts) && strings.HasPrefix(rest, "index/")
}

// damageJSON is a damaged object as --json prints it, with some of what it affects.
type damageJSON struct {
	Object   string     `json:"object"`
	Error    string     `json:"error"`
	Lock     bool       `json:"lock,omitempty"` // only locks end too early
	Affected []hurtJSON `json:"hurts"`
	Count    int        `json:"hurts_count"`
}

// hurtJSON is a file that cannot be restored, or a text that names what cannot.
type hurtJSON struct {
	Ref string `json:"ref"`
	*console.PathJSON
	Part string `json:"part,omitempty"`
	Lost bool   `json:"lost,omitempty"`
}

// Affected prints a file that damage affects, for --json.
func Affected(out *console.Console, object string, h check.Affected) {
	out.Result(hurtLine{"hurt", object, toHurtJSON(h)})
}

// hurtLine is printed for each file that damage affects, as it is found.
type hurtLine struct {
	Type   string `json:"type"`
	Object string `json:"object"`
	hurtJSON
}

func toHurtJSON(h check.Affected) hurtJSON {
	if h.Part != "" {
		return hurtJSON{Ref: h.Ref, Part: h.Part, Lost: h.Lost}
	}
	path := console.JSONPath(h.Path)
	return hurtJSON{Ref: h.Ref, PathJSON: &path, Lost: h.Lost}
}

// firstDamaged is how many objects are shown that are damaged in the same way,
// and how many files of each.
const firstDamaged = 10

// printDamage shows damaged objects and whom they affect; of many that are damaged
// in the same way the first few, and how many more there are.
func printDamage(out *console.Console, damage []check.Damage) {
	groups := map[string][]check.Damage{}
	var order []string
	for _, d := range damage {
		text := console.CauseOf("", d.Err)
		if groups[text] == nil {
			order = append(order, text)
		}
		groups[text] = append(groups[text], d)
	}

	for _, text := range order {
		group := groups[text]
		more := 0
		if len(group) > firstDamaged+1 {
			more = len(group) - firstDamaged
		}
		for _, d := range group[:len(group)-more] {
			printHurts(out, d)
		}
		if more > 0 {
			files := 0
			for _, d := range group[len(group)-more:] {
				files += d.Count
			}
			out.Printf("and %s more, affecting %s: %s\n", human.Count(more), human.Counted(files, "file"), text)
		}
	}
}

func printHurts(out *console.Console, d check.Damage) {
	what := "DAMAGED"
	if d.Lock {
		what = "SHORTER"
	}
	out.Printf("%s %s\n  %s\n", what, d.Object, printable.Error(d.Err))
	shown := d.Affected
	if d.Count > firstDamaged+1 {
		shown = shown[:firstDamaged]
	}
	hiddenLost := d.Lost
	for _, h := range shown {
		lost := ""
		if h.Lost {
			lost = " (lost)"
			hiddenLost--
		}
		out.Printf("  affects %s%s\n", printable.Name(h.String()), lost)
	}
	if more := d.Count - len(shown); more > 0 {
		lost := ""
		if hiddenLost > 0 {
			lost = fmt.Sprintf(", %s of them lost", human.Count(hiddenLost))
		}
		out.Printf("  and %s%s\n", human.Counted(more, "more file"), lost)
	}
}

// Repair shows what was repaired, and what is lost for good.
func Repair(out *console.Console, r *check.Report, sealed bool) {
	if n := len(r.Repaired); n == 0 {
		out.Printf("index: no run of it is missing or damaged, nothing to rebuild\n")
	} else {
		more := ""
		if n > firstDamaged {
			more = fmt.Sprintf(" and %s more", human.Count(uint64(n-firstDamaged)))
		}
		out.Printf("index: %s missing or damaged; what the packs hold of that is published again, in place of %s%s\n", english.Plural(n, "run was", "runs were"), strings.Join(r.Repaired[:min(n, firstDamaged)], ", "), more)
	}
	if sealed {
		out.Printf("note: without an identity the lists of files were not looked at: knowngood check --identity FILE names the files that are lost\n")
	}
	for _, l := range r.LostFiles {
		var names []string
		for _, f := range l.Files[:min(len(l.Files), firstDamaged)] {
			names = append(names, printable.Name(f))
		}
		more := ""
		if n := l.Count - len(names); n > 0 {
			more = fmt.Sprintf(" and %s", human.Counted(n, "more file"))
		}
		out.Printf("lost for good in %s: %s%s\n", l.Ref, strings.Join(names, ", "), more)
	}
}
