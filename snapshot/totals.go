package snapshot

import (
	"knowngood/internal/wire"
	"knowngood/snapshot/manifest"
)

// Totals of a snapshot.
type Totals struct {
	Entries     uint64 `json:"entries"`
	Files       uint64 `json:"files"`
	Directories uint64 `json:"directories"`
	Bytes       uint64 `json:"bytes"` // content of files, holes included
}

func (t *Totals) add(e *manifest.Entry) {
	t.Entries++
	switch e.Type {
	case manifest.File:
		t.Files++
		t.Bytes += e.Size
	case manifest.Dir:
		t.Directories++
	}
}

func (t *Totals) append(b []byte) []byte {
	for _, v := range [...]uint64{t.Entries, t.Files, t.Directories, t.Bytes} {
		b = wire.AppendUvarint(b, v)
	}
	return b
}

func (t *Totals) parse(b []byte) error {
	d := wire.NewDecoder(b)
	t.Entries, t.Files, t.Directories, t.Bytes = d.Uvarint(), d.Uvarint(), d.Uvarint(), d.Uvarint()
	return d.Finish()
}
