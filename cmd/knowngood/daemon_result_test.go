package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"knowngood/cmd/knowngood/exit"
)

func TestDaemonResult(t *testing.T) {
	t.Parallel()
	t.Run("the result of a daemon's snapshot has what that by hand has", testTheResultOfADaemonsSnapshotHasWhatThatByHandHas)
}

// A script that reads the result must not have to know who captured.
func testTheResultOfADaemonsSnapshotHasWhatThatByHandHas(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	src, empty := t.TempDir(), t.TempDir()
	grow(t, src, "a", 1000)
	s := newService(t, m, "environments: {web: {sources: [{path: %s}, {path: %s, include: [none]}]}}\n", src, empty)
	s.up(t)
	result := func() (fields map[string]any) {
		t.Helper()
		o := s.ask(t, "snapshot", "web", "--json")
		if o.code != exit.Incomplete {
			t.Fatalf("exit code %d: %s", o.code, &o.stderr)
		}
		lines := bytes.Split(bytes.TrimSpace(o.stdout.Bytes()), []byte("\n"))
		if err := json.Unmarshal(lines[len(lines)-1], &fields); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(o.stdout.String(), `{"type":"problem","path":"`+empty+`"`) || !strings.Contains(o.stderr.String(), empty+": its include patterns match nothing") {
			t.Errorf("the problem is not told: %s%s", &o.stdout, &o.stderr)
		}
		return fields
	}
	byDaemon := result()
	if code, body := s.fetch(t, "GET", "/api/v1/environments/none/problems"); code != 404 {
		t.Errorf("problems of an unknown environment: %d %s", code, body)
	}
	s.stop(t)
	byHand := result()

	if byDaemon["by"] != "daemon" {
		t.Fatalf("not the daemon's: %v", byDaemon)
	}
	delete(byDaemon, "by")
	if a, b := slices.Sorted(maps.Keys(byDaemon)), slices.Sorted(maps.Keys(byHand)); !slices.Equal(a, b) {
		t.Errorf("the daemon's has %v, that by hand %v", a, b)
	}
	if byDaemon["directories"] != byHand["directories"] || byDaemon["read_files"] != 1.0 || len(byDaemon["id"].(string)) != 64 {
		t.Errorf("the daemon's: %v", byDaemon)
	}
	if a, b := byDaemon["problem_list"].([]any), byHand["problem_list"].([]any); len(a) != 1 || len(b) != 1 || !maps.Equal(a[0].(map[string]any), b[0].(map[string]any)) {
		t.Errorf("the daemon's problems are %v, those by hand %v", a, b)
	}
	o := s.ask(t, "list", "--json")
	if !strings.Contains(o.stdout.String(), `"time":"`+byDaemon["time"].(string)+`"`) || !strings.Contains(o.stdout.String(), byDaemon["id"].(string)) {
		t.Errorf("list has another time or ID than %v: %s", byDaemon, &o.stdout)
	}
}
