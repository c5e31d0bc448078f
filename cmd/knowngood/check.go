package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/daemon/checking"
	"knowngood/snapshot/check"
)

func checkCommand(sess *session.Session) *cobra.Command {
	var readData string
	var locks, repair bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Verify that what is stored is whole",
		Long: `Verify roots, signatures and chains, manifests, the index against the packs, and
that every chunk of every snapshot is there. --read-data also reads and verifies
every byte, or a share: --read-data=10% reads others from day to day. What this host
found damaged before is always read again. Where the
repository has locks, the store is asked how long those last of what the newest
snapshot of each environment needs, of at most 1000 packs and manifest containers
a day; --locks asks for those of all that kept snapshots need.

Damaged objects are named with the files and snapshots that they affect; the exit
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
			r, err := openForCheck(cmd.Context(), sess, repair, &o)
			if err != nil {
				return err
			}
			if sess.Out.JSON {
				o.Progress.Affected = func(object string, h check.Affected) {
					present.Affected(sess.Out, object, h)
				}
			}
			o.Found = sess.Findings.Take()
			began := time.Now()
			p := sess.Out.Progress(func() console.State {
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
			session.RecordCheck(sess, checking.ByHand{Repository: r.ID().String(), Began: began, Command: command, Structure: true, Data: share >= 1, Finding: checking.FindingOf(report, sess.Host)})
			if repair {
				present.Repair(sess.Out, report, o.Sealed)
			}
			for _, d := range report.Damage {
				sess.Damage.AddObject(d.Object)
			}
			for _, object := range report.Spoiled {
				sess.Damage.AddObject(object)
			}
			return present.Check(sess.Out, report, r.URL(), r.Probed())
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
