package probe

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"knowngood/configs"
)

func web(ctx context.Context, _ *env, p *configs.Probe) Answer { return get(ctx, p.HTTP) }

func port(ctx context.Context, _ *env, p *configs.Probe) Answer { return dial(ctx, p.TCP) }

func dial(ctx context.Context, address string) Answer {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return failed(err.Error())
	}
	c.Close()
	return passed("it takes connections")
}

// maxBody is how much of a reply is searched, in bytes.
const maxBody = 4 << 20

func get(ctx context.Context, p *configs.HTTPProbe) Answer {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return failed(err.Error())
	}
	// The reply itself counts, not one that it points to.
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return failed(err.Error())
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	a := passed(fmt.Sprintf("status %d", resp.StatusCode))
	switch {
	case resp.StatusCode != int(p.Status):
		a = failed(fmt.Sprintf("status %d, not %d", resp.StatusCode, p.Status))
	case err != nil:
		a = failed(err.Error())
	case !strings.Contains(string(body), p.Contains):
		a = failed(fmt.Sprintf("the reply lacks %q", p.Contains))
	}
	a.Output = string(body[:min(len(body), maxOutput)])
	return a
}
