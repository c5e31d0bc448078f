package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"

	"knowngood/cmd/knowngood/console"
	"knowngood/internal/wire"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/repository"
	"knowngood/storage/seal"
)

// Damage is which objects a command found to be missing or damaged.
type Damage struct{ objects map[string]bool } // by key

// Add adds the object that an error reports as damaged, if there is one.
func (d *Damage) Add(err error) {
	if damage, ok := errors.AsType[*authentic.DamageError](err); ok {
		d.AddObject(damage.Key)
	}
}

// AddObject adds an object by its key.
func (d *Damage) AddObject(key string) {
	if d.objects == nil {
		d.objects = map[string]bool{}
	}
	d.objects[key] = true
}

// hostDomain names a domain of a host.
type hostDomain struct {
	host   string
	domain seal.DomainID
}

// Report reports the objects to their hosts, so that the next run of each stores
// again what they contained.
func (d *Damage) Report(ctx context.Context, r *repository.Repository, out *console.Console) {
	if err := r.NoteDamagedKeys(slices.Collect(maps.Keys(d.objects))); err != nil {
		out.Messagef("the next snapshot may not notice wrapped keys that are missing or damaged: %v", err)
	}
	objects := map[hostDomain][]deletion.ObjectID{}
	for key := range d.objects {
		host, domain, hash, ok := layout.ParsePackKey(key)
		kind := wire.KindPack
		if !ok {
			host, domain, hash, ok = layout.ParseManifestKey(key)
			kind = wire.KindManifest
		}
		if ok {
			of := hostDomain{host, domain}
			objects[of] = append(objects[of], deletion.ObjectID{Kind: kind, Hash: hash})
		}
	}
	hosts := slices.SortedFunc(maps.Keys(objects), func(a, b hostDomain) int {
		return slices.Compare([]string{a.host, a.domain.String()}, []string{b.host, b.domain.String()})
	})
	for _, of := range hosts {
		reportTo(ctx, r, out, of, objects[of])
	}
}

// NotConfigured follows commands that name environments as the configuration does.
const NotConfigured = "(one that is not configured: knowngood snapshot --env NAME --verify PATH...)"

func reportTo(ctx context.Context, r *repository.Repository, out *console.Console, of hostDomain, objects []deletion.ObjectID) {
	what := fmt.Sprintf("%s of host %s %s missing or damaged", english.Plural(len(objects), "object", ""), of.host, english.PluralWord(len(objects), "is", "are"))
	verify := "knowngood snapshot NAME --verify"
	if envs, err := r.Environments(ctx, of.host); err == nil && len(envs) > 0 {
		verify = "knowngood snapshot " + strings.Join(envs, " --verify, knowngood snapshot ") + " --verify"
	}
	verify += " " + NotConfigured
	noted, err := r.ReportDamage(ctx, of.host, of.domain, objects, time.Now())
	switch {
	case err != nil:
		out.Messagef("%s: the host cannot be notified (%v). Run on it: %s", what, err, strings.ReplaceAll(verify, "--verify", "--verify=data"))
	case noted:
		out.Messagef("%s: the next snapshot of this host stores again what is still here", what)
	default:
		out.Messagef("%s: the host stores again what it still has, within a day, or at once with: %s", what, verify)
	}
}
