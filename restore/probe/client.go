package probe

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"knowngood/configs"
	"knowngood/storage/attest"
)

// Client is the deciding end of a cell. It is used by one goroutine. What the
// cell sends is bounded, and trusted no further than the programs that it runs.
type Client struct {
	in    io.WriteCloser
	out   io.ReadCloser
	lines *bufio.Scanner // of out
	next  uint64
}

// grace is how much longer than its timeout an answer may take, for the way.
const grace = 5 * time.Second

// NewClient speaks with a cell over its two pipes, which it closes when an answer takes
// too long. The restored tree is a directory of the cell's.
func NewClient(in io.WriteCloser, out io.ReadCloser, tree string) (*Client, error) {
	c := &Client{in: in, out: out, lines: bufio.NewScanner(out)}
	c.lines.Buffer(nil, maxLine)
	return c, json.NewEncoder(in).Encode(hello{tree})
}

// Start starts a service.
func (c *Client) Start(ctx context.Context, s *configs.Service) (Answer, error) {
	return c.ask(ctx, request{Service: s}, time.Duration(s.Timeout))
}

// Runs asks whether a service that was started still runs, or ended with success.
func (c *Client) Runs(ctx context.Context, s *configs.Service) (Answer, error) {
	return c.ask(ctx, request{Service: s, Again: true}, time.Duration(s.Timeout))
}

// Probe runs a probe on a snapshot that was begun at a time. The value of a
// canary stays here: the cell gets its hash.
func (c *Client) Probe(ctx context.Context, p *configs.Probe, begun time.Time) (Answer, error) {
	if p.Canary != nil {
		hidden, err := hideValue(p.Canary)
		if err != nil {
			return notTested("its value cannot be read", err.Error()), nil
		}
		copied := *p
		copied.Canary = hidden
		p = &copied
	}
	return c.ask(ctx, request{Probe: p, Begun: begun}, time.Duration(p.Timeout))
}

// ask sends a request and waits for its answer. An error means that the cell can
// be asked nothing more.
func (c *Client) ask(ctx context.Context, r request, timeout time.Duration) (Answer, error) {
	c.next++
	r.ID = c.next
	ctx, cancel := context.WithTimeoutCause(ctx, timeout+grace, fmt.Errorf("the cell gave no answer within %v", timeout))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		_ = c.in.Close()
		_ = c.out.Close()
	})()
	var got reply
	err := json.NewEncoder(c.in).Encode(r)
	if err == nil && !c.lines.Scan() {
		err = cmp.Or(c.lines.Err(), io.EOF)
	}
	if err == nil {
		err = json.Unmarshal(c.lines.Bytes(), &got)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return Answer{}, context.Cause(ctx)
	case err != nil:
		return Answer{}, fmt.Errorf("the cell ended: %w", err)
	}
	return c.checked(got)
}

// checked takes an answer that is well-formed.
func (c *Client) checked(r reply) (Answer, error) {
	a := bounded(r.Answer)
	switch {
	case r.ID != c.next:
		return Answer{}, errors.New("the cell answers another question")
	case a.Status == attest.Passed, a.Status == attest.Failed:
		a.Cause = ""
		return a, nil
	case a.Status != attest.NotTested:
		return Answer{}, errors.New("the cell gives no valid answer")
	}
	switch a.Cause {
	case NoProgram, NoUser, NoRun, NoRoom, NoExtension:
	default:
		a.Cause = NoRun // never words of the cell
	}
	return a, nil
}
