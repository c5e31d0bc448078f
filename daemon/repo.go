package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"knowngood/configs"
	"knowngood/daemon/notify"
	"knowngood/daemon/report"
	"knowngood/snapshot"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
	"knowngood/storage/trust"
)

// repositoryHolder keeps one repository open: its index, connections and
// caches stay warm between runs.
type repositoryHolder struct {
	opening chan struct{} // holds something while one opens

	mu     sync.Mutex
	repo   *repository.Repository // nil: not open
	err    error                  // why the last attempt failed; nil when it did not
	tried  time.Time
	old    []*repository.Repository // of earlier configurations, which runs may still use
	number int                      // of the configuration
	since  time.Time                // when it was first tried by that
}

// repository opens the repository unless it is open, and sees whether this
// machine is still its host. When it is not, the daemon can do nothing with it.
func (d *Daemon) repository(ctx context.Context) (*repository.Repository, *trust.Host, error) {
	repo, host, opened, err := d.opened(ctx)
	if opened {
		d.reached(ctx, repo)
	}
	return repo, host, err
}

// opened is the open repository, this machine as its host, and whether it was
// opened just now. Who waits for another to open it does so no longer than ctx.
func (d *Daemon) opened(ctx context.Context) (repo *repository.Repository, host *trust.Host, now bool, err error) {
	h := &d.repo
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
		if host, err = repo.Host(ctx); !errors.Is(err, trust.ErrCloned) {
			return repo, host, false, err
		}
		// The key that this machine has by now may be another.
		h.retire(repo)
	}
	d.mu.Lock()
	config := d.config
	d.mu.Unlock()
	repo, err = d.Open(ctx, config)
	if err == nil {
		if host, err = repo.Host(ctx); err != nil {
			repo.Close()
		}
	}
	h.mu.Lock()
	if !errors.Is(err, context.Canceled) {
		h.err, h.tried = err, d.Now()
	}
	switch {
	case err != nil:
		repo = nil
	case number != h.number: // the configuration changed meanwhile
		h.old = append(h.old, repo)
	default:
		h.repo = repo
	}
	h.mu.Unlock()
	return repo, host, err == nil, err
}

// retire takes a repository out of use; runs under way may still use it.
func (h *repositoryHolder) retire(repo *repository.Repository) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.repo == repo {
		h.old, h.repo = append(h.old, repo), nil
	}
}

// settling tells that the repository is about to be opened for the first time.
func (h *repositoryHolder) settling(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	waited := now.Sub(h.since)
	return h.repo == nil && h.err == nil && waited >= 0 && waited < startPatience
}

// replace lets go of the repository; idle: no run uses it.
func (h *repositoryHolder) replace(now time.Time, idle bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.repo != nil {
		h.old = append(h.old, h.repo)
	}
	h.repo, h.err, h.tried, h.since = nil, nil, time.Time{}, now
	h.number++
	if idle {
		h.closeOld()
	}
}

// closeOld closes what no run can use any more; mu is held.
func (h *repositoryHolder) closeOld() {
	for _, r := range h.old {
		r.Close()
	}
	h.old = nil
}

func (h *repositoryHolder) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.repo != nil {
		h.repo.Close()
	}
	h.closeOld()
}

// configured is the number of the configuration in force.
func (h *repositoryHolder) configured() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.number
}

// current is the open repository, or why there is none.
func (h *repositoryHolder) current() (*repository.Repository, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.repo, h.err
}

// open opens the repository, and says how that went.
func (d *Daemon) open(ctx context.Context) {
	_, _, err := d.repository(ctx)
	if err != nil && ctx.Err() == nil {
		d.Log.Error("the repository cannot be used; it is tried again each minute", zap.Error(err))
	}
	d.status()
}

// Ready says why the daemon cannot do its work; nil when it can.
func (d *Daemon) Ready() error {
	repo, err := d.repo.current()
	if err == nil && repo == nil {
		err = errors.New("the repository is not open yet")
	}
	return err
}

