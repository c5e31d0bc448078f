package main

import (
	"io"
	"slices"
	"strings"
	"testing"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/session"

	"github.com/spf13/cobra"
)

// allCommands are the program's commands, hidden ones too, without those that
// the library adds.
func allCommands() (out []*cobra.Command) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		out = append(out, c)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(session.New(console.New(io.Discard, io.Discard), version)))
	return out
}

func TestHelp(t *testing.T) {
	t.Parallel()
	t.Run("each help has examples that can be typed", testEachHelpHasExamplesThatCanBeTyped)
	t.Run("each help fits a terminal", testEachHelpFitsATerminal)
	t.Run("the rules of keeping are listed from the shortest period", testTheRulesOfKeepingAreListedFromTheShortestPeriod)
}

func testEachHelpHasExamplesThatCanBeTyped(t *testing.T) {
	t.Parallel()
	all := allCommands()
	if len(all) < 25 {
		t.Errorf("only %d commands were found", len(all))
	}
	for _, c := range all {
		var calls [][]string
		for line := range strings.Lines(c.Example + "\n" + c.Long) {
			if indented := strings.TrimSpace(line); indented != strings.TrimRight(line, "\n") {
				calls = append(calls, callsOf(strings.Split(indented, "   ")[0])...)
			}
		}
		if len(calls) == 0 {
			t.Errorf("%s --help has no example", c.CommandPath())
		}
		for _, words := range calls {
			if err := validCall(words); err != nil {
				t.Errorf("%s --help: knowngood %s: %v", c.CommandPath(), strings.Join(words, " "), err)
			}
		}
	}
}

func testEachHelpFitsATerminal(t *testing.T) {
	t.Parallel()
	for _, c := range allCommands() {
		for line := range strings.Lines(c.Long + "\n" + c.Example) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > 92 {
				t.Errorf("%s --help: a line of %d columns: %s", c.CommandPath(), n, line)
			}
		}
	}
}

func testTheRulesOfKeepingAreListedFromTheShortestPeriod(t *testing.T) {
	t.Parallel()
	want := []string{"--keep-last", "--keep-hourly", "--keep-daily", "--keep-weekly", "--keep-monthly", "--keep-yearly", "--keep-known-good", "--keep-within"}
	found := 0
	for _, c := range allCommands() {
		var got []string
		for _, word := range strings.Fields(c.LocalFlags().FlagUsages()) {
			if strings.HasPrefix(word, "--keep-") {
				got = append(got, word)
			}
		}
		if len(got) == 0 {
			continue
		}
		found++
		if !slices.Equal(got, want) {
			t.Errorf("%s --help lists %v", c.CommandPath(), got)
		}
	}
	if found != 2 {
		t.Errorf("%d commands have such rules, want forget and prune", found)
	}
}
