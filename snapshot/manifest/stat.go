package manifest

import (
	"math"

	"knowngood/internal/wire"
)

// AppendStats appends what the host saw of each entry, for its own copy of a
// manifest. Every entry must have a Stat.
func AppendStats(dst []byte, entries []*Entry) []byte {
	dev, inode := uint64(0), uint64(0)
	for _, e := range entries {
		s := e.Stat
		dst = wire.AppendSvarint(dst, s.Ctime.Sec-e.Mtime.Sec)
		dst = wire.AppendUvarint(dst, uint64(s.Ctime.Nsec))
		dst = wire.AppendSvarint(dst, int64(s.Inode-inode))
		dst = wire.AppendSvarint(dst, int64(s.Dev-dev))
		dst = wire.AppendUvarint(dst, s.Mark)
		dev, inode = s.Dev, s.Inode
	}
	return dst
}

// ParseStats gives each entry the Stat that AppendStats wrote.
func ParseStats(b []byte, entries []Entry) error {
	d := wire.NewDecoder(b)
	dev, inode := uint64(0), uint64(0)
	stats := make([]Stat, len(entries))
	for i := range entries {
		s := &stats[i]
		s.Ctime = Time{Sec: entries[i].Mtime.Sec + d.Svarint(), Nsec: uint32(d.UvarintMax(math.MaxUint32))}
		inode += uint64(d.Svarint())
		dev += uint64(d.Svarint())
		s.Inode, s.Dev, s.Mark = inode, dev, d.Uvarint()
		entries[i].Stat = s
	}
	return d.Finish()
}
