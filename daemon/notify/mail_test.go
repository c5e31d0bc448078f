package notify

import (
	"bufio"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"knowngood/configs"
)

func zapString(key, value string) zapcore.Field { return zap.String(key, value) }

// mailServer is an SMTP server as RFC 5321, 3207 and 4954 describe it.
type mailServer struct {
	address  string
	roots    *x509.CertPool
	implicit bool              // TLS from the first byte
	noTLS    bool              // offers no STARTTLS
	auth     string            // mechanisms; empty: none
	replies  map[string]string // instead of its own, by command or "RCPT address"
	hang     string            // command that is never answered

	tls *tls.Config
	mu  sync.Mutex
	got []received
}

// received is a mail, and how it came.
type received struct {
	from     string
	to       []string
	data     string
	secure   bool
	user     string
	password string
}

func newMailServer(t *testing.T, s *mailServer) *mailServer {
	t.Helper()
	s.tls, s.roots = certificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(long))
				if s.implicit {
					conn = tls.Server(conn, s.tls)
				}
				(&session{s: s, conn: conn, r: bufio.NewReader(conn), secure: s.implicit}).serve()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return s
}

// certificate is one for 127.0.0.1, and those who trust it.
func certificate(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, roots
}

// session with one client.
type session struct {
	s      *mailServer
	conn   net.Conn
	r      *bufio.Reader
	secure bool
	mail   received
}

func (c *session) say(format string, args ...any) { fmt.Fprintf(c.conn, format+"\r\n", args...) }

func (c *session) line() (string, bool) {
	line, err := c.r.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err == nil
}

func (c *session) serve() {
	c.say("220 mail.example.com ESMTP")
	for {
		line, ok := c.line()
		if !ok {
			return
		}
		verb, rest, _ := strings.Cut(line, " ")
		verb = strings.ToUpper(verb)
		if c.s.hang == verb {
			_, _ = io.Copy(io.Discard, c.conn) // until the client goes
			return
		}
		if reply := c.s.replies[verb]; reply != "" {
			c.say("%s", reply)
			continue
		}
		switch verb {
		case "EHLO":
			c.say("250-mail.example.com")
			if !c.secure && !c.s.noTLS {
				c.say("250-STARTTLS")
			}
			if c.s.auth != "" && c.secure {
				c.say("250-AUTH %s", c.s.auth)
			}
			c.say("250 8BITMIME")
		case "STARTTLS":
			c.say("220 go on")
			c.conn = tls.Server(c.conn, c.s.tls)
			c.r, c.secure = bufio.NewReader(c.conn), true
		case "AUTH":
			c.login(rest)
		case "MAIL":
			c.mail.from = rest
			c.say("250 ok")
		case "RCPT":
			if reply := c.s.replies["RCPT "+strings.TrimPrefix(rest, "TO:")]; reply != "" {
				c.say("%s", reply)
				continue
			}
			c.mail.to = append(c.mail.to, strings.TrimPrefix(rest, "TO:"))
			c.say("250 ok")
		case "DATA":
			c.say("354 go on")
			c.take()
			c.say("250 taken")
		case "QUIT":
			c.say("221 bye")
			return
		default:
			c.say("502 what?")
		}
	}
}

func (c *session) login(how string) {
	decode := func(text string) string {
		b, _ := base64.StdEncoding.DecodeString(text)
		return string(b)
	}
	mechanism, first, _ := strings.Cut(how, " ")
	switch mechanism {
	case "PLAIN":
		parts := strings.Split(decode(first), "\x00")
		if len(parts) == 3 {
			c.mail.user, c.mail.password = parts[1], parts[2]
		}
	case "LOGIN":
		c.say("334 VXNlcm5hbWU6")
		user, _ := c.line()
		c.say("334 UGFzc3dvcmQ6")
		password, _ := c.line()
		c.mail.user, c.mail.password = decode(user), decode(password)
	}
	if c.mail.password != "hunter2" {
		c.say("535 5.7.8 wrong credentials %s", first)
		return
	}
	c.say("235 welcome")
}

func (c *session) take() {
	var data strings.Builder
	for {
		line, ok := c.line()
		if !ok {
			return
		}
		if line == "." {
			break
		}
		data.WriteString(strings.TrimPrefix(line, ".") + "\r\n")
	}
	c.mail.data, c.mail.secure = data.String(), c.secure
	c.s.mu.Lock()
	c.s.got = append(c.s.got, c.mail)
	c.s.mu.Unlock()
}

// only is the one mail that a server got.
func (s *mailServer) only(t *testing.T) received {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.got) != 1 {
		t.Fatalf("the server got %d mails, want 1", len(s.got))
	}
	return s.got[0]
}

func (s *mailServer) config() configs.Email {
	return configs.Email{From: "Known Good <kg@example.com>", To: []string{"ops@example.com", "Chef <chef@example.com>"}, Server: s.address}
}

