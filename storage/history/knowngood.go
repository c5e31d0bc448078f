package history

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"knowngood/storage"
	"knowngood/storage/attest"
	"knowngood/storage/authentic"
	"knowngood/storage/statement"
)

// maxReasons is how many snapshots are named where none is known-good.
const maxReasons = 5

// Proven is what is proven of the snapshots of an environment.
type Proven struct {
	*attest.Verdict
	Snapshots map[uint64]*Snapshot // by number: those that were judged
}

// KnownGood are the numbers of all that are known-good.
func (p *Proven) KnownGood() statement.Numbers {
	var out []uint64
	for _, j := range p.Verdict.Snapshots {
		if j.Reason == "" {
			out = append(out, j.Number)
		}
	}
	return statement.NumbersOf(out...)
}

// Judge judges the snapshots of an environment that are kept by what drills and marks
// state of them. What does not verify is left out and warned of, as is an attestation of
// a root that is not the one that the store shows.
func (h *Resolver) Judge(ctx context.Context, host, env string, p attest.Policy, now time.Time) (*Proven, error) {
	return h.judge(ctx, host, env, p, now, h.damaged)
}

// unsound returns why a snapshot is not whole, as far as is known, though a drill that
// passed was stored at a time; empty for nothing.
type unsound func(ctx context.Context, s *Snapshot, passed time.Time) (string, error)

func (h *Resolver) damaged(ctx context.Context, s *Snapshot, passed time.Time) (string, error) {
	damaged, err := h.tombstones.c.Damaged(ctx, s, passed)
	if err != nil || !damaged {
		return "", err
	}
	return "objects that it needs were found to be damaged since its last drill: `knowngood check` shows which", nil
}

// lacking is damaged that also looks for each object in the store.
func (h *Resolver) lacking(ctx context.Context, s *Snapshot, passed time.Time) (string, error) {
	lacking, err := h.tombstones.c.Lacking(ctx, s.Host, []*Snapshot{s})
	switch {
	case err != nil:
		return "", err
	case len(lacking) > 0:
		return "objects that it needs are missing in the store: `knowngood check` shows which", nil
	}
	return h.damaged(ctx, s, passed)
}

func (h *Resolver) judge(ctx context.Context, host, env string, p attest.Policy, now time.Time, broken unsound) (*Proven, error) {
	// Before the walk, which remembers what it sees.
	known, err := h.t.State.Roots(host, env)
	if err != nil {
		return nil, err
	}
	var kept []*Snapshot
	for s, err := range h.tombstones.Kept(ctx, host, env) {
		if authentic.Damaged(err) {
			h.t.Warn(err)
			continue
		}
		if err != nil {
			return nil, err
		}
		kept = append(kept, s)
	}
	proven, attestations, err := h.prove(ctx, host, env, kept, nil, p, now, broken)
	if err != nil {
		return nil, err
	}

	for _, a := range attestations {
		if s := proven.Snapshots[number(a)]; s != nil && known[s.Number] != s.ID {
			if err := contradiction(a, s); err != nil {
				h.t.Warn(err)
			}
		}
		if a.Err == nil && (len(kept) == 0 || a.Subject.Number > kept[0].Number) {
			h.t.Warn(&authentic.TamperError{What: fmt.Sprintf("environment %s of host %s", env, host), Key: a.Key, Remembered: fmt.Sprintf("%s@%d (%x), which %s attests", env, a.Subject.Number, a.Subject.ID, a.Machine), Found: "no such snapshot",
				Hint: "the store went back to an older state, or roots were removed"})
		}
	}
	return proven, nil
}

// Prove judges some snapshots of an environment, the newest first, as Judge does all.
// suspect reports whether one is suspect, and nobody accepted it; nil for what the
// host claims and what was accepted.
func (h *Resolver) Prove(ctx context.Context, host, env string, snapshots []*Snapshot, suspect func(*Snapshot) bool, p attest.Policy, now time.Time) (*Proven, error) {
	proven, _, err := h.prove(ctx, host, env, snapshots, suspect, p, now, h.damaged)
	return proven, err
}

func (h *Resolver) prove(ctx context.Context, host, env string, snapshots []*Snapshot, suspect func(*Snapshot) bool, p attest.Policy, now time.Time, broken unsound) (_ *Proven, attestations []*attest.Attestation, err error) {
	f := attest.Facts{Now: now}
	proven := &Proven{Snapshots: map[uint64]*Snapshot{}}
	if suspect == nil && slices.ContainsFunc(snapshots, Flagged) {
		accepted, err := h.suspects.Acceptances(ctx, host, env)
		if err != nil {
			return nil, nil, err
		}
		suspect = accepted.Suspect
	}
	for _, s := range snapshots {
		c := attest.Candidate{Number: s.Number, ID: s.ID, Suspect: suspect != nil && suspect(s), Partial: s.Body != nil && s.Body.Status == statement.Partial}
		if s.Body == nil {
			c.Damage = "it is sealed, so it is not known whether it is suspect or partial: an identity is needed"
		}
		f.Snapshots, proven.Snapshots[s.Number] = append(f.Snapshots, c), s
	}
	if f.Attestations, err = h.attest.All(ctx, host, env); err != nil {
		return nil, nil, err
	}
	for _, a := range f.Attestations {
		if authentic.Damaged(a.Err) {
			h.t.Warn(a.Err)
		}
		if s := proven.Snapshots[number(a)]; a.Gone && s != nil {
			h.t.Warn(&authentic.TamperError{What: "attestation of " + s.Host + "/" + s.Ref(), Key: a.Key, Remembered: fmt.Sprintf("a drill on %s, stored on %s", a.Machine, a.Stored.UTC().Format(time.RFC3339)), Found: "none",
				Hint: "what is remembered still counts; find out who can delete below attestations/. Was it removed on purpose? Then remove " + h.attest.Memory(host, env) + " on each machine that remembers it"})
		}
	}
	if f.Marks, err = h.attest.Marks(ctx, host, env); err != nil {
		return nil, nil, err
	}

	for {
		proven.Verdict = p.Judge(f)
		if proven.Good == nil {
			return proven, f.Attestations, nil
		}
		why, err := broken(ctx, proven.Snapshots[proven.Good.Number], proven.Good.Proof.Stored)
		if err != nil {
			return nil, nil, err
		}
		if why == "" {
			return proven, f.Attestations, nil
		}
		f.Snapshots[slices.IndexFunc(f.Snapshots, func(c attest.Candidate) bool { return c.Number == proven.Good.Number })].Damage = why
	}
}

