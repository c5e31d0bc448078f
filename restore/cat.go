package restore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
	"knowngood/storage/chunk"
)

// Cat writes the content of a file, and nothing when the snapshot does not have
// all of it. See snapshot.Tree.Content.
func Cat(ctx context.Context, t *snapshot.Tree, e *manifest.Entry, w io.Writer) error {
	if e.Flags&manifest.ContentUnread != 0 {
		return fmt.Errorf("%q: nothing is written: %w", "/"+e.Path, incompleteError(t, e))
	}
	return t.Content(ctx, e, w)
}

// ErrNotAsCaptured means that a file on the disk is not the one of the snapshot.
var ErrNotAsCaptured = errors.New("it is not as the snapshot has it")

// CatRestored writes the content of a restored file, each chunk verified before
// it is written: whatever lies at path by now, w gets what the snapshot has, or
// the result is an error. So it is for a file that the capture could not read
// completely.
func CatRestored(ctx context.Context, t *snapshot.Tree, e *manifest.Entry, path string, w io.Writer) error {
	if e.Type != manifest.File {
		return fmt.Errorf("%q is no file but a %v", "/"+e.Path, e.Type)
	}
	if e.Flags&manifest.ContentUnread != 0 {
		return incompleteError(t, e)
	}
	fd, st, err := posix.OpenFile(unix.AT_FDCWD, path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if st.Size != e.Size {
		return ErrNotAsCaptured
	}

	key := t.Reader.Domain().ChunkKey()
	return snapshot.WriteContent(ctx, e, w, func(_ context.Context, i int, at uint64) ([]byte, error) {
		b := make([]byte, e.Chunks[i].Len)
		err := readContent(fd, e, at, b)
		if err == io.ErrUnexpectedEOF || err == nil && chunk.NewHasher(key).ID(b) != e.Chunks[i].ID {
			err = ErrNotAsCaptured
		}
		return b, err
	})
}
