package probe

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"knowngood/configs"
)

// maxLine is the longest line of the protocol in either direction, in bytes.
const maxLine = 1 << 20

// Serve answers the requests on in until it ends, one after the other; it is what
// runs in a cell.
func Serve(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	var h hello
	if !lines.Scan() {
		return lines.Err()
	}
	if err := json.Unmarshal(lines.Bytes(), &h); err != nil {
		return err
	}
	root, err := openRoot(h.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	enc, services := json.NewEncoder(out), map[string]*running{}
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return err
		}
		if err := enc.Encode(reply{r.ID, bounded(answer(&env{root, r.Begun, services}, &r))}); err != nil {
			return err
		}
	}
	return lines.Err()
}

// answer does what is asked for. Whatever content makes a probe panic is a
// failure of that probe.
func answer(e *env, r *request) (a Answer) {
	defer func() {
		if p := recover(); p != nil {
			a = failed(fmt.Sprintf("the probe broke off: %v", p))
		}
	}()
	if r.Again {
		s := e.services[r.Service.Name]
		a = s.state()
		a.Output = s.out.String()
		return a
	}
	if r.Service != nil {
		ctx, cancel := within(time.Duration(r.Service.Timeout))
		defer cancel()
		return start(ctx, e, r.Service)
	}
	kind := KindOf(r.Probe)
	if kind.run == nil {
		return notTested(NoRun, "")
	}
	ctx, cancel := within(time.Duration(r.Probe.Timeout))
	defer cancel()
	return kind.run(ctx, e, r.Probe)
}

func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.Background(), d, errors.New("it took too long"))
}

// bounded keeps an answer short, and text.
func bounded(a Answer) Answer {
	a.Detail, a.Output = valid(a.Detail, maxDetail), valid(a.Output, maxOutput)
	return a
}

func valid(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s)) // what is no text becomes U+FFFD
}

// Live asks the machine itself, outside of any cell, as the user that runs this; paths are
// those of the machine. Kinds that look into a restored tree are not tested: a postgres
// probe would take the files of a server that runs for those of one that does not.
func Live(ctx context.Context, p *configs.Probe) (a Answer) {
	root, err := openRoot("/")
	if err != nil {
		return failed(err.Error())
	}
	defer root.Close()
	if len(configs.LiveProbes([]configs.Probe{*p})) == 0 {
		return notTested("a probe of kind "+p.Kind()+" looks into restored trees", "")
	}
	kind := KindOf(p)
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p.Timeout))
	defer cancel()
	return bounded(kind.run(ctx, &env{root, time.Now(), nil}, p))
}
