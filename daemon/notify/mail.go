package notify

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"os"
	"slices"
	"strings"
	"time"

	"knowngood/configs"
	"knowngood/internal/printable"
)

// email sends messages by SMTP, over TLS unless the configuration turns it off.
type email struct {
	cfg     configs.Email
	host    string         // ours
	roots   *x509.CertPool // nil: the system's
	timeout time.Duration  // 0: one minute
}

func (e *email) name() string { return "email " + e.cfg.Server }

func (e *email) target() string { return "email " + e.cfg.Server + " " + strings.Join(e.cfg.To, " ") }

func (e *email) send(ctx context.Context, m *Message) error {
	password, err := e.password()
	if err != nil {
		return err
	}
	limit := cmp.Or(e.timeout, time.Minute)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = e.deliver(ctx, password, m)
	if err == nil {
		return nil
	}
	if ctx.Err() == context.DeadlineExceeded {
		return fmt.Errorf("mail server %s: not done within %v", e.cfg.Server, limit)
	}
	hide := newHider(password, base64.StdEncoding.EncodeToString([]byte(password)), base64.StdEncoding.EncodeToString([]byte("\x00"+e.cfg.User+"\x00"+password)))
	said := fmt.Errorf("mail server %s: %s", e.cfg.Server, hide.text(err.Error()))
	var reply *textproto.Error
	if errors.As(err, &reply) && reply.Code >= 500 || errors.As(err, new(permanentError)) {
		return permanentError{said}
	}
	return said
}

// password is read for each mail: a credential may be replaced.
func (e *email) password() (string, error) {
	if e.cfg.PasswordFile == "" {
		return e.cfg.Password, nil
	}
	b, err := os.ReadFile(e.cfg.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("the password of the mail server: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// security is how the connection is protected: as configured, or as the port
// requires.
func (e *email) security(port string) configs.MailTLS {
	switch {
	case e.cfg.TLS != "":
		return e.cfg.TLS
	case port == "465":
		return "tls"
	}
	return "starttls"
}

func (e *email) deliver(ctx context.Context, password string, m *Message) error {
	server, port, err := net.SplitHostPort(e.cfg.Server)
	if err != nil {
		return permanentError{err}
	}
	secure := &tls.Config{ServerName: server, RootCAs: e.roots, MinVersion: tls.VersionTLS12}
	plain, err := (&net.Dialer{}).DialContext(ctx, "tcp", e.cfg.Server)
	if err != nil {
		return err
	}
	defer plain.Close()
	defer context.AfterFunc(ctx, func() { plain.Close() })()
	conn, security := plain, e.security(port)
	if security == "tls" {
		conn = tls.Client(plain, secure)
	}
	c, err := smtp.NewClient(conn, server)
	if err != nil {
		return err
	}
	if err := c.Hello(helloName()); err != nil {
		return err
	}
	if security == "starttls" {
		if ok, _ := c.Extension("STARTTLS"); !ok {
			return permanentError{errors.New("it offers no STARTTLS: use port 465 with tls: tls, or tls: none where nobody can listen")}
		}
		if err := c.StartTLS(secure); err != nil {
			return err
		}
	}
	if e.cfg.User != "" {
		if security == "none" {
			return permanentError{errors.New("a password does not go over a connection without TLS")}
		}
		if err := c.Auth(&login{user: e.cfg.User, password: password}); err != nil {
			// Not permanent: the password may be replaced meanwhile.
			return fmt.Errorf("log in as %s: %v", e.cfg.User, err)
		}
	}
	return e.hand(c, m)
}

// hand hands the mail to the server, which has to accept it for somebody.
func (e *email) hand(c *smtp.Client, m *Message) error {
	from, to, text, err := e.compose(m)
	if err != nil {
		return permanentError{err}
	}
	if err := c.Mail(from.Address); err != nil {
		return err
	}
	var refused error
	taken := 0
	for _, a := range to {
		if err := c.Rcpt(a.Address); err != nil {
			refused = fmt.Errorf("it refuses %s: %w", a.Address, err)
			continue
		}
		taken++
	}
	if taken == 0 {
		return refused
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_ = c.Quit()
	if refused != nil { // again would be twice to the others
		return permanentError{refused}
	}
	return nil
}

// compose writes the mail. Texts that are not ASCII are encoded, so that none can
// become a header.
func (e *email) compose(m *Message) (from *mail.Address, to []*mail.Address, text []byte, err error) {
	if from, err = mail.ParseAddress(e.cfg.From); err != nil {
		return nil, nil, nil, fmt.Errorf("notify.email.from: %w", err)
	}
	var names []string
	for _, t := range e.cfg.To {
		a, err := mail.ParseAddress(t)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("notify.email.to: %w", err)
		}
		to, names = append(to, a), append(names, a.String())
	}
	var b bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	header("From", from.String())
	header("To", strings.Join(names, ",\r\n "))
	header("Subject", mime.QEncoding.Encode("utf-8", printable.Line("[knowngood] "+m.Title)))
	header("Date", m.Time.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	header("Message-ID", fmt.Sprintf("<%s@%s>", rand.Text(), helloName()))
	header("Auto-Submitted", "auto-generated")
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	q := quotedprintable.NewWriter(&b)
	if _, err := q.Write([]byte(strings.ReplaceAll(printable.Text(m.body()), "\n", "\r\n"))); err != nil {
		return nil, nil, nil, err
	}
	if err := q.Close(); err != nil {
		return nil, nil, nil, err
	}
	return from, to, b.Bytes(), nil
}

// helloName is the name of this machine, as far as it is fit for a mail server.
func helloName() string {
	h, err := os.Hostname()
	if err != nil || h == "" || strings.ContainsFunc(h, func(r rune) bool { return r <= ' ' || r > '~' || r == '<' || r == '>' || r == '@' }) {
		return "localhost"
	}
	return h
}

// login is the mechanism PLAIN, or LOGIN where the server has but that. The
// connection is known to be secure.
type login struct {
	user, password string
	asked          int
}

func (l *login) Start(server *smtp.ServerInfo) (string, []byte, error) {
	if slices.Contains(server.Auth, "PLAIN") || !slices.Contains(server.Auth, "LOGIN") {
		return "PLAIN", []byte("\x00" + l.user + "\x00" + l.password), nil
	}
	return "LOGIN", nil, nil
}

func (l *login) Next(_ []byte, more bool) ([]byte, error) {
	if !more {
		return nil, nil
	}
	l.asked++
	switch l.asked {
	case 1:
		return []byte(l.user), nil
	case 2:
		return []byte(l.password), nil
	}
	return nil, errors.New("it asks for more than a user and a password")
}
