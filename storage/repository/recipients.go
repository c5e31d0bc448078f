package repository

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"knowngood/storage"
	"knowngood/storage/identity"
	"knowngood/storage/layout"
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

// wrap creates the age file of a secret for one recipient. One that exists is
// left alone, and told.
func (r *Repository) wrap(ctx context.Context, key, label string, secret []byte, rc Recipient, now time.Time) (existed bool, err error) {
	file, err := identity.Wrap(label, secret, rc.age)
	if err != nil {
		return false, fmt.Errorf("recipient %s: %w", ShortRecipient(rc.Text), err)
	}
	err = r.put(ctx, key, file, now)
	if errors.Is(err, storage.ErrExists) {
		return true, nil
	}
	return false, err
}

// wrapEpoch creates the age files of an epoch's secret, and tells whether any of
// them was not there.
func (r *Repository) wrapEpoch(ctx context.Context, secret *seal.EpochSecret, recipients []Recipient, now time.Time) (made bool, err error) {
	b, err := secret.Bytes()
	if err != nil {
		return false, err
	}
	for _, rc := range recipients {
		existed, err := r.wrap(ctx, layout.KeyEpochSecret(secret.ID, rc.Fingerprint), identity.EpochSecret, b, rc, now)
		if err != nil {
			return made, err
		}
		made = made || !existed
	}
	return made, nil
}

// Recipients are those whom a run that starts now seals to.
func (r *Repository) Recipients(ctx context.Context) ([]Recipient, error) {
	e, err := r.currentEpoch(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Recipient, len(e.Recipients))
	for i, text := range e.Recipients {
		out[i] = Recipient{Text: text, Fingerprint: layout.RecipientFingerprint(text)}
	}
	return out, nil
}

// RecipientChange tells what adding or removing a recipient did.
type RecipientChange struct {
	Recipient Recipient
	Epoch     seal.EpochID // what runs seal to from now on
	// Host is the one host for which the change holds; empty for all.
	Host string
	// Past says that the recipient can read what was captured before: after
	// adding, because the old keys were wrapped for it; after removing,
	// because nothing can take those keys back.
	Past bool
	// Notes are what a person should know besides.
	Notes []string
}

// AddRecipient lets a further recipient read. With an identity it can read
// everything, past and future, of every host, and can certify hosts as every
// recipient can. Without one it can read what this host captures from now on.
func (r *Repository) AddRecipient(ctx context.Context, text string, now time.Time) (*RecipientChange, error) {
	rc, err := parseRecipient(text)
	if err != nil {
		return nil, err
	}
	if r.Unlocked() {
		return r.addEverywhere(ctx, rc, now)
	}
	current, err := r.currentEpoch(ctx)
	if err != nil {
		return nil, err
	}
	if slices.Contains(current.Recipients, rc.Text) {
		return &RecipientChange{Recipient: rc, Epoch: current.ID(), Notes: []string{"it is a recipient already; give --identity to let it read the past as well"}}, nil
	}
	return r.hostEpoch(ctx, rc, append(slices.Clone(current.Recipients), rc.Text), now)
}

// addEverywhere wraps every key for rc and has the owner announce it.
func (r *Repository) addEverywhere(ctx context.Context, rc Recipient, now time.Time) (*RecipientChange, error) {
	owner, err := r.OwnerKey(ctx)
	if err != nil {
		return nil, err
	}
	change := &RecipientChange{Recipient: rc, Past: true}
	all, err := r.allEpochs(ctx)
	if err != nil {
		return nil, err
	}
	done := map[seal.EpochID]bool{}
	anew := false // some key of its was not there
	for _, e := range all {
		if done[e.ID()] {
			continue
		}
		done[e.ID()] = true
		secret, err := r.EpochSecret(ctx, e.ID())
		if err == nil {
			var made bool
			made, err = r.wrapEpoch(ctx, secret, []Recipient{rc}, now)
			anew = anew || made
		}
		if errors.Is(err, ErrNoUsableIdentity) || Damaged(err) {
			change.Notes = append(change.Notes, fmt.Sprintf("it cannot read what was sealed to epoch %v%s, which the identity at hand does not open: %v", e.ID(), ofHost(e), err))
			continue
		}
		if err != nil {
			return nil, err
		}
	}
	existed, err := r.wrap(ctx, layout.KeyOwnerSecret(rc.Fingerprint), identity.OwnerSecret, owner.Seed(), rc, now)
	if err != nil {
		return nil, err
	}
	newest, err := r.newestEpoch(ctx)
	if err != nil {
		return nil, err
	}
	change.Epoch = newest.ID()
	// The same key, announced with one recipient more, or once more: hosts take
	// wrapped keys that are others than before for damaged else.
	e := &statement.Epoch{PublicKey: newest.PublicKey, Recipients: slices.Clone(newest.Recipients)}
	if !slices.Contains(newest.Recipients, rc.Text) {
		e.Recipients = append(e.Recipients, rc.Text)
	} else if existed && !anew {
		return change, nil
	}
	return change, r.announce(ctx, e, newest, all, now, change)
}

