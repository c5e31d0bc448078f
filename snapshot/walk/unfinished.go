package walk

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/internal/posix"
)

// A restore that was killed leaves files of its own in the target. They are no
// content of anybody's, so a walk leaves them out, where the name and more
// besides show that they are what they seem to be.

// RestoreMarker is the name of the file that a restore keeps in its target
// until everything is restored. Its first line is the snapshot's ID.
const RestoreMarker = ".knowngood-restore"

const (
	restorePrefix = ".knowngood-"
	partSuffix    = ".part"
)

// PartName is the name of the file in which a restore prepares the new version
// of the node name, in the same directory. It depends only on the name, so
// that a restore that is run again meets what a killed one left.
func PartName(name string) string {
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%s%x%s", restorePrefix, sum[:8], partSuffix)
}

var (
	partName   = regexp.MustCompile(`^\.knowngood-[0-9a-f]{16}\.part$`)
	markerText = regexp.MustCompile(`^[0-9a-f]{64}\n`)
)

// unfinished reports whether a regular file is one that a restore left.
func unfinished(dirfd int, name string) bool {
	switch {
	case !strings.HasPrefix(name, restorePrefix):
		return false
	case name == RestoreMarker:
		return isMarker(dirfd)
	}
	return partName.MatchString(name)
}

// isMarker looks into the file: somebody else's may have that name too.
func isMarker(dirfd int) bool {
	fd, _, err := posix.OpenFile(dirfd, RestoreMarker)
	if err != nil {
		return false
	}
	defer unix.Close(fd)

	start := make([]byte, hex.EncodedLen(sha256.Size)+1)
	n, err := unix.Pread(fd, start, 0)
	return err == nil && markerText.Match(start[:n])
}
