package repository

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"knowngood/storage"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// rootsInFlight is how many roots are fetched at once.
const rootsInFlight = 8

// Snapshot is a root that verified.
type Snapshot struct {
	Host        string
	Environment string
	Number      uint64
	ID          [32]byte
	Root        *statement.Root
	// Body and Domain are nil when this host's domain is another and no
	// identity at hand opens it.
	Body   *statement.RootBody
	Domain *seal.Domain
	Size   int64 // of the root, in stored bytes
}

// Ref names the snapshot within its host: web@42.
func (s *Snapshot) Ref() string { return s.Root.Ref() }

func (s *Snapshot) head() statement.Head {
	return statement.Head{Environment: s.Environment, Number: s.Number, Hash: s.ID}
}

// Hosts lists the hosts that were enrolled, or have objects even though somebody
// removed their certificates, or are remembered to have had snapshots; sorted.
func (r *Repository) Hosts(ctx context.Context) ([]string, error) {
	names, err := r.enrolledHosts(ctx)
	if err != nil {
		return nil, err
	}
	others, err := r.folders(ctx, layout.PrefixHosts, layout.ParseHostPrefix)
	if err != nil {
		return nil, err
	}
	names = append(names, others...)
	slices.Sort(names)
	return slices.Compact(names), nil
}

