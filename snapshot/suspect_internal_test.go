package snapshot

import (
	"os"
	"reflect"
	"testing"
	"time"

	"knowngood/internal/userdir"
	"knowngood/snapshot/suspect"
	"knowngood/storage/statement"
)

// A loss of power may leave any part of a file that was not synced.
func TestReference(t *testing.T) {
	t.Parallel()

	t.Run("one that is not whole is none", func(t *testing.T) {
		t.Parallel()
		dir := userdir.At(t.TempDir()).In("env", "web")
		want := judgement{Number: 43, Accepted: 7}
		want.Reference = want.Reference.With(suspect.Snapshot{Number: 43, Time: time.Unix(1_800_000_000, 0).UTC(), Sources: []statement.SourceCounts{{}}})
		if err := want.writeUnsynced(dir); err != nil {
			t.Fatal(err)
		}
		if got := readJudgement(dir); !reflect.DeepEqual(got, want) {
			t.Fatalf("read %+v, want %+v", got, want)
		}
		if names, err := dir.Names(); err != nil || len(names) != 1 {
			t.Errorf("it leaves %v, %v", names, err)
		}

		whole, err := os.ReadFile(dir.Path(referenceFile))
		if err != nil {
			t.Fatal(err)
		}
		for n := range len(whole) {
			for _, tail := range [][]byte{nil, make([]byte, len(whole)-n)} {
				if err := dir.ReplaceUnsynced(referenceFile, append(whole[:n:n], tail...)); err != nil {
					t.Fatal(err)
				}
				if got := readJudgement(dir); !reflect.DeepEqual(got, judgement{}) {
					t.Fatalf("of %d bytes of %d it reads %+v", n, len(whole), got)
				}
			}
		}
	})
}
