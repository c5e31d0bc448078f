package notify

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"knowngood/configs"
)

func TestCommand(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"gets the message on its input and in variables": aCommandGetsTheMessageOnItsInputAndInVariables,
		"that fails is an error with its last output":    aCommandThatFailsIsAnErrorWithItsLastWords,
	} {
		t.Run(name, test)
	}
}

func aCommandGetsTheMessageOnItsInputAndInVariables(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script := `cat >"$1/input"; echo "$KNOWNGOOD_KIND|$KNOWNGOOD_HOST|$KNOWNGOOD_ENVIRONMENT|$KNOWNGOOD_FAILURES|$KNOWNGOOD_RESULT|$KNOWNGOOD_TITLE" >"$1/variables"; echo paged`
	n, logs := notifier(t, configs.Notify{Command: []string{"sh", "-c", script, "sh", dir}})
	m := failure()
	m.Text = "with a \x00 in it; $(touch " + dir + "/injected)"
	if err := n.channels[0].send(t.Context(), n.complete(m)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "input"))
	if err != nil {
		t.Fatal(err)
	}
	var got Message
	if err := json.Unmarshal(b, &got); err != nil || got.Run.Error != "no such database" || got.Host != "web-7" || b[len(b)-1] != '\n' {
		t.Errorf("input %s: %v", b, err)
	}
	vars, err := os.ReadFile(filepath.Join(dir, "variables"))
	if want := "failure|web-7|db|3|failed|web-7/db: snapshot failed\n"; err != nil || string(vars) != want {
		t.Errorf("variables %s, want %s: %v", vars, want, err)
	}
	if logs.FilterField(zapString("line", "paged")).Len() != 1 {
		t.Errorf("its output is not in the log: %v", logs.All())
	}
}

func aCommandThatFailsIsAnErrorWithItsLastWords(t *testing.T) {
	t.Parallel()
	n, _ := notifier(t, configs.Notify{Command: []string{"sh", "-c", "echo no carrier >&2; exit 5"}})
	err := n.channels[0].send(t.Context(), n.complete(failure()))
	if err == nil || !strings.Contains(err.Error(), "sh: exit status 5: no carrier") {
		t.Error(err)
	}
}