// mailBy sends one message by a mail server.
func mailBy(t *testing.T, s *mailServer, cfg configs.Email, m Message) error {
	t.Helper()
	n, _ := notifier(t, configs.Notify{Email: &cfg})
	e := n.channels[0].(*email)
	e.roots = s.roots
	return e.send(t.Context(), n.complete(m))
}

// read takes a mail apart.
func read(t *testing.T, data string) (mail.Header, string) {
	t.Helper()
	m, err := mail.ReadMessage(strings.NewReader(data))
	if err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return m.Header, strings.ReplaceAll(string(body), "\r\n", "\n")
}

func TestMail(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"a mail is well formed":                                aMailIsWellFormed,
		"no text becomes a header":                             noTextBecomesAHeader,
		"mail uses the TLS that is configured":                 mailGoesByTheTLSThatIsConfigured,
		"the port selects the kind of TLS":                     thePortSaysWhichTLS,
		"an untrusted certificate is refused":                  aCertificateThatNobodyTrustsIsRefused,
		"the password is read from its file at each mail":      thePasswordIsReadFromItsFileAtEachMail,
		"the reply of the server decides whether to try again": repliesOfTheServerSayWhetherToTryAgain,
		"a mail server that hangs is given up after a time":    aMailServerThatHangsIsLeftAfterATime,
	} {
		t.Run(name, test)
	}
}

func aMailIsWellFormed(t *testing.T) {
	t.Parallel()
	s := newMailServer(t, &mailServer{})
	m := failure()
	m.Title = "größer als 漢字 " + strings.Repeat("lang ", 20)
	m.Text = "Überlauf\n.\nthe end " + strings.Repeat("x", 2000)
	if err := mailBy(t, s, s.config(), m); err != nil {
		t.Fatal(err)
	}
	got := s.only(t)
	if got.from != "FROM:<kg@example.com> BODY=8BITMIME" || strings.Join(got.to, " ") != "<ops@example.com> <chef@example.com>" || !got.secure {
		t.Errorf("from %s to %s, by TLS: %v", got.from, got.to, got.secure)
	}
	for _, line := range strings.Split(got.data, "\r\n") {
		if len(line) > 998 || strings.ContainsFunc(line, func(r rune) bool { return r > '~' }) {
			t.Errorf("a line that mail servers may refuse: %q", line)
		}
	}
	header, body := read(t, got.data)
	subject, err := new(mime.WordDecoder).DecodeHeader(header.Get("Subject"))
	if want := "[knowngood] " + strings.TrimSpace(m.Title); err != nil || subject != want {
		t.Errorf("subject %q, want %q: %v", subject, want, err)
	}
	if !strings.HasPrefix(body, m.Text+"\n") || !strings.Contains(body, "knowngood list db") || !strings.Contains(body, "s3://backups/prod") {
		t.Errorf("body %q", body)
	}
	if date, err := header.Date(); err != nil || !date.Equal(m.Time) {
		t.Errorf("date %v, want %v: %v", date, m.Time, err)
	}
	if from, err := header.AddressList("From"); err != nil || from[0].Name != "Known Good" {
		t.Errorf("from %v %v", from, err)
	}
	if to, err := header.AddressList("To"); err != nil || len(to) != 2 {
		t.Errorf("to %v %v", to, err)
	}
	if id := header.Get("Message-Id"); !strings.HasPrefix(id, "<") || !strings.Contains(id, "@") || header.Get("Auto-Submitted") != "auto-generated" {
		t.Errorf("headers %v", header)
	}
}

func noTextBecomesAHeader(t *testing.T) {
	t.Parallel()
	s := newMailServer(t, &mailServer{})
	m := failure()
	m.Title, m.Text = "x\r\nBcc: all@example.com\r\n\r\nbody", "\r\n.\r\nMAIL FROM:<evil@example.com>\r\n"
	if err := mailBy(t, s, s.config(), m); err != nil {
		t.Fatal(err)
	}
	header, body := read(t, s.only(t).data)
	if header.Get("Bcc") != "" || !strings.Contains(body, "MAIL FROM:<evil@example.com>") {
		t.Errorf("headers %v, body %q", header, body)
	}
	e := &email{cfg: s.config(), host: "web-7"}
	m.Title = "x\r\nBcc: all@example.com" // as no message has it after complete
	_, _, text, err := e.compose(&m)
	if err != nil {
		t.Fatal(err)
	}
	if header, _ := read(t, string(text)); header.Get("Bcc") != "" {
		t.Errorf("headers %v", header)
	}
}

