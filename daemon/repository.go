package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/snapshot"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// holder keeps one repository open: what it saw there counts for a while, here and
// in the processes of runs.
type holder struct {
	o        *Options
	findings *authentic.Findings
	opening  chan struct{} // holds something while one opens

	mu     sync.Mutex
	config *configs.Config
	repo   *repository.Repository // nil: not open
	err    error                  // why the last attempt failed; nil when it did not
	tried  time.Time
	number int       // how often another repository was configured
	since  time.Time // when it was first tried to open this one
}

// get returns the open repository, this machine as its host, and whether it was
// opened just now. While another call opens it, get waits no longer than ctx.
// When this machine is not the host any more, the daemon cannot use it. A store
// that is gone or was replaced is opened again.
func (h *holder) get(ctx context.Context) (repo *repository.Repository, host *trust.Host, opened bool, err error) {
	select {
	case h.opening <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, false, context.Cause(ctx)
	}
	defer func() { <-h.opening }()
	h.mu.Lock()
	repo, number := h.repo, h.number
	h.mu.Unlock()
	if repo != nil {
		host, err = repo.Host(ctx)
		if !errors.Is(err, trust.ErrCloned) && !errors.Is(err, storage.ErrNoStore) {
			return repo, host, false, err
		}
		// This machine may have another key by now, or the path another directory.
		h.retire(repo)
	}

	h.mu.Lock()
	config := h.config
	h.mu.Unlock()
	repo, err = h.o.Open(ctx, config, h.findings)
	if err == nil {
		host, err = repo.Host(ctx)
	}
	if config.DrillsOnly() && errors.Is(err, trust.ErrNotEnrolled) {
		err = nil // it stores no snapshots
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	if !errors.Is(err, context.Canceled) {
		h.err, h.tried = err, h.o.Now()
	}
	switch {
	case err != nil:
		repo = nil
	case number == h.number: // else another one was configured meanwhile
		h.repo = repo
	}
	return repo, host, err == nil, err
}

// retire stops further use of a repository; runs under way may still use it.
func (h *holder) retire(repo *repository.Repository) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.repo == repo {
		h.repo = nil
	}
}

// settling reports whether the repository is about to be opened for the first time.
func (h *holder) settling(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	waited := now.Sub(h.since)
	return h.repo == nil && h.err == nil && waited >= 0 && waited < startPatience
}

// configure makes c the configuration, and retires the repository if c names
// another one.
func (h *holder) configure(c *configs.Config) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.config
	h.config = c
	if c.Repository.URL == before.Repository.URL && c.Host == before.Host && c.Limits == before.Limits {
		return
	}
	h.repo, h.err, h.tried, h.since = nil, nil, time.Time{}, h.o.Now()
	h.number++
}

// generation is how often another repository was configured.
func (h *holder) generation() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.number
}

// current is the open repository, or the reason why there is none; both are nil
// while it is not open yet.
func (h *holder) current() (*repository.Repository, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.repo, h.err
}

// waiting reports whether the repository is not open, and was tried so recently
// that another attempt has to wait.
func (h *holder) waiting(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	since := now.Sub(h.tried)
	return h.repo == nil && since >= 0 && since < reopenAfter
}

// found is what the repository knows of an environment.
type found struct {
	head     *history.Snapshot
	good     *history.Snapshot // the newest that is not suspect; nil when there is none
	accepted uint64            // the highest number that is known to be accepted
	paths    []string          // of sources that this host remembers
	// protected is until when a snapshot is protected, as the host claims.
	protected func(*statement.RootBody) time.Time
}

// findNewest finds the newest snapshot of an environment, and the newest good one.
func findNewest(ctx context.Context, repo *repository.Repository, host, name string) (*found, error) {
	f := &found{accepted: snapshot.Accepted(repo, name), paths: snapshot.RememberedPaths(repo, name), protected: repo.ClaimedProtection}
	s, err := repo.Head(ctx, host, name)
	if err != nil {
		return nil, err
	}
	f.head, f.good = s, s
	suspect, err := repo.Suspect(ctx, s)
	if err == nil && suspect {
		f.good, err = repo.NewestGood(ctx, host, name)
	}
	return f, err
}

// run is a run by hand that made a snapshot, as far as the root describes it.
func (f *found) run(s *history.Snapshot) *report.Run {
	b := s.Body
	run := &report.Run{Trigger: "hand", Started: b.Started, Finished: b.Finished, Result: report.Success, Attempts: 1, Snapshot: s.Ref(), SnapshotID: fmt.Sprintf("%x", s.ID), SnapshotTime: b.Started,
		Files: b.Files, Directories: b.Directories, Bytes: b.ContentBytes, NewBytes: b.NewContentBytes, StoredBytes: b.StoredBytes, Problems: b.Problems, ProtectedUntil: f.protected(b)}
	if b.Status == statement.Partial {
		run.Result = report.Partial
	}
	return run
}
