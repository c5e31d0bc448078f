package web

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"knowngood/daemon/report"
)

func scrape(t *testing.T, r report.Report) string {
	t.Helper()
	f := &fake{r: r}
	w := ask(Handler(f, f), "GET", "/metrics", nil)
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"metrics match the report":                           metricsTellTheReport,
		"what is not known is left out":                      whatIsNotKnownIsLeftOutOfTheMetrics,
		"an unprotected store has a metric":                  metricsShowAnUnprotectedStore,
		"a lock that ended has 0 seconds left":               aLockThatEndedHasNothingLeft,
		"promtool accepts the metrics":                       promtoolTakesTheMetrics,
		"promtool accepts the alert rules and their tests":   promtoolTakesTheAlertRulesAndTheirTests,
		"alert rules and the document name existing metrics": alertRulesAndTheDocumentNameMetricsThatThereAre,
	} {
		t.Run(name, test)
	}
}

func metricsTellTheReport(t *testing.T) {
	t.Parallel()
	r := sample()
	if text := scrape(t, r); !strings.Contains(text, `knowngood_drill_rto_missed{drill="web"} 0`) {
		t.Error("no promise is broken, and that is not reported")
	}
	r.Drills[0].Last.Drilled[0].RTOPromised = 40
	text := scrape(t, r)
	for _, line := range []string{
		`knowngood_build_info{version="1.4.0"} 1`, `knowngood_degraded 0`,
		`knowngood_warnings{kind="other"} 1`, `knowngood_warnings{kind="tampering"} 0`,
		`knowngood_newest_snapshot_timestamp_seconds{environment="web"} 1.79516818e+09`,
		`knowngood_rpo_seconds{environment="web"} 3600`, `knowngood_rpo_broken{environment="web"} 0`, `knowngood_rpo_broken{environment="db"} 1`,
		`knowngood_runs_total{environment="web",result="failed"} 2`, `knowngood_runs_total{environment="etc",result="failed"} 0`,
		`knowngood_consecutive_failures{environment="db"} 3`, `knowngood_running{environment="web"} 1`,
		`knowngood_last_run_duration_seconds{environment="db"} 31`, `knowngood_lock_remaining_seconds{environment="web"} 2.5056e+06`,
		`knowngood_snapshots_kept{environment="web"} 87`, `knowngood_prune_freed_bytes 7.1e+09`, `knowngood_store_free_bytes 6e+10`, `knowngood_store_unprotected 0`,
		`knowngood_known_good_timestamp_seconds{environment="web"} 1.79514387e+09`, `knowngood_known_good_proven_timestamp_seconds{environment="web"} 1.79514747e+09`, `knowngood_drill_rto_seconds{environment="web"} 41`, `knowngood_drill_rto_missed{drill="web"} 1`,
		`knowngood_known_good_level{environment="web"} 2`, `knowngood_known_good_lacking{environment="web"} 0`, `knowngood_known_good_level{environment="etc"} 0`, `knowngood_known_good_lacking{environment="etc"} 1`,
		`knowngood_instances_wanted{environment="etc"} 3`, `knowngood_instances_ready{environment="etc"} 2`, `knowngood_instances_not_probed{environment="etc"} 0`, `knowngood_instances_failed{environment="etc"} 1`, `knowngood_instances_checked_timestamp_seconds{environment="etc"} 1.79516905e+09`,
		`knowngood_check_runs_total{result="failed"} 1`, `knowngood_check_damaged_objects 0`, `knowngood_check_overdue 0`, `knowngood_check_read_bytes 1.073741824e+09`,
		`knowngood_check_data_cycle_seconds 1.52928e+07`, `knowngood_check_last_timestamp_seconds 1.79515107e+09`,
	} {
		if !strings.Contains(text, line+"\n") {
			name, _, _ := strings.Cut(line, " ")
			t.Errorf("there is no %s: %s", line, regexp.MustCompile(regexp.QuoteMeta(name)+".*").FindString(text))
		}
	}
	for _, absent := range []string{`knowngood_rpo_broken{environment="etc"}`, `knowngood_lock_remaining_seconds{environment="etc"}`,
		`knowngood_known_good_level{environment="db"}`, `knowngood_known_good_lacking{environment="db"}`, `knowngood_drill_rto_seconds{environment="etc"}`} {
		if strings.Contains(text, absent) {
			t.Errorf("%s tells what nobody promised", absent)
		}
	}
}

func whatIsNotKnownIsLeftOutOfTheMetrics(t *testing.T) {
	t.Parallel()
	text := scrape(t, report.Report{Now: now, Environments: []report.Environment{{Name: "new", RPOSeconds: 60, AgeSeconds: -1}}})
	if !strings.Contains(text, `knowngood_rpo_broken{environment="new"} 1`) {
		t.Error("a promise without a snapshot is not told")
	}
	for _, absent := range []string{"newest_snapshot", "last_run", "last_success", "snapshot_bytes", "store_", "prune_", "check_", "next_run", "lock_", "known_good", "drill_"} {
		if strings.Contains(text, "knowngood_"+absent) {
			t.Errorf("it tells knowngood_%s", absent)
		}
	}
}

func metricsShowAnUnprotectedStore(t *testing.T) {
	t.Parallel()
	r := sample()
	r.Storage.UnprotectedAt = now
	if text := scrape(t, r); !strings.Contains(text, "knowngood_store_unprotected 1\n") {
		t.Error("an unprotected store has no metric")
	}
}

func aLockThatEndedHasNothingLeft(t *testing.T) {
	t.Parallel()
	r := sample()
	r.Environments[0].ProtectedUntil = now.Add(-time.Hour)
	if text := scrape(t, r); !strings.Contains(text, "knowngood_lock_remaining_seconds{environment=\"etc\"} 0\n") {
		t.Error("it is not told as 0")
	}
}

// promtool runs Prometheus' own tool; the test is skipped where there is none.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool (Debian: prometheus): ", err)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", cmd, err, out)
	}
}

func promtoolTakesTheMetrics(t *testing.T) {
	t.Parallel()
	promtool(t, scrape(t, sample()), "check", "metrics")
}

const rules = "../../configs/prometheus/knowngood.rules.yml"

func promtoolTakesTheAlertRulesAndTheirTests(t *testing.T) {
	t.Parallel()
	promtool(t, "", "check", "rules", "--lint-fatal", rules)
	promtool(t, "", "test", "rules", strings.TrimSuffix(rules, ".yml")+"_test.yml")
}

var metricName = regexp.MustCompile(`knowngood_[a-z_]+`)

func alertRulesAndTheDocumentNameMetricsThatThereAre(t *testing.T) {
	t.Parallel()
	exported := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (knowngood_\S+)`).FindAllStringSubmatch(scrape(t, sample()), -1) {
		exported[m[1]] = true
	}
	if len(exported) < 25 {
		t.Fatalf("the sample has only %d metrics", len(exported))
	}
	for _, file := range []string{rules, "../../docs/API.md"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range metricName.FindAllString(string(text), -1) {
			if !exported[name] {
				t.Errorf("%s names %s, which is not exported", file, name)
			}
		}
		if file == rules {
			continue
		}
		for name := range exported {
			if !bytes.Contains(text, []byte("`"+name+"`")) {
				t.Errorf("%s does not tell of %s", file, name)
			}
		}
	}
}