func number(a *attest.Attestation) uint64 {
	if a.Err != nil {
		return 0
	}
	return a.Subject.Number
}

// contradiction is the error where an attestation that counts is about another root
// than the one that the store shows at that number.
func contradiction(a *attest.Attestation, s *Snapshot) error {
	if a.Err != nil || a.Subject.Number != s.Number || a.Subject.ID == s.ID {
		return nil
	}
	key := s.listed.Key
	return &authentic.TamperError{What: "root of " + s.Host + "/" + s.Ref(), Key: key, Remembered: fmt.Sprintf("%x, which %s attested on %s", a.Subject.ID, a.Machine, a.Stored.UTC().Format(time.RFC3339)), Found: fmt.Sprintf("%x", s.ID),
		Hint: fmt.Sprintf("the history was signed again with the host's key, or the attest key %v lies (%s): find out which", a.KeyID, a.Key)}
}

// witnessed refuses a snapshot where an attestation is about another root at its
// number. known are the roots that this machine saw before: these need no witness.
func (h *Resolver) witnessed(ctx context.Context, s *Snapshot, known map[uint64][32]byte) error {
	if s == nil || known[s.Number] == s.ID {
		return nil
	}
	all, err := h.attest.Of(ctx, s.Host, s.Environment, s.Number)
	if errors.Is(err, storage.ErrDenied) {
		h.t.Warn(fmt.Errorf("these credentials may not read attestations, so it was not compared with what drills attest that the root of %s/%s is the true one: %w", s.Host, s.Ref(), err))
		return nil
	}
	if err != nil {
		return err
	}
	for _, a := range all {
		if err := contradiction(a, s); err != nil {
			return err
		}
	}
	return nil
}

// knownGood is the newest snapshot that is known-good by the policy of ref, and of
// which nothing is missing. Its Verdict is why.
func (h *Resolver) knownGood(ctx context.Context, ref Ref, host string) (*Snapshot, error) {
	proven, err := h.judge(ctx, host, ref.Environment, ref.Policy, ref.Now, h.lacking)
	if err != nil {
		return nil, err
	}
	if proven.Good == nil {
		return nil, noneGood(ref, host, proven.Verdict)
	}
	s := proven.Snapshots[proven.Good.Number]
	s.Verdict = proven.Verdict
	proof := proven.Good.Proof.Attestation
	if err := contradiction(proof, s); err != nil {
		return nil, err
	}
	if proof.Content != s.Body.Content {
		return nil, &authentic.TamperError{What: "attestation " + proof.Key, Key: proof.Key, Remembered: fmt.Sprintf("content digest %x of %s", s.Body.Content, s.Ref()), Found: fmt.Sprintf("%x", proof.Content),
			Hint: fmt.Sprintf("the attest key %v of %s signed a result about other content than that of the root: find out why", proof.KeyID, proof.Machine)}
	}
	return s, nil
}

// noneGood is the error where no snapshot is known-good.
func noneGood(ref Ref, host string, v *attest.Verdict) error {
	var why, same []string // same are snapshots with the same reason
	for i, j := range v.Snapshots {
		if i == maxReasons {
			why = append(why, fmt.Sprintf("and %d older", len(v.Snapshots)-i))
			break
		}
		same = append(same, fmt.Sprintf("%s@%d", ref.Environment, j.Number))
		if next := i + 1; next == maxReasons || next == len(v.Snapshots) || v.Snapshots[next].Reason != j.Reason {
			why, same = append(why, strings.Join(same, ", ")+": "+j.Reason), nil
		}
	}
	if len(why) == 0 {
		why = []string{"there is none"}
	}
	next := fmt.Sprintf("Drill one (knowngood drill %s/%s)", host, ref.Environment)
	for _, j := range v.Snapshots {
		if j.Reason == attest.SelfAttestedOnly && j.Proof.Level != attest.Unproven {
			next = fmt.Sprintf("What the machine that captured it proved of %s@%d counts where the configuration has a drill of %[1]s, and with --self-attested of restore and drift. Take it so, drill one on another machine", ref.Environment, j.Number)
			break
		}
	}
	return fmt.Errorf("%w: no snapshot of %s is known-good (%s). %s, or name one by its number", ErrNoSnapshot, ref.Environment, strings.Join(why, "; "), next)
}
