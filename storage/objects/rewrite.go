package objects

import (
	"knowngood/storage/deletion"
	"maps"
)

// PassOver makes lookups take what lies in packs for not stored, until the
// index looks at the pending deletions again. Who rewrites packs needs it.
func (x *Index) PassOver(packs map[[32]byte]bool) {
	absent := x.deletions.Packs(deletion.Announced, deletion.Deleted)
	maps.Copy(absent, packs)
	x.table.PassOver(absent, x.deletions.Packs(deletion.Deleted))
}

// Flush says that no chunk will be added any more, and waits until all are
// durable. It ends a run that makes no manifest.
func (w *Writer) Flush() error {
	if err := w.CloseChunks(); err != nil {
		return err
	}
	return w.uploads.Wait()
}
