package owners

import (
	"bytes"
	"context"
	"strconv"
	"strings"

	"knowngood/snapshot"
	"knowngood/snapshot/manifest"
)

// accountNames are the users and groups of the machine that was captured, by
// number, as far as the snapshot has its etc/passwd and etc/group.
type accountNames struct{ users, groups map[uint32]string }

// maxAccounts is how many bytes of such a file are read at most.
const maxAccounts = 8 << 20

// readAccountNames reads the accounts of a snapshot. A file that it does not have,
// or that cannot be read, gives no names.
func readAccountNames(ctx context.Context, t *snapshot.Tree) *accountNames {
	return &accountNames{users: readNames(ctx, t, "etc/passwd"), groups: readNames(ctx, t, "etc/group")}
}

func readNames(ctx context.Context, t *snapshot.Tree, path string) map[uint32]string {
	e, err := t.Find(ctx, path)
	if err != nil || e == nil || e.Type != manifest.File || e.Size > maxAccounts || e.Flags&manifest.ContentUnread != 0 {
		return nil
	}
	var content bytes.Buffer
	if err := t.Content(ctx, e, &content); err != nil {
		return nil
	}
	return parseNames(content.String())
}

// parseNames reads the lines of a passwd or group file: name, password, number.
// Of several names of one number the first counts, as it does for the system.
func parseNames(text string) map[uint32]string {
	names := map[uint32]string{}
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) < 3 || fields[0] == "" || strings.ContainsAny(fields[0][:1], "#+-") {
			continue
		}
		id, err := strconv.ParseUint(fields[2], 10, 32)
		if _, known := names[uint32(id)]; err == nil && !known {
			names[uint32(id)] = fields[0]
		}
	}
	return names
}
