package history

import (
	"context"
	"errors"
	"fmt"
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

// Judge judges the snapshots of an environment that are kept by what drills and marks
// say of them. What does not verify is left out and warned of, as is an attestation of
// a root that is not the one that the store shows.
func (h *Resolver) Judge(ctx context.Context, host, env string, p attest.Policy, now time.Time) (*Proven, error) {
	facts, snapshots, err := h.facts(ctx, host, env, now)
	if err != nil {
		return nil, err
	}
	return &Proven{p.Judge(facts), snapshots}, nil
}

// facts gathers what a policy judges.
func (h *Resolver) facts(ctx context.Context, host, env string, now time.Time) (f attest.Facts, byNumber map[uint64]*Snapshot, err error) {
	f.Now, byNumber = now, map[uint64]*Snapshot{}
	known, err := h.t.State.Roots(host, env)
	if err != nil {
		return f, nil, err
	}
	var accepted *Acceptances
	for s, err := range h.tombstones.Kept(ctx, host, env) {
		if authentic.Damaged(err) {
			h.t.Warn(err)
			continue
		}
		if err != nil {
			return f, nil, err
		}
		c := attest.Candidate{Number: s.Number, ID: s.ID}
		switch {
		case s.Body == nil:
			c.Damage = "it is sealed, so it is not known whether it is suspect or partial: an identity is needed"
		case Flagged(s):
			if accepted == nil {
				if accepted, err = h.suspects.Acceptances(ctx, host, env); err != nil {
					return f, nil, err
				}
			}
			c.Suspect = accepted.Suspect(s)
		}
		c.Partial = s.Body != nil && s.Body.Status == statement.Partial
		f.Snapshots, byNumber[s.Number] = append(f.Snapshots, c), s
	}
	if f.Attestations, err = h.attest.All(ctx, host, env); err != nil {
		return f, nil, err
	}
	if f.Marks, err = h.attest.Marks(ctx, host, env); err != nil {
		return f, nil, err
	}
	for _, a := range f.Attestations {
		if authentic.Damaged(a.Err) {
			h.t.Warn(a.Err)
		}
		if s := byNumber[number(a)]; s != nil && known[s.Number] != s.ID {
			if err := contradiction(a, s); err != nil {
				h.t.Warn(err)
			}
		}
		if newest := f.Snapshots; a.Err == nil && (len(newest) == 0 || a.Subject.Number > newest[0].Number) {
			h.t.Warn(&authentic.TamperError{What: fmt.Sprintf("environment %s of host %s", env, host), Key: a.Key, Remembered: fmt.Sprintf("%s@%d (%x), which %s attests", env, a.Subject.Number, a.Subject.ID, a.Machine), Found: "no such snapshot",
				Hint: "the store went back to an older state, or roots were removed"})
		}
	}
	return f, byNumber, nil
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
		return nil // credentials that do not show attestations
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
	facts, snapshots, err := h.facts(ctx, host, ref.Environment, ref.Now)
	if err != nil {
		return nil, err
	}
	for {
		v := ref.Policy.Judge(facts)
		if v.Good == nil {
			return nil, noneGood(ref, v)
		}
		s := snapshots[v.Good.Number]
		lacking, err := h.tombstones.c.Lacking(ctx, host, []*Snapshot{s})
		if err != nil {
			return nil, err
		}
		if len(lacking) > 0 {
			for i := range facts.Snapshots {
				if facts.Snapshots[i].Number == s.Number {
					facts.Snapshots[i].Damage = "objects that it needs are missing in the store: knowngood check shows which"
				}
			}
			continue
		}
		s.Verdict = v
		proof := v.Good.Proof.Attestation
		if err := contradiction(proof, s); err != nil {
			return nil, err
		}
		if proof.Content != s.Body.Content {
			return nil, &authentic.TamperError{What: "attestation " + proof.Key, Key: proof.Key, Remembered: fmt.Sprintf("content digest %x of %s", s.Body.Content, s.Ref()), Found: fmt.Sprintf("%x", proof.Content),
				Hint: fmt.Sprintf("the attest key %v of %s signed a result about other content than that of the root: find out why", proof.KeyID, proof.Machine)}
		}
		return s, nil
	}
}

// noneGood is the error where no snapshot is known-good.
func noneGood(ref Ref, v *attest.Verdict) error {
	var why []string
	for i, j := range v.Snapshots {
		if i == maxReasons {
			why = append(why, fmt.Sprintf("and %d older", len(v.Snapshots)-i))
			break
		}
		why = append(why, fmt.Sprintf("%s@%d: %s", ref.Environment, j.Number, j.Reason))
	}
	if len(why) == 0 {
		why = []string{"there is none"}
	}
	return fmt.Errorf("%w: no snapshot of %s is known-good (%s)", ErrNoSnapshot, ref.Environment, strings.Join(why, "; "))
}
