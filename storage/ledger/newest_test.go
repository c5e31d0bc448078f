package ledger_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"knowngood/storage/authentic"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/localstate"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

func TestNewest(t *testing.T) {
	t.Run("the newest statement is remembered", func(t *testing.T) {
		_, owner, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		epoch := func(number uint64) *statement.Epoch {
			secret, err := seal.NewEpochSecret()
			if err != nil {
				t.Fatal(err)
			}
			object, err := (&statement.Epoch{Number: number, PublicKey: secret.Public(), Recipients: []string{"age1x"}, Created: time.Unix(1, 0)}).Encode(owner)
			if err != nil {
				t.Fatal(err)
			}
			x, err := statement.ParseEpoch(object)
			if err != nil {
				t.Fatal(err)
			}
			return x
		}
		one, two, three, other := epoch(1), epoch(2), epoch(3), epoch(2)
		type shown = []*statement.Epoch
		for name, c := range map[string]struct {
			before, then shown // what the store shows at first, and later
			whole        bool
			newest, lost *statement.Epoch // by what is shown later
			next         *statement.Epoch // by a store that shows nothing after that
		}{
			"nothing at all":                       {},
			"the first one":                        {then: shown{one}, newest: one, next: one},
			"the same again":                       {before: shown{two, one}, then: shown{two, one}, newest: two, next: two},
			"a newer one":                          {before: shown{one}, then: shown{two}, newest: two, next: two},
			"nothing any more":                     {before: shown{two}, newest: two, lost: two, next: two},
			"an older one":                         {before: shown{two}, then: shown{one}, newest: two, lost: two, next: two},
			"another of its number":                {before: shown{two}, then: shown{other}, newest: two, lost: two, next: two},
			"a newer one, of all, with it":         {before: shown{two}, then: shown{three, two}, whole: true, newest: three, next: three},
			"a newer one, of all, in place of it":  {before: shown{two}, then: shown{three, one}, whole: true, newest: three, lost: two, next: three},
			"another of its number, below a newer": {before: shown{two}, then: shown{three, other}, whole: true, newest: three, lost: two, next: three},
		} {
			t.Run(name, func(t *testing.T) {
				state := &localstate.State{Root: t.TempDir()}
				var found []error
				open := func() *ledger.Newest[*statement.Epoch] {
					n := ledger.Remember(&ledger.Ledger[*statement.Epoch]{
						Reader: authentic.NewReader(storagetest.NewMemory(), func(f authentic.Finding) { found = append(found, f.Err) }),
						Prefix: layout.PrefixEpochs, What: "epoch", Parse: statement.ParseEpoch,
						Number: layout.ParseEpochKey, Key: func(x *statement.Epoch) string { return layout.KeyEpoch(x.Number) },
					}, state, "epoch")
					n.Whole = c.whole
					return n
				}
				demand := func(n *ledger.Newest[*statement.Epoch], s shown, newest, lost *statement.Epoch) {
					t.Helper()
					found = nil
					gotNewest, gotLost, err := n.Update(s)
					if err != nil || text(gotNewest) != text(newest) || text(gotLost) != text(lost) {
						t.Errorf("newest %s, lost %s, %v; want %s and %s", text(gotNewest), text(gotLost), err, text(newest), text(lost))
					}
					var tampered *authentic.TamperError
					if (lost != nil) != (len(found) == 1 && errors.As(found[0], &tampered)) {
						t.Errorf("reported is %v", found)
					}
				}
				n := open()
				if len(c.before) > 0 {
					demand(n, c.before, c.before[0], nil)
				}
				demand(n, c.then, c.newest, c.lost)
				demand(open(), nil, c.next, c.next)

				if c.next == nil {
					return
				}
				if err := os.WriteFile(state.Dir().Path("epoch"), []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
				if _, _, err := open().Update(c.then); err == nil || !strings.Contains(err.Error(), "remove it to forget which epoch was seen") {
					t.Errorf("a damaged file: %v", err)
				}
			})
		}
	})
}

func text(x *statement.Epoch) string {
	if x == nil {
		return "none"
	}
	return fmt.Sprintf("%d (%x)", x.Number, x.Hash())
}
