package check

import (
	"context"
	"fmt"

	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/deletion"
	"knowngood/storage/history"
	"knowngood/storage/layout"
)

// repair rebuilds the index of the host that Options.Repair names, where runs are
// missing or damaged. The check that follows finds what is left.
func (c *checker) repair(ctx context.Context) error {
	host := c.Repair
	newest, err := c.newestOf(ctx)
	if err != nil {
		return err
	}
	var named [][32]byte
	if newest != nil {
		named = newest.Root.IndexRuns
	}
	keys := map[[32]byte]string{}
	for o, err := range c.repo.Store().List(ctx, storage.ListOptions{Prefix: layout.PrefixIndexRuns(host.Name, host.Domain.ID)}) {
		if err != nil {
			return err
		}
		if _, _, _, hash, ok := layout.ParseIndexRunKey(o.Key); ok {
			keys[hash] = o.Key
		}
	}

	found := c.findings.Take()
	replaced, err := c.repo.RebuildIndex(ctx, host, named)
	if err != nil {
		return fmt.Errorf("rebuild the index of host %s: %w", host.Name, err)
	}
	for _, hash := range replaced {
		key, there := keys[hash]
		if !there {
			key = missingRun(host.Name, host.Domain.ID, hash)
		}
		c.report.Repaired = append(c.report.Repaired, key)
	}

	// What it found of packs and runs, the check judges by itself.
	for _, f := range c.findings.Take() {
		_, object := deletion.ParseKey(f.Key)
		_, _, _, _, run := layout.ParseIndexRunKey(f.Key)
		if f.Kind == authentic.Damage && (object || run) {
			continue
		}
		found = append(found, f)
	}
	for _, f := range found {
		c.warning(f.Err)
	}
	return nil
}

// newestOf is the newest snapshot in the domain that the host to be repaired has
// now; nil for none.
func (c *checker) newestOf(ctx context.Context) (newest *history.Snapshot, err error) {
	envs, err := c.repo.Environments(ctx, c.Repair.Name)
	if err != nil {
		return nil, err
	}
	for _, env := range envs {
		for s, err := range c.repo.Reread(ctx, c.Repair.Name, env) {
			if authentic.Damaged(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if s.Body == nil || s.Domain.ID != c.Repair.Domain.ID {
				continue
			}
			if newest == nil || s.Body.Finished.After(newest.Body.Finished) {
				newest = s
			}
			break // the next one is older
		}
	}
	return newest, nil
}