// RemoveRecipient takes a recipient, named by its text or its fingerprint, off
// the list for what is captured from now on: of every host with an identity,
// of this host without. What was captured before stays readable to it.
func (r *Repository) RemoveRecipient(ctx context.Context, name string, now time.Time) (*RecipientChange, error) {
	name = strings.TrimSpace(name)
	fingerprint := layout.RecipientFingerprint(name)
	everywhere := r.Unlocked()
	from := r.currentEpoch
	if everywhere {
		from = r.newestEpoch
	}
	e, err := from(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(e.Recipients, func(text string) bool {
		f := layout.RecipientFingerprint(text)
		return f == fingerprint || f == name
	})
	if i < 0 {
		return nil, fmt.Errorf("%s is no recipient: there are %s", ShortRecipient(name), r.recipientNames(ctx))
	}
	if len(e.Recipients) == 1 {
		return nil, errors.New("it is the only recipient: add another first, or nobody could read what comes")
	}
	removed := Recipient{Text: e.Recipients[i], Fingerprint: layout.RecipientFingerprint(e.Recipients[i])}
	left := slices.Delete(slices.Clone(e.Recipients), i, i+1)
	if !everywhere {
		change, err := r.hostEpoch(ctx, removed, left, now)
		if change != nil {
			change.Past = true
		}
		return change, err
	}
	return r.removeEverywhere(ctx, removed, left, e, now)
}

func (r *Repository) removeEverywhere(ctx context.Context, removed Recipient, left []string, newest *statement.Epoch, now time.Time) (*RecipientChange, error) {
	if _, err := r.OwnerKey(ctx); err != nil {
		return nil, err
	}
	all, err := r.allEpochs(ctx)
	if err != nil {
		return nil, err
	}
	secret, err := r.newEpoch(ctx, left, now)
	if err != nil {
		return nil, err
	}
	change := &RecipientChange{Recipient: removed, Epoch: secret.ID, Past: true,
		Notes: []string{"what was captured before stays readable to it, and it still opens the owner key: it cannot read what comes, but could certify hosts"}}
	return change, r.announce(ctx, &statement.Epoch{PublicKey: secret.Public(), Recipients: left}, newest, all, now, change)
}

// newEpoch draws an epoch's secret and wraps it for recipients.
func (r *Repository) newEpoch(ctx context.Context, recipients []string, now time.Time) (*seal.EpochSecret, error) {
	list, err := parseRecipients(recipients)
	if err != nil {
		return nil, err
	}
	secret, err := seal.NewEpochSecret()
	if err != nil {
		return nil, err
	}
	_, err = r.wrapEpoch(ctx, secret, list, now)
	return secret, err
}

// announce has the owner sign e as the epoch after newest. It holds for every
// host, those that made an epoch for themselves included, which is noted.
func (r *Repository) announce(ctx context.Context, e, newest *statement.Epoch, all []*statement.Epoch, now time.Time, change *RecipientChange) error {
	owner, err := r.OwnerKey(ctx)
	if err != nil {
		return err
	}
	e.Repository, e.Created = r.ID(), after(now, all...)
	noted := map[string]bool{}
	for _, h := range all {
		if h.Host != "" && h.Created.After(newest.Created) && !noted[h.Host] {
			noted[h.Host] = true
			change.Notes = append(change.Notes, fmt.Sprintf("host %s had chosen recipients for itself (%d of them); from now on it uses the repository's list", h.Host, len(h.Recipients)))
		}
	}
	for e.Number = newest.Number + 1; ; e.Number++ {
		object, err := e.Encode(owner)
		if err != nil {
			return err
		}
		key := layout.KeyEpoch(e.Number)
		err = r.put(ctx, key, object, now)
		if !errors.Is(err, storage.ErrExists) {
			return err
		}
		if _, err := r.epoch(ctx, storage.Object{Key: key}); !Damaged(err) {
			return fmt.Errorf("the recipients were changed by another process just now: look at them, and try again (%w)", storage.ErrExists)
		}
	}
}

// hostEpoch makes an epoch for this host alone, with its own key to sign.
func (r *Repository) hostEpoch(ctx context.Context, rc Recipient, recipients []string, now time.Time) (*RecipientChange, error) {
	h, err := r.Host(ctx)
	if err != nil {
		return nil, fmt.Errorf("without an identity only a host can change its recipients: %w", err)
	}
	current, err := r.currentEpoch(ctx)
	if err != nil {
		return nil, err
	}
	secret, err := r.newEpoch(ctx, recipients, now)
	if err != nil {
		return nil, err
	}
	e := &statement.Epoch{Repository: r.ID(), Number: 1, PublicKey: secret.Public(), Recipients: recipients,
		Created: after(now, current), Host: h.Name, Certificate: h.Certificate}
	for known, err := range r.epochs(ctx, layout.PrefixHostEpochs(h.Name), nil) {
		if err != nil {
			return nil, err
		}
		// One of an earlier enrolment may have used up all numbers.
		if known.Certificate.HostKey.Equal(h.Certificate.HostKey) {
			e.Number = known.Number + 1
			break
		}
	}
	for ; ; e.Number++ {
		object, err := e.Encode(h.key)
		if err != nil {
			return nil, err
		}
		err = r.put(ctx, layout.KeyHostEpoch(h.Name, e.Number), object, now)
		if errors.Is(err, storage.ErrExists) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := r.local.write(hostEpochFile, object); err != nil {
			return nil, err
		}
		return &RecipientChange{Recipient: rc, Epoch: secret.ID, Host: h.Name}, nil
	}
}

func ofHost(e *statement.Epoch) string {
	if e.Host == "" {
		return ""
	}
	return " of host " + e.Host
}
