package drill

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"knowngood/configs"
	"knowngood/snapshot/manifest"
	"knowngood/storage/attest"
)

// Reasons that keep the level down, or that something was not tested, in fixed
// words: they are signed, and readable with the credentials of the store.
const (
	whyFailed     = "the restore failed"
	whyDiffers    = "what was restored is not as the snapshot has it"
	whyDamaged    = "the repository is damaged"
	whySample     = "only a sample was restored"
	whyPartial    = "the snapshot is partial"
	whyNodes      = "some nodes or metadata cannot be restored on this machine"
	whyChanging   = "files of a service changed while they were captured"
	whyNoData     = "the snapshot lacks data of a service or database"
	whyNoProof    = "no required probe proves data"
	whyRung       = "the configured isolation was not reached"
	whyNoPrograms = "this machine cannot isolate programs"
	whyCarried    = "data that switches carry: the live one is another"
)

// level is how far a snapshot is proven by a result of which everything else is
// known; changing means that data of a service may mix states. One required probe
// that could not run keeps it down: a tree that lost a program is less proven.
func level(r *attest.Result, sampled, changing bool) attest.Level {
	if !r.Passed {
		return attest.Unproven
	}
	proves := func(p attest.Probe) bool { return p.Required && p.Proves && p.Status == attest.Passed }
	if sampled || changing || len(Untested(r)) > 0 || !slices.ContainsFunc(r.Probes, proves) {
		return attest.Restored
	}
	return attest.Probed
}

// probesPass reports whether no required probe failed.
func probesPass(probes []attest.Probe) bool {
	return !slices.ContainsFunc(probes, func(p attest.Probe) bool { return p.Required && p.Status == attest.Failed })
}

// Untested are the required probes that could not run.
func Untested(r *attest.Result) (names []string) {
	for _, p := range r.Probes {
		if p.Required && p.Status == attest.NotTested {
			names = append(names, p.Name)
		}
	}
	return names
}

// WholeRTO is the RTO of the whole snapshot: of a sample its restore is
// extrapolated by the bytes.
func WholeRTO(r *attest.Result) time.Duration {
	rto := r.RTO()
	if r.Bytes == 0 || r.Of <= r.Bytes {
		return rto
	}
	for _, p := range r.Phases {
		if p.Name == phaseRestore {
			rto += time.Duration(float64(p.Took) * (float64(r.Of)/float64(r.Bytes) - 1))
		}
	}
	return rto
}

// changing returns why data of services, and of databases, may mix states or is not
// there, in fixed words, and what: the first file below their data that changed while
// it was read, could not be read, or was modified after the capture began in a source
// that was not frozen.
func (d *drill) changing(ctx context.Context) (why, what string, err error) {
	begun := d.o.Tree.Snapshot.Body.Started
	services := slices.Clone(d.o.Config.Services)
	optional := map[string]bool{}
	for i := range d.o.Config.Probes {
		p := &d.o.Config.Probes[i]
		data := p.Paths()
		if p.SQLite != nil {
			if data, err = database(ctx, d.o.Tree, p.SQLite.File); err != nil {
				return "", "", err
			}
			optional[data[1]], optional[data[2]] = true, true
		}
		if p.SQLite != nil || p.Postgres != nil {
			services = append(services, configs.Service{Name: p.Name, Data: data})
		}
	}
	for _, s := range services {
		for _, data := range s.Data {
			met, err := follow(ctx, d.o.Tree, data)
			if err != nil {
				return "", "", err
			}
			under, found := met[len(met)-1], false
			for e, err := range d.o.Tree.Entries(ctx, under) {
				found = true
				switch {
				case err != nil:
					return "", "", err
				case e.Flags&(manifest.Changed|manifest.Incomplete) != 0:
					return whyChanging, fmt.Sprintf("/%s of %s changed while it was read", strings.Clone(e.Path), s.Name), nil
				case e.Type == manifest.File && e.Mtime.Time().After(begun) && !d.o.Tree.Frozen(e.Path):
					return whyChanging, fmt.Sprintf("/%s of %s was modified after the capture began", strings.Clone(e.Path), s.Name), nil
				}
			}
			if !found && !optional[data] {
				return whyNoData, fmt.Sprintf("%s of %s", data, s.Name), nil
			}
		}
	}
	return "", "", nil
}
