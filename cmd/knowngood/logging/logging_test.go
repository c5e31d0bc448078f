package logging

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"

	"knowngood/cmd/knowngood/console"
)

func TestJournal(t *testing.T) {
	info, err := os.Stderr.Stat()
	if err != nil {
		t.Fatal(err)
	}
	at := info.Sys().(*syscall.Stat_t)
	journal, other := fmt.Sprintf("%d:%d", at.Dev, at.Ino), fmt.Sprintf("%d:%d", at.Dev, at.Ino+1)

	for name, c := range map[string]struct {
		stream string // of the service manager
		to     io.Writer
		want   bool
	}{
		"is written to by way of the console":                    {journal, console.New(os.Stdout, os.Stderr).Stderr, true},
		"is written to by standard error itself":                 {journal, os.Stderr, true},
		"is left out where standard error goes elsewhere":        {other, console.New(os.Stdout, os.Stderr).Stderr, false},
		"is left out where there is none":                        {"", console.New(os.Stdout, os.Stderr).Stderr, false},
		"is left out where messages do not go to standard error": {journal, console.New(os.Stdout, &bytes.Buffer{}).Stderr, false},
		"is left out where they go to another file":              {journal, console.New(os.Stdout, os.Stdin).Stderr, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("JOURNAL_STREAM", c.stream)
			if got := toJournal(c.to); got != c.want {
				t.Errorf("toJournal is %v", got)
			}
		})
	}
}
