package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/usage"
	"knowngood/daemon/checking"
	"knowngood/internal/printable"
	"knowngood/snapshot/check"
	"knowngood/storage/layout"
)

func checkCommand(a *app) *cobra.Command {
	var readData string
	var locks, repair bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Verify that what is stored is whole",
		Long: `Verify roots, signatures and chains, manifests, the index against the packs, and
that every chunk of every snapshot is there. --read-data also reads and verifies
every byte, or a share: --read-data=10% reads others from day to day. Where the
repository has locks, the store is asked how long those last of what the newest
snapshot of each environment needs, of at most 1000 packs and manifest containers
a day; --locks asks for those of all that kept snapshots need.

Damaged objects are named with the files and snapshots that they hurt; the exit
code is 13 then. What the newest snapshot of an environment has is stored again by
the command that is printed, as far as it did not change since; what only older
snapshots have is marked as lost. An object that no kept snapshot needs is a note.

--repair, on the host whose snapshots they are, first rebuilds the index where runs
of it are missing or damaged: what they held is read from the packs and published
again. It writes nothing else. The check then names, snapshot by snapshot, the files
that are lost for good. Without an identity it repairs and checks the structure.`,
		Example: `  knowngood check
  knowngood check --read-data
  knowngood check --read-data=10% --json
  knowngood check --repair`,
		Args: usage.Takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			share, err := percent(readData)
			if err != nil {
				return err
			}
			o := check.Options{ReadData: share, Locks: locks, Progress: &check.Progress{}}
			r, err := a.openForCheck(cmd.Context(), repair, &o)
			if err != nil {
				return err
			}
			if a.out.JSON {
				o.Progress.Hurt = func(object string, h check.Hurt) {
					a.out.Result(hurtLine{"hurt", object, toHurtJSON(h)})
				}
			}
			began := time.Now()
			o.Found = a.findings.Take()
			p := a.out.Progress(func() console.State {
				return console.State{Bytes: o.Progress.Bytes.Load(), Note: fmt.Sprintf("%d of %s", o.Progress.PacksDone.Load(), human.Counted(o.Progress.Packs.Load(), "pack"))}
			})
			report, err := check.Run(cmd.Context(), r, o)
			p.End()
			if err != nil {
				return err
			}
			command := "check"
			if repair {
				command += " --repair"
			}
			if share > 0 {
				command += " --read-data=" + readData
			}
			a.recordCheck(checking.ByHand{Repository: r.ID().String(), Began: began, Command: command, Structure: true, Data: share >= 1, Finding: checking.FindingOf(report, a.host)})
			if repair {
				a.printRepair(report, o.Sealed)
			}
			return a.tellCheck(report)
		},
	}
	cmd.Flags().StringVar(&readData, "read-data", "", "read every byte, or a `percentage` of the packs")
	usage.Optional(cmd.Flags().Lookup("read-data"), "100%")
	cmd.Flags().BoolVar(&repair, "repair", false, "rebuild this host's index from the packs, and name what is lost for good")
	cmd.Flags().BoolVar(&locks, "locks", false, "ask the store for the lock of everything that kept snapshots need")
	return cmd
}

func percent(text string) (float64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || n <= 0 || n > 100 {
		return 0, usage.Errorf("--read-data: %q is not a percentage from 0 to 100", text)
	}
	return n / 100, nil
}

// recordCheck has the daemon of this machine's host count a check by hand.
func (a *app) recordCheck(h checking.ByHand) {
	if own := a.ownHost(); own == "" || own != a.host {
		return // it says nothing of what this machine stored
	}
	if err := h.Record(a.stateDir); err != nil {
		a.out.Notef("status will not count this check: %v", err)
	}
}

func (a *app) tellCheck(r *check.Report) error {
	list := []damageJSON{}
	for _, d := range r.Damage {
		a.foundDamaged(d.Object)
		hurts := []hurtJSON{}
		for _, h := range d.Hurts {
			hurts = append(hurts, toHurtJSON(h))
		}
		list = append(list, damageJSON{d.Object, d.Err.Error(), d.Lock, hurts, d.Count})
	}
	for _, object := range r.Spoiled {
		a.foundDamaged(object)
	}
	a.printDamage(r.Damage)
	for _, n := range r.Notes {
		a.out.Printf("note: %s\n", n)
	}
	unneeded := []unneededJSON{}
	for _, u := range r.Unneeded {
		a.out.Printf("note: %s\n", u)
		unneeded = append(unneeded, unneededJSON(u))
	}
	read := " by their lists (--read-data reads the content)"
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
		verdict += ", " + english.Plural(short, "snapshot is", "snapshots are") + " LOCKED FOR LESS than their roots say"
	}
	if r.Locks > 0 {
		read += ", the locks of " + human.Counted(r.Locks, "object")
	}
	forgotten := ""
	if r.Forgotten > 0 {
		forgotten = fmt.Sprintf(" (the roots alone of %s that are forgotten)", human.Count(r.Forgotten))
	}
	a.out.Printf("checked %s%s, %s, %s%s: %s; %s\n", human.Counted(r.Snapshots, "snapshot"), forgotten, human.Counted(r.Packs, "pack"), human.Counted(r.Chunks, "chunk"), read, verdict, human.Duration(r.Duration))
	store := a.repo.Probed()
	a.printUnprotected(store)
	err := a.out.Result(map[string]any{"type": "result", "store": toStoreJSON(store), "snapshots": r.Snapshots, "forgotten": r.Forgotten, "packs": r.Packs, "containers": r.Containers, "chunks": r.Chunks, "segments": r.Segments,
		"bytes_read": r.BytesRead, "locks": r.Locks, "damage": list, "heals": healsJSON(r.Heals), "lost": listed(r.Lost), "lost_files": lostJSON(r.LostFiles), "repaired": listed(r.Repaired), "unneeded": unneeded, "notes": listed(r.Notes), "duration_seconds": r.Duration.Seconds()})
	if err == nil && len(list) > 0 {
		switch n := len(list) - short; n {
		case 0:
			err = fmt.Errorf("%w: locks of %s end before its root says", exit.ErrDamage, human.Counted(short, "snapshot"))
		default:
			err = fmt.Errorf("%w: %s%s", exit.ErrDamage, human.Counted(n, "object"), remedies(r))
		}
	}
	return err
}

