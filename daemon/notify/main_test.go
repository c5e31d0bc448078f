package notify

import (
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"knowngood/configs"
	"knowngood/daemon/report"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// long is how long a test waits for what must come.
const long = time.Minute

// notifier is one for a configuration, and what it logs.
func notifier(t *testing.T, cfg configs.Notify) (*Notifier, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	n, err := New(cfg, Options{Log: zap.New(core), Host: "web-7", Repository: "s3://backups/prod", Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	return n, logs
}

// failure is a message as they are.
func failure() Message {
	run := report.Run{Trigger: "schedule", Result: report.Failed, Error: "no such database", Finished: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)}
	return (&Watch{Host: "web-7"}).Ran("db", run, 3)[0]
}
