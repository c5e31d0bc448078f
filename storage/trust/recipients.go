package trust

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
	"knowngood/storage/ledger"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// Recipient is someone who can read.
type Recipient struct {
	Text        string
	Fingerprint string
	age         age.Recipient
}

// parseRecipients reads recipients, each once.
func parseRecipients(list []string) ([]Recipient, error) {
	var out []Recipient
	for _, text := range list {
		rc, err := parseRecipient(text)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(out, func(o Recipient) bool { return o.Text == rc.Text }) {
			out = append(out, rc)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no recipients: nobody could ever read the repository")
	}
	return out, nil
}

func parseRecipient(text string) (Recipient, error) {
	a, canonical, err := identity.ParseRecipient(text)
	return Recipient{canonical, layout.RecipientFingerprint(canonical), a}, err
}

func texts(list []Recipient) []string {
	out := make([]string, len(list))
	for i, rc := range list {
		out[i] = rc.Text
	}
	return out
}

// wrap creates the age file of a secret for one recipient, and reports whether
// there was one, which stays unchanged.
func (b *Base) wrap(ctx context.Context, key, label string, secret []byte, rc Recipient, now time.Time) (existed bool, err error) {
	file, err := identity.Wrap(label, secret, rc.age)
	if err != nil {
		return false, fmt.Errorf("recipient %s: %w", ShortRecipient(rc.Text), err)
	}
	err = b.Put(ctx, key, file, now)
	if errors.Is(err, storage.ErrExists) {
		return true, nil
	}
	return false, err
}

// wrapEpoch creates the age files of an epoch's secret, and reports whether any of
// them was not there.
func (b *Base) wrapEpoch(ctx context.Context, secret *seal.EpochSecret, recipients []Recipient, now time.Time) (made bool, err error) {
	bytes, err := secret.Bytes()
	if err != nil {
		return false, err
	}
	for _, rc := range recipients {
		existed, err := b.wrap(ctx, layout.KeyEpochSecret(secret.ID, rc.Fingerprint), identity.EpochSecret, bytes, rc, now)
		if err != nil {
			return made, err
		}
		made = made || !existed
	}
	return made, nil
}

// recipientNames lists, for a message, the recipients of the repository.
func (e *Epochs) recipientNames(ctx context.Context) string {
	newest, err := e.newest(ctx)
	if err != nil {
		return "the repository's recipients"
	}
	names := make([]string, len(newest.Recipients))
	for i, text := range newest.Recipients {
		names[i] = ShortRecipient(text)
	}
	return strings.Join(names, ", ")
}

// Recipients are those that a run that starts now seals to.
func (e *Epochs) Recipients(ctx context.Context) ([]Recipient, error) {
	newest, err := e.newest(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Recipient, len(newest.Recipients))
	for i, text := range newest.Recipients {
		out[i] = Recipient{Text: text, Fingerprint: layout.RecipientFingerprint(text)}
	}
	return out, nil
}

// RecipientChange is what adding or removing a recipient did.
type RecipientChange struct {
	Recipient Recipient
	Epoch     seal.EpochID // what runs seal to from now on
	// Past is whether the recipient can read what was captured before: after
	// adding, because the old keys were wrapped for it; after removing,
	// because nothing can take those keys back.
	Past bool
	// Notes are further messages for the user.
	Notes []string
}

// AddRecipient lets a further recipient read everything, past and future, of every
// host, and certify hosts as every recipient can. It takes an identity: the error
// is ErrNoUsableIdentity without one that opens the owner key.
func (e *Epochs) AddRecipient(ctx context.Context, text string, now time.Time) (*RecipientChange, error) {
	rc, err := parseRecipient(text)
	if err != nil {
		return nil, err
	}
	owner, err := e.keys.OwnerKey(ctx)
	if err != nil {
		return nil, err
	}
	change := &RecipientChange{Recipient: rc, Past: true}
	done := map[seal.EpochID]bool{}
	created, found := false, false // some wrapped key of it was missing; some was there
	for x, err := range e.all(ctx, e.ledger()) {
		if err != nil {
			return nil, err
		}
		if done[x.ID()] {
			continue
		}
		done[x.ID()] = true
		secret, err := e.keys.EpochSecret(ctx, x.ID())
		if err == nil {
			var made bool
			made, err = e.base.wrapEpoch(ctx, secret, []Recipient{rc}, now)
			created, found = created || made, found || !made
		}
		if errors.Is(err, ErrNoUsableIdentity) || authentic.Damaged(err) {
			change.Notes = append(change.Notes, fmt.Sprintf("it cannot read what was sealed to epoch %v, which the identity at hand does not open: %v", x.ID(), err))
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	existed, err := e.base.wrap(ctx, layout.KeyOwnerSecret(rc.Fingerprint), identity.OwnerSecret, owner.Seed(), rc, now)
	if err != nil {
		return nil, err
	}

	newest, err := e.newest(ctx)
	if err != nil {
		return nil, err
	}
	change.Epoch = newest.ID()
	// The same key is announced again, even where no recipient is new. Otherwise
	// hosts report a wrapped key that differs from the one before as damaged.
	x := &statement.Epoch{PublicKey: newest.PublicKey, Recipients: slices.Clone(newest.Recipients)}
	if !slices.Contains(newest.Recipients, rc.Text) {
		x.Recipients = append(x.Recipients, rc.Text)
		if found || existed {
			change.Past = false
			change.Notes = append(change.Notes, "wrapped keys for it were in the store already, and only its identity can check them: list the snapshots with that identity; if it opens nothing, remove what lies at keys/…/"+rc.Fingerprint+" and add it again")
		}
	} else if existed && !created {
		return change, nil
	}
	return change, e.announce(ctx, x, newest, owner, now)
}

// leastPrefix is how many characters name a recipient by the beginning of its
// fingerprint.
const leastPrefix = 4

// findRecipient is the place in a list of the recipient with this text, or with
// this fingerprint or the beginning of it; -1 when there is none.
func findRecipient(list []string, name string) (int, error) {
	found := -1
	for i, text := range list {
		fingerprint := layout.RecipientFingerprint(text)
		if text == name || fingerprint == name || fingerprint == layout.RecipientFingerprint(name) {
			return i, nil
		}
		if len(name) < leastPrefix || !strings.HasPrefix(fingerprint, strings.ToLower(name)) {
			continue
		}
		if found >= 0 {
			return -1, fmt.Errorf("the fingerprints of several recipients begin with %s, such as %s and %s: write more of it", name, layout.RecipientFingerprint(list[found]), fingerprint)
		}
		found = i
	}
	return found, nil
}

// RemoveRecipient removes a recipient, named by its text or its fingerprint, or the
// beginning of that, from the list for what is captured from now on. What was
// captured before stays readable to it. It needs an identity, as AddRecipient does.
func (e *Epochs) RemoveRecipient(ctx context.Context, name string, now time.Time) (*RecipientChange, error) {
	owner, err := e.keys.OwnerKey(ctx)
	if err != nil {
		return nil, err
	}
	newest, err := e.newest(ctx)
	if err != nil {
		return nil, err
	}
	name = strings.TrimSpace(name)
	i, err := findRecipient(newest.Recipients, name)
	if err != nil {
		return nil, err
	}
	if i < 0 {
		return nil, fmt.Errorf("%s is no recipient: there are %s", ShortRecipient(name), e.recipientNames(ctx))
	}
	if len(newest.Recipients) == 1 {
		return nil, errors.New("it is the only recipient: add another first, or nobody could read new snapshots")
	}

	removed := Recipient{Text: newest.Recipients[i], Fingerprint: layout.RecipientFingerprint(newest.Recipients[i])}
	left, err := parseRecipients(slices.Delete(slices.Clone(newest.Recipients), i, i+1))
	if err != nil {
		return nil, err
	}
	secret, err := seal.NewEpochSecret()
	if err != nil {
		return nil, err
	}
	if _, err := e.base.wrapEpoch(ctx, secret, left, now); err != nil {
		return nil, err
	}
	change := &RecipientChange{Recipient: removed, Epoch: secret.ID, Past: true,
		Notes: []string{"what was captured before stays readable to it, and it still opens the owner key: it cannot read new snapshots, but it can certify hosts"}}
	return change, e.announce(ctx, &statement.Epoch{PublicKey: secret.Public(), Recipients: texts(left)}, newest, owner, now)
}

// announce has the owner sign x as the epoch after newest.
func (e *Epochs) announce(ctx context.Context, x, newest *statement.Epoch, owner ed25519.PrivateKey, now time.Time) error {
	defer e.forgetSeen()
	x.Repository, x.Created = e.base.ID(), now
	free := func(ctx context.Context) (uint64, error) {
		var in ledger.Numbers
		for entry, err := range e.ledger().All(ctx, 1) {
			if err != nil {
				return 0, err
			}
			if in.Pass(entry.Number, entry.Counts()); entry.Counts() {
				break
			}
		}
		if in.Newest > newest.Number {
			return 0, fmt.Errorf("the recipients were changed by another process just now: check them with knowngood keys list, and try again (%w)", storage.ErrExists)
		}
		in.Newest = newest.Number // the store may show an older one
		return in.Free(), nil
	}
	encode := func(number uint64) ([]byte, error) {
		x.Number = number
		return x.Encode(owner)
	}
	_, err := ledger.Claim(ctx, "epochs", free, encode, func(ctx context.Context, number uint64, object []byte) error {
		return e.base.Put(ctx, layout.KeyEpoch(number), object, now)
	})
	return err
}
