package notify

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"knowngood/configs"
	"knowngood/daemon/report"
)

// Check reports to add what a Notifier of a valid configuration could not deliver,
// with the key below notify: templates that make no body of some kind of message,
// headers that HTTP does not have. It connects to nothing. No secret is in a report.
func Check(cfg configs.Notify, add func(key []string, format string, args ...any)) {
	for i, w := range cfg.Webhook {
		key := []string{"webhook", strconv.Itoa(i)}
		for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
			if why := wrongHeader(name, w.Headers[name]); why != "" {
				add(append(slices.Clone(key), "headers", name), "%s", why)
			}
		}
		if _, err := newAddress(w.URL, w.Headers); err != nil {
			add(append(slices.Clone(key), "url"), "%v", err)
		}
		if w.Template == "" {
			continue
		}
		made, err := configs.BodyTemplate(w.Template)
		if err != nil {
			add(append(key, "template"), "%v", err)
			continue
		}
		if why := (&webhook{make: made}).wrongTemplate(); why != "" {
			add(append(key, "template"), "%s", why)
		}
	}
}

// wrongHeader is why HTTP has no such header; "" when it has.
func wrongHeader(name, value string) string {
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return fmt.Sprintf("%q is not the name of an HTTP header: use letters, digits and hyphens, as in X-Token", name)
	case !httpguts.ValidHeaderFieldValue(value):
		return "the value of the header has a line break or another control character: write it in one line (a variable may end with a line break)"
	case strings.EqualFold(name, "Host") && !httpguts.ValidHostHeader(value):
		return "the value of the header is not a host, such as example.com"
	}
	return ""
}

// wrongTemplate is why a webhook has no body for some message; "" when it has one
// for every kind.
func (w *webhook) wrongTemplate() string {
	for _, m := range samples() {
		if _, _, err := w.body(&m); err != nil {
			hint := ""
			if m.Run == nil {
				hint = " (not every message has a Run: write {{with .Run}}…{{end}})"
			}
			return fmt.Sprintf("it makes nothing of a message of the kind %s: %s%s; docs/OPERATIONS.md has the fields", m.Kind, configs.TemplateError(err), hint)
		}
	}
	return ""
}

// samples are a message of every kind, with the fields that it has when it is
// sent, and without those that it may lack.
func samples() []Message {
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	watch := &Watch{Host: "host"}
	env := &report.Environment{Name: "web", RPOSeconds: 3600, AgeSeconds: 7200, Newest: now.Add(-2 * time.Hour), RPOBroken: true}
	failed := report.Run{Trigger: "schedule", Started: now, Finished: now, Result: report.Failed, Error: "connection refused", Attempts: 1}
	partial := failed
	suspect := failed
	suspect.Result, suspect.Error, suspect.Snapshot, suspect.Suspect = report.Suspect, "", "web@43", []string{"/srv/web shrank"}
	partial.Result, partial.Error, partial.Snapshot, partial.Problems = report.Partial, "", "web@42", 3

	drilled := report.Run{Trigger: "schedule", Started: now, Finished: now, Attempts: 1}
	drilled.SetDrilled([]report.Drilled{
		{Environment: "host/web", Snapshot: "host/web@42", RTOSeconds: 90, RTOPromised: 60, Error: "page: it is empty", ExitCode: 14}, {Environment: "host/db", Error: "connection refused", ExitCode: 1}}, nil)
	drifted := report.Run{Trigger: "schedule", Started: now, Finished: now, Attempts: 1}
	drifted.SetDrifted([]report.Drifted{{Environment: "web", From: "web@42", To: "this machine", Paths: 1, First: []string{"changed /etc/passwd"}, ExitCode: 14}})

	sent := slices.Concat(
		watch.Ran("web", failed, 2), watch.Ran("web", partial, 0), watch.Ran("web", suspect, 0), watch.Drilled("web", drilled, 1), watch.Drifted("web", drifted, 0), watch.Pruned(failed, 1),
		watch.Checked(now, env), watch.Found(report.Warning{Time: now, Text: "damaged", Tampering: true}), watch.Degraded(now, "connection refused"), watch.Degraded(now, ""))
	env.AgeSeconds, env.RPOBroken = 60, false
	sent = append(sent, watch.Checked(now, env)...)
	env.Proof = &report.Proof{Wanted: true, Newest: "web@42", Reason: "no drill has passed"}
	sent = append(sent, watch.Proven(now, env, time.Time{})...)
	sent = append(sent, testMessage("host"))
	for i := range sent {
		sent[i].Host, sent[i].Repository, sent[i].Version = "host", "file:///repository", "1.0"
	}
	return sent
}
