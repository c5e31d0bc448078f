package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/template"
	"time"

	"knowngood/configs"
	"knowngood/internal/printable"
)

// client posts. It keeps no connections, follows no redirects, and puts no address
// into its errors.
type client struct {
	transport *http.Transport
	agent     string
	timeout   time.Duration
}

func newClient(version string) *client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableKeepAlives = true // days may pass
	return &client{transport: t, agent: "knowngood/" + version, timeout: 30 * time.Second}
}

// address is where something is posted.
type address struct {
	url     *url.URL
	headers map[string]string
	hide    hider
}

func newAddress(text string, headers map[string]string) (*address, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("not an http URL") // which may hold secrets
	}
	secrets := []string{text, u.Path, u.EscapedPath(), u.RawQuery}
	if u.User != nil {
		password, _ := u.User.Password()
		secrets = append(secrets, password, u.User.String())
	}
	for _, parts := range [][]string{strings.Split(u.EscapedPath(), "/"), strings.Split(u.Path, "/")} {
		secrets = append(secrets, parts...)
	}
	for _, values := range u.Query() {
		secrets = append(secrets, values...)
	}
	for _, value := range headers {
		secrets = append(secrets, value)
	}
	return &address{u, headers, newHider(secrets...)}, nil
}

// host is the part of the address that is not secret.
func (a *address) host() string { return a.url.Scheme + "://" + a.url.Host }

// post posts a body and demands success. It uses the transport itself: an
// http.Client would follow redirects, to others perhaps, and put the address
// into its errors.
func (c *client) post(ctx context.Context, a *address, suffix, kind string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	u := *a.url
	u.User, u.Fragment = nil, ""
	if suffix != "" {
		u = *u.JoinPath(suffix)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return permanentError{fmt.Errorf("%s: %s", a.host(), a.hide.text(err.Error()))}
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("User-Agent", c.agent)
	if a.url.User != nil {
		password, _ := a.url.User.Password()
		req.SetBasicAuth(a.url.User.Username(), password)
	}
	for name, value := range a.headers {
		req.Header.Set(name, value)
		if strings.EqualFold(name, "Host") {
			req.Host = value
		}
	}
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		if ctx.Err() == context.DeadlineExceeded {
			return fmt.Errorf("%s: no answer within %v", a.host(), c.timeout)
		}
		return fmt.Errorf("%s: %s", a.host(), a.hide.text(err.Error()))
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
	return answer(a, resp, said)
}

// answer is the error of an answer; a permanentError when another attempt cannot
// help.
func answer(a *address, resp *http.Response, said []byte) error {
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code >= 300 && code < 400:
		to := "elsewhere"
		if u, err := resp.Location(); err == nil {
			to = u.Scheme + "://" + u.Host
		}
		return permanentError{fmt.Errorf("%s: %d: it redirects to %s, which is not followed: put the new address into the configuration", a.host(), code, to)}
	default:
		err := fmt.Errorf("%s: %d %s", a.host(), code, http.StatusText(code))
		if text := a.hide.text(strings.Join(strings.Fields(cut(string(said), 200)), " ")); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		if code >= 500 || code == http.StatusRequestTimeout || code == http.StatusTooEarly || code == http.StatusTooManyRequests {
			return err
		}
		if code == http.StatusBadRequest || code == http.StatusRequestEntityTooLarge || code == http.StatusUnprocessableEntity {
			err = refusedError{err}
		}
		return permanentError{err}
	}
}

// refusedError is about what was posted, not about who posted it.
type refusedError struct{ error }

// webhook posts messages.
type webhook struct {
	*address
	client *client
	make   *template.Template // nil: the message as JSON
}

func newWebhook(cfg configs.Webhook, c *client) (*webhook, error) {
	a, err := newAddress(cfg.URL, cfg.Headers)
	if err != nil {
		return nil, err
	}
	w := &webhook{address: a, client: c}
	if cfg.Template != "" {
		if w.make, err = configs.BodyTemplate(cfg.Template); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *webhook) name() string { return "webhook " + w.host() }

func (w *webhook) target() string { return "webhook " + w.url.String() }

// body is what is posted, and its type.
func (w *webhook) body(m *Message) (kind string, body []byte, err error) {
	if w.make == nil {
		if body, err = json.Marshal(m); err != nil {
			return "", nil, err
		}
		return "application/json", printable.JSON(body), nil
	}
	var b bytes.Buffer
	if err := w.make.Execute(&b, m); err != nil {
		return "", nil, err
	}
	if json.Valid(b.Bytes()) {
		return "application/json", printable.JSON(b.Bytes()), nil
	}
	return "text/plain; charset=utf-8", []byte(printable.Text(b.String())), nil
}

// send posts the message. Services refuse what is too long for them with several
// codes, and few name the reason: a long message that is refused is posted again,
// shorter and shorter.
func (w *webhook) send(ctx context.Context, m *Message) error {
	err := w.post(ctx, m)
	for _, limit := range shortTexts {
		if short := m.shortened(limit); short != nil && errors.As(err, new(refusedError)) {
			err = w.post(ctx, short)
		}
	}
	return err
}

func (w *webhook) post(ctx context.Context, m *Message) error {
	kind, body, err := w.body(m)
	if err != nil {
		return permanentError{err}
	}
	return w.client.post(ctx, w.address, "", kind, body)
}
