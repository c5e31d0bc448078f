package statement

import (
	"testing"

	"knowngood/storage/seal"
)

func TestRepack(t *testing.T) {
	t.Run("a repack is split into what fits", testARepackIsSplitIntoWhatFits)
}

// The parts of a split repack fit statements, and have the same moves together.
func testARepackIsSplitIntoWhatFits(t *testing.T) {
	numbered := func(first, n int) [][32]byte { return many(first + n)[first:] }
	for name, x := range map[string]Repack{
		"that fits":         {numbered(0, 3), []Move{{numbered(10, 2), numbered(20, 1)}}},
		"of many manifests": {numbered(0, 60), []Move{{numbered(100, 20), numbered(200, 20)}}},
		"of many moves": {numbered(0, 7), func() (out []Move) {
			for i := range 50 {
				out = append(out, Move{numbered(100+i, 1), numbered(200+i, i%4)})
			}
			return out
		}()},
		"of a large move": {numbered(0, 1), []Move{{numbered(100, 250), numbered(400, 20)}, {numbered(500, 3), nil}}},
		"of many of both": {numbered(0, 90), []Move{{numbered(100, 24), numbered(200, 24)}, {numbered(130, 1), nil}, {numbered(150, 49), numbered(300, 1)}}},
	} {
		t.Run(name, func(t *testing.T) {
			const limit = 100
			moves := func(list []Repack) map[[2][32]byte]int {
				out := map[[2][32]byte]int{}
				for _, x := range list {
					for _, m := range x.Manifests {
						for _, move := range x.Moves {
							for _, old := range move.Old {
								out[[2][32]byte{m, old}] += 1 + len(move.New)
							}
						}
					}
				}
				return out
			}
			parts := x.Split(limit)
			for _, p := range parts {
				if p.Hashes() > limit || len(p.Manifests) == 0 || len(p.Moves) == 0 {
					t.Errorf("a part of %d manifests and %d moves names %d hashes", len(p.Manifests), len(p.Moves), p.Hashes())
				}
				d := &Deletion{Repository: repo, Host: "web-7", Domain: seal.DomainID{5}, Serial: 1, Since: 1, Made: at, Repacks: []Repack{p}}
				if _, err := d.Encode(ownerKey); err != nil {
					t.Errorf("a part is no repack: %v", err)
				}
			}
			want, got := moves([]Repack{x}), moves(parts)
			if len(want) == 0 || len(want) != len(got) {
				t.Fatalf("%d sayings became %d", len(want), len(got))
			}
			for k, n := range want {
				if got[k] != n {
					t.Errorf("%v: %d became %d", k, n, got[k])
				}
			}
			if fits := x.Hashes() <= limit; fits != (len(parts) == 1) {
				t.Errorf("%d hashes in %d parts", x.Hashes(), len(parts))
			}
		})
	}
}
