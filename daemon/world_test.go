package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"knowngood/configs"
	"knowngood/daemon/report"
	"knowngood/internal/enginetest"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/repository"
	"knowngood/storage/storagetest"
	"knowngood/storage/trust"
)

// world is a daemon over a store that fails on demand.
type world struct {
	*enginetest.World
	t      *testing.T
	faulty *storagetest.Faulty
	source string
	logs   *observer.ObservedLogs
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOn(t, storagetest.NewPlainMemory())
}

// newWorldOn is newWorld over an empty store.
func newWorldOn(t *testing.T, store storage.Store) *world {
	t.Helper()
	f := storagetest.NewFaulty(store)
	w := &world{World: enginetest.New(t, f), t: t, faulty: f, source: filepath.Join(t.TempDir(), "source")}
	w.Check(os.Mkdir(w.source, 0o755))
	w.write("file", "content")
	return w
}

func (w *world) write(name, content string) {
	w.t.Helper()
	w.Check(os.WriteFile(filepath.Join(w.source, name), []byte(content), 0o644))
}

// config of environments given as YAML; SOURCE stands for the source.
func (w *world) config(environments string) *configs.Config {
	w.t.Helper()
	c, err := configs.Parse("test.yaml", []byte(os.Expand("host: "+enginetest.Host+"\nrepository: {url: /nowhere}\nenvironments:\n"+environments, func(name string) string {
		if name == "SOURCE" {
			return w.source
		}
		return "$" + name
	})), configs.LoadOptions{Advise: true})
	w.Check(err)
	c.StateDir = w.State
	c.Check = nil // tests of it set their own
	return c
}

func (w *world) open(ctx context.Context, _ *configs.Config, findings *authentic.Findings) (*repository.Repository, error) {
	return repository.Open(ctx, w.faulty, repository.Options{Options: trust.Options{StateDir: w.State, URL: "test", Now: time.Now(), Fresh: time.Hour, Report: findings.Add}})
}

func (w *world) daemon(c *configs.Config) *Daemon {
	core, logs := observer.New(zap.InfoLevel)
	w.logs = logs
	return New(Options{Config: c, Open: w.open, Version: "test", Log: zap.New(core)})
}

// run works until stop is called, which waits for the end.
func (w *world) run(d *Daemon) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- d.work(ctx) }()
	return func() {
		w.t.Helper()
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("the daemon: %v", err)
		}
	}
}

func (w *world) environment(d *Daemon, name string) report.Environment {
	w.t.Helper()
	for _, e := range d.Report().Environments {
		if e.Name == name {
			return e
		}
	}
	w.t.Fatalf("the report has no environment %s", name)
	return report.Environment{}
}

// lines of the file that hooks write to.
func (w *world) lines(file string) []string {
	w.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	return strings.Fields(string(b))
}