// notConfigured follows commands that name environments as the configuration does.
const notConfigured = "(one that is not configured: knowngood snapshot --env NAME --verify PATH...)"

// remedies says what heals some of the damage, and what nothing does.
func remedies(r *check.Report) string {
	var text strings.Builder
	for i, h := range r.Heals {
		if i == 0 {
			text.WriteString("; what did not change since is stored again by these commands")
		}
		fmt.Fprintf(&text, ", on host %s: knowngood snapshot %s --verify", h.Host, h.Environment)
	}
	if len(r.Heals) > 0 {
		text.WriteString(" " + notConfigured)
	}
	if n := len(r.Lost); n > 0 {
		fmt.Fprintf(&text, "; no snapshot heals all of %s", strings.Join(r.Lost[:min(n, firstDamaged)], ", "))
		if n > firstDamaged {
			fmt.Fprintf(&text, " and %s more", human.Count(uint64(n-firstDamaged)))
		}
		text.WriteString(": what is marked as lost above must come from another copy of the repository, or be forgotten (knowngood forget)")
	}
	indexed, inOthers := map[string]bool{}, false
	for _, d := range r.Damage {
		if host, run := runOf(d.Object); run {
			indexed[host] = true
		} else if !d.Lock {
			inOthers = true
		}
	}
	for _, host := range slices.Sorted(maps.Keys(indexed)) {
		fmt.Fprintf(&text, "; the index of host %s is rebuilt there by knowngood check --repair", host)
	}
	if len(r.Heals)+len(r.Lost) == 0 && inOthers {
		text.WriteString("; no snapshot heals this: it must come from another copy of the repository")
	}
	return text.String()
}

// runOf reports whether a damaged object is an index run, and of which host.
func runOf(object string) (host string, run bool) {
	host, rest, _ := strings.Cut(strings.TrimPrefix(object, layout.PrefixHosts), "/")
	return host, strings.HasPrefix(object, layout.PrefixHosts) && strings.HasPrefix(rest, "index/")
}

// healJSON is a run that heals some of the damage.
type healJSON struct {
	Host        string `json:"host"`
	Environment string `json:"environment"`
}

func healsJSON(heals []check.Healing) []healJSON {
	out := []healJSON{}
	for _, h := range heals {
		out = append(out, healJSON(h))
	}
	return out
}

// unneededJSON counts the objects of a host that nothing needs.
type unneededJSON struct {
	Host    string `json:"host"`
	Objects int    `json:"objects"`
	Bytes   uint64 `json:"bytes"`
}

// damageJSON is a damaged object as --json prints it, with some of what it hurts.
type damageJSON struct {
	Object string     `json:"object"`
	Error  string     `json:"error"`
	Lock   bool       `json:"lock,omitempty"` // only locks end too early
	Hurts  []hurtJSON `json:"hurts"`
	Count  int        `json:"hurts_count"`
}

// hurtJSON is a file that cannot be restored, or says in words what cannot.
type hurtJSON struct {
	Ref string `json:"ref"`
	*console.PathJSON
	Part string `json:"part,omitempty"`
	Lost bool   `json:"lost,omitempty"`
}

// hurtLine is printed for each file that damage hurts, as it is found.
type hurtLine struct {
	Type   string `json:"type"`
	Object string `json:"object"`
	hurtJSON
}

func toHurtJSON(h check.Hurt) hurtJSON {
	if h.Part != "" {
		return hurtJSON{Ref: h.Ref, Part: h.Part, Lost: h.Lost}
	}
	path := console.JSONPath(h.Path)
	return hurtJSON{Ref: h.Ref, PathJSON: &path, Lost: h.Lost}
}

// firstDamaged is how many objects are shown that are damaged in the same way,
// and how many files of each.
const firstDamaged = 10

// printDamage shows damaged objects and whom they hurt; of many that are damaged
// in the same way the first few, and how many more there are.
func (a *app) printDamage(damage []check.Damage) {
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
			a.printHurts(d)
		}
		if more > 0 {
			files := 0
			for _, d := range group[len(group)-more:] {
				files += d.Count
			}
			a.out.Printf("and %s more, hurting %s: %s\n", human.Count(more), human.Counted(files, "file"), text)
		}
	}
}

func (a *app) printHurts(d check.Damage) {
	what := "DAMAGED"
	if d.Lock {
		what = "SHORTER"
	}
	a.out.Printf("%s %s\n  %s\n", what, d.Object, printable.Error(d.Err))
	shown := d.Hurts
	if d.Count > firstDamaged+1 {
		shown = shown[:firstDamaged]
	}
	for _, h := range shown {
		lost := ""
		if h.Lost {
			lost = " (lost)"
		}
		a.out.Printf("  hurts %s%s\n", printable.Name(h.String()), lost)
	}
	if more := d.Count - len(shown); more > 0 {
		a.out.Printf("  and %s\n", human.Counted(more, "more file"))
	}
}