// enrolledHosts are the hosts that have a certificate, or are remembered. It
// takes a request that has to be made for their certificates anyway.
func (r *Repository) enrolledHosts(ctx context.Context) ([]string, error) {
	names, err := r.local.names("")
	if err != nil {
		return nil, err
	}
	listed, err := r.certificateKeys(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, o := range listed {
		if host, _, ok := layout.ParseCertificateKey(o.Key); ok {
			names = append(names, host)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (r *Repository) folders(ctx context.Context, prefix string, parse func(string) (string, bool)) ([]string, error) {
	var names []string
	for o, err := range r.store.List(ctx, storage.ListOptions{Prefix: prefix, Delimiter: true}) {
		if err != nil {
			return nil, err
		}
		if name, ok := parse(o.Key); ok && o.Folded {
			names = append(names, name)
		}
	}
	return names, nil
}

// Environments lists the environments in which a host has snapshots, or is
// remembered to have had some, sorted.
func (r *Repository) Environments(ctx context.Context, host string) ([]string, error) {
	remembered, err := r.local.names(host)
	if err != nil {
		return nil, err
	}
	names, err := r.folders(ctx, layout.PrefixEnvironments(host), func(folded string) (string, bool) {
		_, env, ok := layout.ParseEnvironmentPrefix(folded)
		return env, ok
	})
	if err != nil {
		return nil, err
	}
	names = append(names, remembered...)
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Snapshots yields the snapshots of an environment, newest first, each
// verified: signature, certificate, place, and its link with its neighbour.
// A *DamageError or *TamperError takes the place of what does not verify, and
// the iteration may go on past it; any other error ends it.
func (r *Repository) Snapshots(ctx context.Context, host, env string) iter.Seq2[*Snapshot, error] {
	return r.Without(ctx, host, env, nil)
}

// Without is Snapshots that passes over numbers, whose roots it does not read;
// but never over the newest snapshot that counts. What does not verify above
// that one is passed over too, if it is among the numbers.
func (r *Repository) Without(ctx context.Context, host, env string, skip statement.Numbers) iter.Seq2[*Snapshot, error] {
	return func(yield func(*Snapshot, error) bool) {
		e, err := r.environment(ctx, host, env)
		if err != nil {
			yield(nil, err)
			return
		}
		e.skip = skip
		var newer *Snapshot
		type read struct {
			number uint64
			s      *Snapshot // the newest, which was read to know it
			err    error
		}
		numbers := func(ctx context.Context) iter.Seq2[read, error] {
			return func(yield func(read, error) bool) {
				headSeen := len(skip) == 0
				for n, err := range e.numbers(ctx) {
					x := read{number: n}
					switch {
					case err != nil:
					case !headSeen:
						x.s, x.err = e.root(ctx, n)
						headSeen = x.err == nil
						if skip.Has(n) && unverified(x.err) {
							continue
						}
					case skip.Has(n):
						continue
					}
					if !yield(x, err) {
						return
					}
				}
			}
		}
		fetch := func(ctx context.Context, x read) (*Snapshot, error) {
			if x.s != nil || x.err != nil {
				return x.s, x.err
			}
			return e.root(ctx, x.number)
		}
		for s, err := range ordered(ctx, rootsInFlight, numbers, fetch) {
			if err == nil && newer != nil && newer.Number == s.Number+1 && newer.Root.Previous != s.ID {
				s, err = e.linked(ctx, newer, s)
			}
			if err == nil {
				if newer == nil {
					r.remember(s)
				}
				newer = s
			}
			if !yield(s, err) || err != nil && !Damaged(err) {
				return
			}
		}
	}
}

// Head is the newest snapshot of an environment. The error is ErrNoSnapshot
// when there is none, *DamageError when the newest does not verify and is not
// forgotten, *TamperError when a newer one is remembered than the store shows.
// Roots under certificates that ended are passed over.
func (r *Repository) Head(ctx context.Context, host, env string) (*Snapshot, error) {
	e, err := r.environment(ctx, host, env)
	if err != nil {
		return nil, err
	}
	s, err := e.head(ctx, false)
	if !unverified(err) {
		return s, err
	}
	x, terr := r.Tombstone(ctx, host, env)
	if x == nil || terr != nil {
		return nil, errors.Join(err, terr)
	}
	e.skip = x.Forgotten
	return e.head(ctx, false)
}

// head is the newest root that verifies. What does not ends the search, unless
// it is to be skipped, or past says to go on.
func (e *environment) head(ctx context.Context, past bool) (*Snapshot, error) {
	for n, err := range e.numbers(ctx) {
		var s *Snapshot
		if err == nil {
			s, err = e.root(ctx, n)
		}
		switch {
		case err == nil:
			e.r.remember(s)
			return s, nil
		case errors.Is(err, statement.ErrEnded) || unverified(err) && past:
			e.r.warn(err)
		case e.skip.Has(n) && unverified(err):
		default:
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: host %s has no snapshot of %s; `knowngood list` shows what there is", ErrNoSnapshot, e.host, e.name)
}

// unverified says that an object is not what it should be, or is not there:
// damage, of which nothing that is remembered speaks.
func unverified(err error) bool {
	var tampered *TamperError
	return Damaged(err) && !errors.As(err, &tampered)
}

func (r *Repository) remember(s *Snapshot) {
	if err := r.local.rememberHead(s.Host, s.head()); err != nil {
		r.warn(fmt.Errorf("a roll-back to before %s may go unseen: %w", s.Ref(), err))
	}
}

// environment is what verifying the roots of one environment takes.
type environment struct {
	r          *Repository
	host, name string
	certs      []*statement.Certificate
	known      *statement.Head // remembered; nil when nothing is
	listed     uint64          // newest root that a listing showed; set by numbers

	skip statement.Numbers // whose roots need not be there
}

func (r *Repository) environment(ctx context.Context, host, env string) (*environment, error) {
	if err := layout.ValidName(host); err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	if err := layout.ValidName(env); err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	known, err := r.local.head(host, env)
	if err != nil {
		return nil, err
	}
	certs, err := r.hostCertificates(ctx, host)
	if err != nil {
		return nil, err
	}
	return &environment{r: r, host: host, name: env, certs: certs, known: known}, nil
}

// maxGap is how many missing roots are named one by one.
const maxGap = 16

// newest is the highest number of which it is known that a root had it: all
// below must be there, too. What does not verify says nothing of others.
func (e *environment) newest(ctx context.Context) (uint64, error) {
	for o, err := range e.r.store.List(ctx, storage.ListOptions{Prefix: layout.PrefixRoots(e.host, e.name), Hidden: true}) {
		if err != nil {
			return 0, err
		}
		_, _, n, ok := layout.ParseRootKey(o.Key)
		if ok && e.known != nil && n <= e.known.Number {
			break
		}
		if !ok {
			continue
		}
		if _, err := e.root(ctx, n); !unverified(err) {
			return n, err
		}
	}
	if e.known != nil {
		return e.known.Number, nil
	}
	return 0, nil
}

// numbers yields the numbers of the roots there should be, newest first:
// those listed, hidden ones included, the one remembered, and those missing
// between, which reading will find out.
func (e *environment) numbers(ctx context.Context) iter.Seq2[uint64, error] {
	return func(yield func(uint64, error) bool) {
		last := uint64(0) // the one yielded before; 0 at the start
		newest := sync.OnceValues(func() (uint64, error) { return e.newest(ctx) })
		// down yields what is missing between the last number and n.
		down := func(n uint64) bool {
			if last == 0 || last-n <= 1 {
				return true
			}
			newest, err := newest()
			if err != nil {
				yield(0, err)
				return false
			}
			if newest <= n {
				return true
			}
			missing := statement.Numbers{{First: n + 1, Last: min(last-1, newest)}}.Without(e.skip)
			if missing.Count() > maxGap {
				return yield(0, &DamageError{Key: layout.PrefixRoots(e.host, e.name), What: "chain",
					Err: fmt.Errorf("the roots %s@%d to %s@%d are missing", e.name, missing[0].First, e.name, missing[len(missing)-1].Last)})
			}
			for _, span := range slices.Backward(missing) {
				for m := span.Last; m >= span.First; m-- {
					if !yield(m, nil) {
						return false
					}
				}
			}
			return true
		}
		// top yields the root remembered, where it should be above the newest listed.
		top := func(listed uint64) bool {
			e.listed = listed
			if e.known == nil || e.known.Number <= listed {
				return true
			}
			if e.known.Number-listed > maxGap && !yield(0, e.rolledBack()) {
				return false
			}
			last = e.known.Number
			return yield(last, nil)
		}
		first := true
		for o, err := range e.r.store.List(ctx, storage.ListOptions{Prefix: layout.PrefixRoots(e.host, e.name), Hidden: true}) {
			if err != nil {
				yield(0, err)
				return
			}
			_, _, n, ok := layout.ParseRootKey(o.Key)
			if !ok {
				e.r.warn(&DamageError{Key: o.Key, What: "object", Err: errors.New("its key is none of a root")})
				continue
			}
			if first && !top(n) {
				return
			}
			first = false
			if !down(n) {
				return
			}
			last = n
			if !yield(n, nil) {
				return
			}
		}
		if first && !top(0) {
			return
		}
		down(0)
	}
}

func (e *environment) rolledBack() error {
	found := "no snapshot"
	if e.listed > 0 {
		found = fmt.Sprintf("%s@%d as the newest", e.name, e.listed)
	}
	return &TamperError{What: fmt.Sprintf("environment %s of host %s was rolled back", e.name, e.host),
		Remembered: fmt.Sprintf("%s@%d (%x)", e.name, e.known.Number, e.known.Hash), Found: found,
		Hint: "snapshots were hidden or removed; name an older one to use it. To accept the loss, enrol the host again with --reenrol, and on other machines remove " + e.r.local.dir().Path(headFile(e.host, e.name))}
}

// root fetches and verifies one root, from beneath the current view when that
// does not show it.
func (e *environment) root(ctx context.Context, n uint64) (*Snapshot, error) {
	key := layout.KeyRoot(e.host, e.name, n)
	object, err := readObject(ctx, e.r.store, key)
	missing := errors.Is(err, storage.ErrNotFound)
	var root *statement.Root
	if err == nil {
		root, err = e.check(key, object)
	}
	if err == nil && e.expected(root) {
		return e.snapshot(ctx, root)
	}
	if err != nil && !missing && !Damaged(err) {
		return nil, err
	}
	var found *statement.Root
	_, verr := e.r.version(ctx, key, maxStatement, func(b []byte) bool {
		v, err := e.check(key, b)
		if err != nil || !e.expected(v) {
			return false
		}
		found = v
		return true
	})
	switch {
	case verr != nil:
		return nil, verr
	case found != nil:
		e.r.warnHidden(key, missing)
		return e.snapshot(ctx, found)
	case e.known != nil && n == e.known.Number && missing:
		return nil, e.rolledBack()
	case err == nil: // it verifies, but it is not the one remembered
		return nil, &TamperError{What: "root " + key, Remembered: fmt.Sprintf("%s@%d (%x)", e.name, n, e.known.Hash), Found: fmt.Sprintf("%x", root.Hash()),
			Hint: "the history was forked: another machine signs with this host's key, or the store went back"}
	case missing:
		return nil, &DamageError{Key: key, What: "root", Err: err}
	}
	return nil, err
}

// expected says whether a root is the one remembered, if one is.
func (e *environment) expected(root *statement.Root) bool {
	return e.known == nil || root.Number != e.known.Number || root.Hash() == e.known.Hash
}

// check verifies the object at key as a root of the environment.
func (e *environment) check(key string, object []byte) (*statement.Root, error) {
	root, err := statement.ParseRoot(object)
	if err == nil {
		err = statement.CheckRootCertificate(root, e.certs, e.r.desc.Owner, e.r.ID())
	}
	if err == nil && layout.KeyRoot(root.Host, root.Environment, root.Number) != key {
		err = fmt.Errorf("it is the root of %s of host %s", root.Ref(), root.Host)
	}
	if err != nil {
		return nil, &DamageError{Key: key, What: "root", Err: err}
	}
	return root, nil
}

// linked finds beneath s, which does not match, the root that newer was built on.
func (e *environment) linked(ctx context.Context, newer, s *Snapshot) (*Snapshot, error) {
	key := layout.KeyRoot(e.host, e.name, s.Number)
	var found *statement.Root
	_, err := e.r.version(ctx, key, maxStatement, func(b []byte) bool {
		v, err := e.check(key, b)
		if err != nil || v.Hash() != newer.Root.Previous {
			return false
		}
		found = v
		return true
	})
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, &TamperError{What: "root " + key, Remembered: fmt.Sprintf("%x by %s", newer.Root.Previous, newer.Ref()), Found: fmt.Sprintf("%x", s.ID),
			Hint: "the history was forked: two machines sign with this host's key, or a root was replaced"}
	}
	e.r.warnHidden(key, false)
	return e.snapshot(ctx, found)
}

// snapshot opens a verified root's body with what is at hand.
func (e *environment) snapshot(ctx context.Context, root *statement.Root) (*Snapshot, error) {
	s := &Snapshot{Host: root.Host, Environment: root.Environment, Number: root.Number, ID: root.Hash(), Root: root, Size: int64(len(root.Bytes()))}
	domain, err := e.r.domain(ctx, root)
	if err != nil || domain == nil {
		return s, err
	}
	record, err := seal.OpenOnce(domain.RootKey(root.Salt), root.SealedBody, nil)
	if err == nil {
		s.Body, err = statement.ParseRootBody(record)
	}
	if err != nil {
		return nil, &DamageError{Key: layout.KeyRoot(s.Host, s.Environment, s.Number), What: "root", Err: err}
	}
	s.Domain = domain
	return s, nil
}
