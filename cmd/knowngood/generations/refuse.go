package generations

import (
	"path/filepath"

	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/internal/printable"
	"knowngood/snapshot"
	"knowngood/snapshot/live"
)

// RefuseInPlace refuses a restore in place that would change a generation: of a snapshot, or
// of what is under a path of it, into a target.
func RefuseInPlace(tree *snapshot.Tree, target, under string) error {
	places := []string{target}
	if under == "" {
		for _, p := range session.SourcePaths(tree) {
			places = append(places, filepath.Join(target, p))
		}
	}
	for _, p := range places {
		if root := live.Owner(p); root != "" {
			return usage.Errorf("%s belongs to the generations of %s, which are never changed in place: knowngood switch makes another one live, or restore into a new directory", printable.Name(p), printable.Name(root))
		}
	}
	return nil
}
