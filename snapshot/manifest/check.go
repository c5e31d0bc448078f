package manifest

import (
	"math"
	"strings"

	"knowngood/storage/pack"
)

// Check returns why an entry cannot stand in a segment: an encoder must be
// given nothing that ParseSegment refuses, because one entry would make a whole
// segment unreadable. What concerns several entries, their order, is not
// looked at. The error names the path and matches wire.ErrMalformed.
func Check(e *Entry) error {
	if !ValidPath(e.Path) {
		return invalid(e.Path, "its path cannot be stored")
	}
	if e.Mode > 0o7777 || e.Mtime.Nsec > 999_999_999 {
		return invalid(e.Path, "mode %o, %d nanoseconds", e.Mode, e.Mtime.Nsec)
	}
	for i := range e.Xattrs {
		if i > 0 && e.Xattrs[i-1].Name >= e.Xattrs[i].Name || !validXattr(&e.Xattrs[i]) {
			return invalid(e.Path, "attribute %q cannot be stored", e.Xattrs[i].Name)
		}
	}
	if reason := e.misfit(); reason != "" {
		return invalid(e.Path, "%s", reason)
	}
	if reason := e.overBudget(); reason != "" {
		return invalid(e.Path, "%s", reason)
	}
	if e.Type == File {
		return checkContent(e)
	}
	if len(e.Chunks) > 0 || len(e.Holes) > 0 || e.Size > 0 {
		return invalid(e.Path, "a %v has no content", e.Type)
	}
	return nil
}

func validXattr(x *Xattr) bool {
	return x.Name != "" && strings.IndexByte(x.Name, 0) < 0 && len(x.Value) <= MaxXattrValue
}

// misfit is what does not go together of type, flags and target; "" when all
// does.
func (e *Entry) misfit() string {
	switch {
	case e.Type < File || e.Type > BlockDevice:
		return "its type is unknown"
	case e.Flags&^allFlags != 0:
		return "its flags are unknown"
	case e.Type == Dir && e.Flags&ContentUnread != 0, e.Type != Dir && e.Flags&ListingUnread != 0:
		return "its flags do not fit its type"
	case e.Type == Symlink && e.Target == "" && e.Flags&ContentUnread == 0:
		return "the symlink has no target"
	case strings.IndexByte(e.Target, 0) >= 0:
		return "the symlink's target cannot be stored"
	}
	return ""
}

// checkContent checks that holes and chunks make up the size of a file.
func checkContent(e *Entry) error {
	if e.Size > math.MaxInt64 {
		return invalid(e.Path, "size %d", e.Size)
	}

	content, end := e.Size, uint64(0)
	for i, h := range e.Holes {
		if h.Length == 0 || h.Offset < end || i > 0 && h.Offset == end || h.Offset > e.Size || h.Length > e.Size-h.Offset {
			return invalid(e.Path, "hole %d", i)
		}
		content -= h.Length
		end = h.Offset + h.Length
	}

	for i := range e.Chunks {
		n := uint64(e.Chunks[i].Len)
		if n == 0 || n > pack.MaxChunk || n > content {
			return invalid(e.Path, "chunk of %d bytes", n)
		}
		content -= n
	}
	if content != 0 {
		return invalid(e.Path, "no chunks for %d bytes", content)
	}
	return nil
}
