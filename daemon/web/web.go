// Package web shows what a daemon reports: an API of JSON, metrics for
// Prometheus and one page for people (docs/API.md). Its client is what commands
// ask a running daemon with.
//
// It is for one machine: it listens on a Unix socket, whose mode decides who may
// ask, or on a loopback address, where everybody on the machine may look and
// nobody may act. It refuses requests that a web site elsewhere made a browser
// send, by their Host and Origin. It keeps no state; nothing that it reports is
// secret.
package web

import (
	"context"
	"errors"
	"net/http"

	"knowngood/daemon/report"
)

// Source is a daemon that is looked at.
type Source interface {
	// Report is the state now. The caller may keep it.
	Report() report.Report
	// Problems are those of the last run of an environment; ok is false when there
	// is no such environment.
	Problems(env string) (p report.Problems, ok bool)
	// Timeline is that of an environment, as far as it is read.
	Timeline(env string) report.Timeline
	// Ready is why the daemon cannot do its work; nil when it can.
	Ready() error
}

// Control is a daemon that is asked to do something.
type Control interface {
	// Start makes a run of an environment begin, and does not wait for it. The
	// error is ErrUnknown or ErrRunning where it cannot.
	Start(ctx context.Context, env string) error
}

// Why a run is not started.
var (
	ErrUnknown = errors.New("there is no such environment in the daemon's configuration")
	ErrRunning = errors.New("the environment is being captured already")
)

// Handler answers requests. Those that act are answered only over a Unix
// socket.
func Handler(s Source, c Control) http.Handler {
	a := &api{source: s, control: c}
	mux := http.NewServeMux()
	mux.Handle("/healthz", get(func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") }))
	mux.Handle("/readyz", get(a.ready))
	mux.Handle("/metrics", get(metricsHandler(s).ServeHTTP))
	mux.Handle("/api/v1/report", get(a.report))
	mux.Handle("/api/v1/environments", get(a.environments))
	mux.Handle("/api/v1/environments/{name}", get(a.environment))
	mux.Handle("/api/v1/environments/{name}/runs", get(a.runs))
	mux.Handle("/api/v1/environments/{name}/problems", get(a.problems))
	mux.Handle("/api/v1/environments/{name}/snapshot", only(a.snapshot, http.MethodPost))
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, "there is no such endpoint; begin at /api/v1/report")
	})
	p := newPages(s)
	mux.Handle("/{$}", get(p.overview))
	mux.Handle("/environments/{name}", get(p.environment))
	mux.Handle("/assets/{file}", get(p.asset))
	return guard(mux)
}