func mailGoesByTheTLSThatIsConfigured(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		server   *mailServer
		tls      configs.MailTLS
		user     bool
		want     string // in the error; empty: it is sent
		insecure bool
	}{
		{name: "STARTTLS by default"},
		{name: "TLS from the first byte", server: &mailServer{implicit: true}, tls: "tls"},
		{name: "with PLAIN", server: &mailServer{auth: "PLAIN LOGIN"}, user: true},
		{name: "with LOGIN alone", server: &mailServer{auth: "LOGIN XOAUTH2", implicit: true}, tls: "tls", user: true},
		{name: "none, when asked for", tls: "none", insecure: true},
		{name: "no password without TLS", tls: "none", user: true, want: "a password does not go over"},
		{name: "no STARTTLS, no mail", server: &mailServer{noTLS: true}, tls: "starttls", want: "it offers no STARTTLS"},
		{name: "TLS with a server that has none", tls: "tls", want: "first record does not look like a TLS handshake"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newMailServer(t, cmp.Or(test.server, &mailServer{}))
			cfg := s.config()
			cfg.TLS = test.tls
			if test.user {
				cfg.User, cfg.Password = "knowngood", "hunter2"
			}
			err := mailBy(t, s, cfg, failure())
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) || len(s.got) != 0 {
					t.Errorf("%v, want %s; %d mails", err, test.want, len(s.got))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := s.only(t); got.secure == test.insecure || test.user != (got.user == "knowngood" && got.password == "hunter2") {
				t.Errorf("by TLS: %v, as %q", got.secure, got.user)
			}
		})
	}
}

func thePortSaysWhichTLS(t *testing.T) {
	t.Parallel()
	for port, want := range map[string]configs.MailTLS{"465": "tls", "587": "starttls", "25": "starttls"} {
		if got := (&email{}).security(port); got != want {
			t.Errorf("port %s: %s, want %s", port, got, want)
		}
	}
	if got := (&email{cfg: configs.Email{TLS: "starttls"}}).security("465"); got != "starttls" {
		t.Errorf("what is configured gives way to the port: %s", got)
	}
}

func aCertificateThatNobodyTrustsIsRefused(t *testing.T) {
	t.Parallel()
	for _, implicit := range []bool{true, false} {
		s := newMailServer(t, &mailServer{implicit: implicit, auth: "PLAIN"})
		_, s.roots = certificate(t)
		cfg := s.config()
		cfg.User, cfg.Password = "knowngood", "hunter2"
		if implicit {
			cfg.TLS = "tls"
		}
		if err := mailBy(t, s, cfg, failure()); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("implicit %v: %v", implicit, err)
		}
	}
}

func thePasswordIsReadFromItsFileAtEachMail(t *testing.T) {
	t.Parallel()
	s := newMailServer(t, &mailServer{auth: "PLAIN"})
	file := filepath.Join(t.TempDir(), "password")
	cfg := s.config()
	cfg.User, cfg.PasswordFile = "knowngood", file
	n, _ := notifier(t, configs.Notify{Email: &cfg})
	e := n.channels[0].(*email)
	e.roots = s.roots
	send := func() error { return e.send(t.Context(), n.complete(failure())) }
	if err := send(); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("without the file: %v", err)
	}
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("wrong-password\n")
	err := send()
	if err == nil || !strings.Contains(err.Error(), "log in as knowngood: 535") {
		t.Fatalf("with a wrong one: %v", err)
	}
	if _, permanent := err.(permanentError); permanent {
		t.Error("a wrong password is not tried again")
	}
	if encoded := base64.StdEncoding.EncodeToString([]byte("\x00knowngood\x00wrong-password")); strings.Contains(err.Error(), encoded) || !strings.Contains(err.Error(), "(hidden)") {
		t.Errorf("the password that the server repeated is told: %v", err)
	}
	write("hunter2\n")
	if err := send(); err != nil {
		t.Error(err)
	}
	s.only(t)
}

func repliesOfTheServerSayWhetherToTryAgain(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		verb, reply string
		again       bool
		sent        int
	}{
		{"MAIL", "451 try later", true, 0},
		{"MAIL", "550 no", false, 0},
		{"DATA", "452 full", true, 0},
		{"RCPT", "550 who?", false, 0},
		{"RCPT", "450 greylisted", true, 0},
		{"RCPT <chef@example.com>", "550 who?", false, 1},
		{"RCPT <ops@example.com>", "450 greylisted", false, 1}, // the other has it
	} {
		s := newMailServer(t, &mailServer{replies: map[string]string{test.verb: test.reply}})
		err := mailBy(t, s, s.config(), failure())
		if err == nil || !strings.Contains(err.Error(), test.reply[4:]) {
			t.Errorf("%s %s: %v", test.verb, test.reply, err)
			continue
		}
		if _, permanent := err.(permanentError); permanent == test.again || len(s.got) != test.sent {
			t.Errorf("%s %s: try again is %v, %d mails", test.verb, test.reply, !permanent, len(s.got))
		}
	}
}

func aMailServerThatHangsIsLeftAfterATime(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"EHLO", "MAIL", "DATA"} {
		s := newMailServer(t, &mailServer{hang: verb})
		e := &email{cfg: s.config(), roots: s.roots, timeout: 300 * time.Millisecond}
		m := failure()
		if err := e.send(t.Context(), &m); err == nil || !strings.Contains(err.Error(), "not done within 300ms") {
			t.Errorf("%s: %v", verb, err)
		}
	}
}
