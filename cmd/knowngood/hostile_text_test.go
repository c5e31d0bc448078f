package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"knowngood/cmd/knowngood/exit"
)

// hostileText clears a screen, sets a title, turns a text round, hides a part of
// it, and forges a line of ours; as UTF-8, and as bytes that are none.
const hostileText = "x\x1b[2J\x1b]0;t\a\u202efdp\u2066\u200b\u009b31m\r\nknowngood: all is well\xff\x9b\x7fz"

// obeyed is what a terminal would obey, or not show, of an output.
func obeyed(out string) (bad []string) {
	for s := out; s != ""; {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 || r != '\n' && r != '\t' && !unicode.IsGraphic(r) {
			bad = append(bad, fmt.Sprintf("%q", s[:n]))
		}
		s = s[n:]
	}
	return bad
}

// harmless demands that an output commands no terminal and has no line that the
// hostile text forged.
func harmless(t *testing.T, o *outcome) {
	t.Helper()
	for name, out := range map[string]string{"standard output": o.stdout.String(), "standard error": o.stderr.String()} {
		if bad := obeyed(out); len(bad) > 0 {
			t.Errorf("knowngood %s: %s has %s in it:\n%q", strings.Join(o.args, " "), name, strings.Join(bad, " "), out)
		}
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "knowngood: all is well") {
				t.Errorf("knowngood %s: %s has a line of the attacker's:\n%q", strings.Join(o.args, " "), name, out)
			}
		}
	}
}

func TestHostileTexts(t *testing.T) {
	t.Parallel()
	m := newMachine(t, filepath.Join(t.TempDir(), "repo"))
	src := filepath.Join(t.TempDir(), "src")
	name := strings.ReplaceAll(hostileText, "/", "_")
	for _, err := range []error{os.MkdirAll(filepath.Join(src, name), 0o755), os.WriteFile(filepath.Join(src, name, name), []byte(hostileText), 0o644),
		os.Symlink(hostileText, filepath.Join(src, "link"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	capture := []string{"snapshot", "--env", "web", "--tag", "x\u202ey\x1b[2J", src}
	m.run(t, capture...)
	m.must(t, "snapshot", "--env", "web", src)
	m.must(t, "snapshot", "--env", "web", src)
	m.run(t, "forget", "web@1", "--reason", strings.ToValidUTF8(hostileText, ""))

	t.Run("in names, tags and reasons are shown as what they are", func(t *testing.T) {
		target := t.TempDir()
		for _, args := range [][]string{
			{"list", "--all"}, {"show", "web@1"}, {"show", "web"}, {"ls", "web"}, {"ls", "-l", "web"}, {"find", "web", "**"}, {"find", "-l", "web", "*"},
			{"diff", "web@2", "web@3"}, {"stats"}, {"status"}, {"check"}, {"check", "--read-data"},
			{"restore", "web", "--target", filepath.Join(target, "dry"), "--dry-run"}, {"restore", "web", "--target", filepath.Join(target, "made")},
			{"cat", "web:/" + hostileText}, {"ls", hostileText}, {hostileText}, {"list", "--x\u202e\x1b[2J"}, {"restore", "web", "--target", filepath.Join(target, hostileText)},
			{"snapshot", "--env", "other", filepath.Join(src, name, "no such")},
		} {
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "\x00", "")
			}
			harmless(t, m.run(t, args...))
		}
	})
	t.Run("are exact in JSON, and shown as what they are", func(t *testing.T) {
		o := m.run(t, "ls", "--json", "web:"+src)
		harmless(t, o)
		var list struct {
			Entries []struct {
				Target string
				Exact  []byte `json:"target_base64"`
			}
		}
		if err := json.Unmarshal(o.stdout.Bytes(), &list); err != nil {
			t.Fatalf("%s: %v", &o.stdout, err)
		}
		found := false
		for _, e := range list.Entries {
			found = found || strings.HasPrefix(e.Target, hostileText[:strings.IndexByte(hostileText, 0xff)]) || string(e.Exact) == hostileText
		}
		if !found {
			t.Errorf("the target of the link is not among\n%s", &o.stdout)
		}
	})
	t.Run("in files are content, and written as they are", func(t *testing.T) {
		if got := m.must(t, "cat", "web:"+filepath.Join(src, name, name)); got != hostileText {
			t.Errorf("cat writes %q", got)
		}
	})
	t.Run("of a store are shown as what they are", func(t *testing.T) {
		said := strings.NewReplacer("\x1b", "", "\a", "").Replace(strings.ToValidUTF8(hostileText, "")) // which XML cannot hold
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>Strange\u202eCode</Code><Message>%s</Message></Error>", said)
		}))
		t.Cleanup(server.Close)
		x := *m
		x.repo, x.state = "s3://bucket/p?region=us-east-1&endpoint="+server.URL, t.TempDir()
		x.env = []string{"AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=bbbbbbbb"}
		o := x.run(t, "list")
		harmless(t, o)
		if o.code == exit.Done || !strings.Contains(o.stderr.String(), `\u202e`) {
			t.Errorf("%d, %s", o.code, &o.stderr)
		}
	})
}
