package probe

import (
	"bufio"
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
	in      io.Writer
	replies chan reply
	gone    chan struct{} // closed when nothing more comes
	err     error         // why; set before gone is closed
	next    uint64
}

// grace is how much longer than its timeout an answer may take, for the way.
const grace = 5 * time.Second

// NewClient speaks with a cell over its two pipes. The restored tree is a directory
// of the cell's.
func NewClient(in io.Writer, out io.Reader, tree string) (*Client, error) {
	c := &Client{in: in, replies: make(chan reply, 1), gone: make(chan struct{})}
	if err := json.NewEncoder(in).Encode(hello{tree}); err != nil {
		return nil, err
	}
	go c.read(out)
	return c, nil
}

func (c *Client) read(out io.Reader) {
	defer close(c.gone)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var r reply
		if c.err = json.Unmarshal(lines.Bytes(), &r); c.err != nil {
			return
		}
		select {
		case c.replies <- r:
		default:
			c.err = errors.New("it answers what was not asked")
			return
		}
	}
	c.err = lines.Err()
	if c.err == nil {
		c.err = io.EOF
	}
}

// Start starts a service.
func (c *Client) Start(ctx context.Context, s *configs.Service) (Answer, error) {
	return c.ask(ctx, request{Service: s}, time.Duration(s.Timeout))
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
	sent := make(chan error, 1)
	go func() { sent <- json.NewEncoder(c.in).Encode(r) }()
	for {
		select {
		case err := <-sent:
			if err != nil {
				return Answer{}, err
			}
		case got := <-c.replies:
			return c.checked(got)
		case <-c.gone:
			select {
			case got := <-c.replies:
				return c.checked(got)
			default:
				return Answer{}, fmt.Errorf("the cell ended: %w", c.err)
			}
		case <-ctx.Done():
			return Answer{}, context.Cause(ctx)
		}
	}
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
	case NoProgram, NoUser, NoRun:
	default:
		a.Cause = NoRun // never words of the cell
	}
	return a, nil
}
