package deletion

import (
	"slices"
	"testing"

	"knowngood/internal/wire"
	"knowngood/storage/statement"
)

// repacks are those of statements, the newest first.
func repacks(statements ...statement.Deletion) *Deletions {
	d := newDeletions()
	for i := range statements {
		d.addRepacks(&statements[i])
	}
	return d
}

func hashes(names string) (out [][32]byte) {
	for _, b := range []byte(names) {
		out = append(out, [32]byte{b})
	}
	return out
}

func repack(old, into, manifests string) statement.Deletion {
	return statement.Deletion{Repacks: []statement.Repack{{Manifests: hashes(manifests), Moves: []statement.Move{{Old: hashes(old), New: hashes(into)}}}}}
}

func TestRepacks(t *testing.T) {
	t.Run("a manifest needs what a pack was rewritten into", func(t *testing.T) {
		for name, c := range map[string]struct {
			statements []statement.Deletion // the newest first
			existing   string
			want       string // instead of pack a, for manifest m
		}{
			"the pack itself without statements":                {nil, "a", "a"},
			"the new packs":                                     {[]statement.Deletion{repack("ab", "cd", "mn")}, "cd", "cd"},
			"the new packs while the old one is there":          {[]statement.Deletion{repack("ab", "cd", "mn")}, "acd", "cd"},
			"the pack itself when it was rewritten for others":  {[]statement.Deletion{repack("ab", "cd", "n")}, "acd", "a"},
			"the newest of several":                             {[]statement.Deletion{repack("a", "e", "m"), repack("a", "c", "m")}, "ce", "e"},
			"the older when the newest is not for it":           {[]statement.Deletion{repack("a", "e", "n"), repack("a", "c", "m")}, "ce", "c"},
			"what the new ones were rewritten into":             {[]statement.Deletion{repack("c", "ef", "m"), repack("a", "cd", "m")}, "def", "efd"},
			"each once":                                         {[]statement.Deletion{repack("cd", "e", "m"), repack("a", "cd", "m")}, "e", "e"},
			"the pack itself while a new one is missing":        {[]statement.Deletion{repack("a", "cd", "m")}, "ac", "ca"},
			"a pack between while the newest is missing":        {[]statement.Deletion{repack("c", "e", "m"), repack("a", "cd", "m")}, "cd", "cd"},
			"each of two that were rewritten into what is gone": {[]statement.Deletion{repack("cd", "e", "m"), repack("a", "cd", "m")}, "cd", "cd"},
			"what is missing, when all is":                      {[]statement.Deletion{repack("a", "c", "m")}, "", "c"},
			"nothing, when nothing of it was":                   {[]statement.Deletion{repack("a", "", "m")}, "a", ""},
			"the part that is needed":                           {[]statement.Deletion{repack("c", "", "m"), repack("a", "cd", "m")}, "ad", "d"},
			"an end, where repacks go round":                    {[]statement.Deletion{repack("c", "a", "m"), repack("a", "c", "m")}, "a", "a"},
		} {
			t.Run(name, func(t *testing.T) {
				there := func(id ObjectID) bool { return slices.Contains(hashes(c.existing), id.Hash) }
				got := ""
				for _, id := range repacks(c.statements...).Resolve([32]byte{'m'}, ObjectID{Kind: wire.KindPack, Hash: [32]byte{'a'}}, there) {
					got += string(id.Hash[:1])
				}
				if got != c.want {
					t.Errorf("it needs %q, want %q", got, c.want)
				}
			})
		}
	})
}
