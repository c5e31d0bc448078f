package check

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"

	"knowngood/internal/printable"
	"knowngood/internal/wire"
	"knowngood/storage"
	"knowngood/storage/deletion"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
)

// underway is how long what nothing names may belong to a run that has not put its
// root yet (docs/FORMAT.md, section 10).
const underway = 48 * time.Hour

// Unneeded are packs and manifest containers of a host that no kept snapshot needs,
// no index run names and no run under way can have put: a prune frees them.
type Unneeded struct {
	Host    string `json:"host"`
	Objects int    `json:"objects"`
	Bytes   uint64 `json:"bytes"`
}

func (u Unneeded) String() string {
	return fmt.Sprintf("host %s: %s older than %d hours, needed by no kept snapshot and named by no index run: knowngood prune frees %s",
		u.Host, english.Plural(u.Objects, "pack or manifest container", "packs and manifest containers"), int(underway.Hours()), humanize.IBytes(u.Bytes))
}

// strangers are the objects of a host that nothing names.
type strangers struct {
	unread bool // what some snapshot needs is not known
	young  bool // there is a pack that a run under way may have put

	unneeded Unneeded

	keys  []string // the first few of no known kind
	count int
}

func (s *strangers) add(key string) {
	if s.count++; len(s.keys) < maxNamed {
		s.keys = append(s.keys, printable.Name(key))
	}
}

// object counts a pack or container that no index run and no kept snapshot names.
// A run under way has put neither, or packs without a manifest table.
func (s *strangers) object(id deletion.ObjectID, size int64, put time.Time, table bool) {
	if time.Since(put) < underway {
		s.young = s.young || id.Kind == wire.KindPack && !table
		return
	}
	s.unneeded.Objects++
	s.unneeded.Bytes += uint64(max(size, 0))
}

// unneeded counts what nothing names in a domain.
func (d *domainCheck) unneeded() {
	for id, put := range d.put {
		size, there := d.containers[id.Hash]
		if id.Kind == wire.KindPack {
			size, there = d.packs[id.Hash]
			there = there && d.sizes[id.Hash] == 0
		}
		if there && !d.listed[id] && !d.deletions.Absent(id) {
			d.strangers.object(id, size, put, d.tabled[id.Hash])
		}
	}
}

// unknown lists what lies below a host and belongs to none of its domains, and
// notes what nothing names.
func (c *checker) unknown(ctx context.Context, host string, domains map[seal.DomainID]*domainCheck, s *strangers) error {
	for o, err := range c.repo.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixHost(host), Delimiter: true, Foreign: s.add}) {
		if err != nil {
			return err
		}
		switch o.Key {
		case layout.PrefixPackDomains(host), layout.PrefixManifestDomains(host):
			err = c.otherDomains(ctx, o.Key, domains, s)
		default:
			err = c.strange(ctx, o.Key, s)
		}
		if err != nil {
			return err
		}
	}

	if s.count > 0 {
		more := ""
		if n := s.count - len(s.keys); n > 0 {
			more = fmt.Sprintf(" and %d more", n)
		}
		c.note(fmt.Sprintf("host %s: %s of no kind that this version of knowngood knows; knowngood neither uses nor deletes such objects: %s%s", host, english.Plural(s.count, "object", ""), strings.Join(s.keys, ", "), more))
	}
	// While there is a young pack that no index run names, the older ones may belong
	// to the same run.
	if s.unneeded.Objects > 0 && !s.unread && !s.young {
		s.unneeded.Host = host
		c.report.Unneeded = append(c.report.Unneeded, s.unneeded)
	}
	return nil
}

// strange adds the keys of a prefix that are of no known kind, except those that
// are damage because of where they lie.
func (c *checker) strange(ctx context.Context, prefix string, s *strangers) error {
	for o, err := range c.repo.Store().List(ctx, storage.ListOptions{Prefix: prefix, Foreign: s.add}) {
		if err != nil {
			return err
		}
		_, known := layout.HostOf(o.Key)
		if _, named := c.byKey[o.Key]; !known && !named {
			s.add(o.Key)
		}
	}
	return nil
}

// otherDomains counts the packs or containers of domains that no kept snapshot has.
func (c *checker) otherDomains(ctx context.Context, prefix string, domains map[seal.DomainID]*domainCheck, s *strangers) error {
	for folder, err := range c.repo.Store().List(ctx, storage.ListOptions{Prefix: prefix, Delimiter: true, Foreign: s.add}) {
		if err != nil {
			return err
		}
		_, domain, ok := layout.ParsePackDomainPrefix(folder.Key)
		if !ok {
			_, domain, ok = layout.ParseManifestDomainPrefix(folder.Key)
		}
		if ok && domains[domain] != nil {
			continue
		}
		for o, err := range c.repo.Store().List(ctx, storage.ListOptions{Prefix: folder.Key, Foreign: s.add}) {
			if err != nil {
				return err
			}
			if id, ok := deletion.ParseKey(o.Key); ok {
				s.object(id, o.Size, o.Modified, false)
			} else {
				s.add(o.Key)
			}
		}
	}
	return nil
}