// reached takes in what the repository knows and the daemon does not: the
// newest snapshots, where its own memory was lost or is of another repository,
// or somebody captured by hand.
func (d *Daemon) reached(ctx context.Context, repo *repository.Repository) {
	id := repo.ID().String()
	d.mu.Lock()
	var names []string
	for name, j := range d.jobs {
		if !isEnvironment(name) {
			continue
		}
		n, err := repo.Remembered(d.config.Host, name)
		accepted := j.state.Suspect != nil && snapshot.Accepted(repo, name) != j.state.Accepted
		if j.running == nil && (j.looked != id || err == nil && n > j.state.Number || accepted) {
			names = append(names, name)
		}
	}
	host := d.config.Host
	d.mu.Unlock()
	if len(names) == 0 {
		return
	}
	for _, name := range names {
		f, err := lookForNewest(ctx, repo, host, name)
		if ctx.Err() != nil {
			return
		}
		d.mu.Lock()
		d.newest(name, id, f, err)
		d.mu.Unlock()
		if authentic.Damaged(err) {
			d.tell(func(w *watch) []notify.Message {
				return w.Found(report.Warning{Time: d.Now(), Text: err.Error(), Tampering: true})
			})
		}
	}
	d.tellLast() // that what failed was taken by hand
}

// found is what a look into the repository found of an environment.
type found struct {
	head     *history.Snapshot
	good     *history.Snapshot // the newest that is not suspect; nil when there is none
	accepted uint64            // the highest number that is known to be accepted
	paths    []string          // of sources that this host remembers
	// protected is until when a snapshot is protected, as the host says.
	protected func(*statement.RootBody) time.Time
}

// lookForNewest looks for the newest snapshot of an environment, and for the
// newest good one.
func lookForNewest(ctx context.Context, repo *repository.Repository, host, name string) (*found, error) {
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

// newest takes in which snapshot of an environment is the newest in a
// repository; mu is held.
func (d *Daemon) newest(name, id string, f *found, err error) {
	j := d.jobs[name]
	none := errors.Is(err, history.ErrNoSnapshot)
	switch {
	case err != nil && !none:
		d.warn("newest snapshot of "+name+": "+err.Error(), authentic.Damaged(err))
		return
	case j == nil:
		return
	}
	j.looked = id
	switch {
	case none && j.state.Repository != id:
		j.state.Number, j.state.Newest, j.state.Protected, j.state.LastSuccess, j.state.Suspect = 0, time.Time{}, time.Time{}, nil, nil
	case !none && f.head.Body != nil && (f.head.Number > j.state.Number || j.state.Repository != id || j.state.Suspect != nil && f.accepted != j.state.Accepted):
		j.take(f, append(SourcePaths(j.env), f.paths...))
	default:
		return
	}
	j.state.Repository = id
	d.keep(j.slots, &j.state)
}

// take takes in snapshots that were made, or accepted, elsewhere.
func (j *job) take(f *found, paths []string) {
	j.state.Number, j.state.Accepted = f.head.Number, f.accepted
	j.state.Newest, j.state.Protected, j.state.LastSuccess, j.state.Suspect = time.Time{}, time.Time{}, nil, nil
	if g := f.good; g != nil {
		j.state.Newest, j.state.Protected, j.state.LastSuccess = g.Body.Started, f.protected(g.Body), f.made(g)
	}
	last := j.state.LastSuccess
	if f.good == nil || f.good.Number != f.head.Number {
		run := f.made(f.head)
		run.Result, run.Suspect = report.Suspect, bounded(snapshot.Reasons(f.head, paths))
		last = run
		j.suspect(run)
	}
	if died := j.state.Last; died == nil || !died.Died || f.head.Body.Started.After(died.Finished) { // else that made it, and died then
		j.state.Last, j.state.Failures = last, 0
	}
	j.kept.doubt()
}

// SourcePaths are the paths of the sources of an environment, as a manifest has
// them.
func SourcePaths(env *configs.Environment) []string {
	var out []string
	for _, s := range env.Sources {
		out = append(out, cmp.Or(s.Path, s.As))
	}
	return out
}

// made is the run by hand that made a snapshot, as far as that tells.
func (f *found) made(s *history.Snapshot) *report.Run {
	b := s.Body
	run := &report.Run{Trigger: "hand", Started: b.Started, Finished: b.Finished, Result: report.Success, Attempts: 1, Snapshot: s.Ref(), SnapshotID: fmt.Sprintf("%x", s.ID), SnapshotTime: b.Started,
		Files: b.Files, Directories: b.Directories, Bytes: b.ContentBytes, NewBytes: b.NewContentBytes, StoredBytes: b.StoredBytes, Problems: b.Problems, ProtectedUntil: f.protected(b)}
	if b.Status == statement.Partial {
		run.Result = report.Partial
	}
	return run
}
