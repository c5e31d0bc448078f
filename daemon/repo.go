package daemon

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"knowngood/storage/repository"
)

// repositoryHolder keeps one repository open: its index, connections and
// caches stay warm between runs.
type repositoryHolder struct {
	opening sync.Mutex // held while one opens

	mu     sync.Mutex
	repo   *repository.Repository // nil: not open
	err    error                  // why the last attempt failed; nil when it did not
	tried  time.Time
	old    []*repository.Repository // of earlier configurations, which runs may still use
	number int                      // of the configuration
}

// get opens the repository unless it is open.
func (d *Daemon) repository(ctx context.Context) (*repository.Repository, error) {
	h := &d.repo
	h.opening.Lock()
	defer h.opening.Unlock()
	h.mu.Lock()
	repo, number := h.repo, h.number
	h.mu.Unlock()
	if repo != nil {
		return repo, nil
	}
	d.mu.Lock()
	config := d.config
	d.mu.Unlock()
	repo, err := d.Open(ctx, config)
	if err == nil {
		if _, err = repo.Host(ctx); err != nil {
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
	if err != nil {
		return nil, err
	}
	d.reached(ctx, repo)
	return repo, nil
}

// replace lets go of the repository; idle: no run uses it.
func (h *repositoryHolder) replace(idle bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.repo != nil {
		h.old = append(h.old, h.repo)
	}
	h.repo, h.err, h.tried = nil, nil, time.Time{}
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

// current is the open repository, or why there is none.
func (h *repositoryHolder) current() (*repository.Repository, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.repo, h.err
}

// open opens the repository, and says how that went.
func (d *Daemon) open(ctx context.Context) {
	_, err := d.repository(ctx)
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
// newest snapshots, where its own memory was lost or somebody captured by hand.
func (d *Daemon) reached(ctx context.Context, repo *repository.Repository) {
	d.mu.Lock()
	var names []string
	for name, j := range d.jobs {
		if n, err := repo.Remembered(d.config.Host, name); name != "" && j.running == nil && err == nil && n > j.state.Number || name != "" && j.state.Number == 0 {
			names = append(names, name)
		}
	}
	host := d.config.Host
	d.mu.Unlock()
	for _, name := range names {
		s, err := repo.Head(ctx, host, name)
		if errors.Is(err, repository.ErrNoSnapshot) || ctx.Err() != nil {
			continue
		}
		d.mu.Lock()
		j := d.jobs[name]
		switch {
		case err != nil:
			d.warn("newest snapshot of "+name+": "+err.Error(), repository.Damaged(err))
		case j != nil && s.Body != nil && s.Number > j.state.Number:
			j.state.Number, j.state.Newest = s.Number, s.Body.Started
			j.kept.doubt()
			if err := j.save(); err != nil {
				d.warn(err.Error(), false)
			}
		}
		d.mu.Unlock()
	}
}
