package notify

import (
	"encoding/json"
	"io"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"knowngood/configs"
)

func TestHostileTexts(t *testing.T) {
	const hostile = "a\x1b[2J\u202eb\u009bc\u200b\xff"
	m := &Message{Kind: Failure, Host: "h", Title: hostile, Text: hostile + "\nsecond line", Time: time.Unix(1, 0)}
	safe := func(what, text, want string) {
		t.Helper()
		if !strings.Contains(text, want) || strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && r != '\r' && r != '\t' && !unicode.IsGraphic(r) }) {
			t.Errorf("%s is %q", what, text)
		}
	}
	const shown = `a\x1b[2J\u202eb\u009bc\u200b`

	t.Run("by mail", func(t *testing.T) {
		_, _, text, err := (&email{cfg: configs.Email{From: "a@example.org", To: []string{"b@example.org"}}}).compose(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := mail.ReadMessage(strings.NewReader(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		subject, err := new(mime.WordDecoder).DecodeHeader(got.Header.Get("Subject"))
		if err != nil {
			t.Fatal(err)
		}
		safe("the subject", subject, shown)
		body, err := io.ReadAll(quotedprintable.NewReader(got.Body))
		if err != nil {
			t.Fatal(err)
		}
		safe("the mail", string(body), shown)
	})
	t.Run("to a webhook", func(t *testing.T) {
		plain, err := configs.BodyTemplate("{{.Text}}")
		if err != nil {
			t.Fatal(err)
		}
		_, body, err := (&webhook{make: plain}).body(m)
		if err != nil {
			t.Fatal(err)
		}
		safe("the text", string(body), shown)

		_, body, err = (&webhook{}).body(m)
		var got Message
		if err != nil || json.Unmarshal(body, &got) != nil || got.Title != strings.ToValidUTF8(hostile, "\ufffd") {
			t.Errorf("%s is read as %q, %v", body, got.Title, err)
		}
		safe("the JSON", string(body), `a\u001b[2J\u202eb\u009bc\u200b`)
	})
	t.Run("to a program", func(t *testing.T) {
		env := variables(m)
		if !slices.Contains(env, "KNOWNGOOD_TEXT=a\ufffd[2J\ufffdb\ufffdc\ufffd\ufffd\nsecond line") {
			t.Errorf("its variables are %q", env)
		}
	})
}
