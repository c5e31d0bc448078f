package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"knowngood/internal/command"
	"knowngood/internal/printable"
)

// program gets messages as JSON on its standard input, and the words of it as
// variables.
type program struct {
	argv []string
	log  *zap.Logger
}

func (p *program) name() string { return "command " + p.argv[0] }

func (p *program) target() string { return "command " + strings.Join(p.argv, "\x00") }

func (p *program) send(ctx context.Context, m *Message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return permanentError{err}
	}
	c := command.Command{
		Argv: p.argv, Env: variables(m), Timeout: time.Minute, Stdin: bytes.NewReader(append(body, '\n')),
		Line: func(stream, line string) {
			p.log.Debug("output of the notify command", zap.String("stream", stream), zap.String("line", line))
		},
	}
	return c.Run(ctx)
}

// variables are what a program of few lines needs of a message.
func variables(m *Message) []string {
	vars := []string{}
	add := func(name, value string) {
		vars = append(vars, fmt.Sprintf("KNOWNGOOD_%s=%s", name, printable.Variable(value)))
	}
	add("KIND", string(m.Kind))
	add("HOST", m.Host)
	add("ENVIRONMENT", m.Environment)
	add("REPOSITORY", m.Repository)
	add("TIME", m.Time.Format(time.RFC3339))
	add("TITLE", m.Title)
	add("TEXT", m.Text)
	add("FAILURES", strconv.Itoa(m.Failures))
	add("LEFT_OUT", strconv.Itoa(m.LeftOut))
	if m.Run != nil {
		add("RESULT", string(m.Run.Result))
		add("SNAPSHOT", m.Run.Snapshot)
	}
	return vars
}
