package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// foundDamage takes down the object that an error says is damaged.
func (a *app) foundDamage(err error) {
	var damage *authentic.DamageError
	if errors.As(err, &damage) {
		a.foundDamaged(damage.Key)
	}
}

// foundDamaged takes down an object that is missing or damaged, for its host to
// be told at the end.
func (a *app) foundDamaged(key string) {
	if a.damaged == nil {
		a.damaged = map[string]bool{}
	}
	a.damaged[key] = true
}

// domainOf is a domain of a host.
type domainOf struct {
	host   string
	domain seal.DomainID
}

// tellHosts tells each host of the objects that the command found to be missing
// or damaged, so that its next run stores again what they held. err is what the
// command ended with.
func (a *app) tellHosts(ctx context.Context, err error) {
	a.foundDamage(err)
	if a.repo == nil || ctx.Err() != nil {
		return
	}
	objects := map[domainOf][]deletion.ObjectID{}
	for key := range a.damaged {
		host, domain, hash, ok := layout.ParsePackKey(key)
		kind := wire.KindPack
		if !ok {
			host, domain, hash, ok = layout.ParseManifestKey(key)
			kind = wire.KindManifest
		}
		if ok {
			of := domainOf{host, domain}
			objects[of] = append(objects[of], deletion.ObjectID{Kind: kind, Hash: hash})
		}
	}
	hosts := slices.SortedFunc(maps.Keys(objects), func(a, b domainOf) int {
		return slices.Compare([]string{a.host, a.domain.String()}, []string{b.host, b.domain.String()})
	})
	for _, of := range hosts {
		a.tellHost(ctx, of, objects[of])
	}
}

func (a *app) tellHost(ctx context.Context, of domainOf, objects []deletion.ObjectID) {
	what := fmt.Sprintf("objects of host %s that are missing or damaged (%d)", of.host, len(objects))
	verify := "knowngood snapshot NAME --verify"
	if envs, err := a.repo.Environments(ctx, of.host); err == nil && len(envs) > 0 {
		verify = "knowngood snapshot " + strings.Join(envs, " --verify, knowngood snapshot ") + " --verify"
	}
	verify += " " + notConfigured
	noted, err := a.repo.ReportDamage(ctx, of.host, of.domain, objects, time.Now())
	switch {
	case err != nil:
		a.out.Messagef("%s: the host could not be told (%v). Run on it: %s", what, err, strings.ReplaceAll(verify, "--verify", "--verify=data"))
	case noted:
		a.out.Messagef("%s: noted here; its next snapshot looks at them, and stores again what they held as far as the files are still there", what)
	default:
		a.out.Messagef("%s: told by a damage report; the host looks at them within a day, or at once with: %s", what, verify)
	}
}
