package notify

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"knowngood/daemon/report"
)

// Kind of a message.
type Kind string

// Kinds. Recovery follows failure, suspect and degraded, RPOMet follows RPO.
// Incomplete is about snapshots that lack what could not be read, Suspect about
// those of which a source collapsed, Unproven about environments of which no drill
// proved a snapshot recently.
const (
	Failure    Kind = "failure"
	Recovery   Kind = "recovery"
	Incomplete Kind = "incomplete"
	Suspect    Kind = "suspect"
	RPO        Kind = "rpo"
	RPOMet     Kind = "rpo-met"
	Damage     Kind = "damage"
	Degraded   Kind = "degraded"
	// Of drills: a snapshot failed one; one could not run; a restore takes longer than
	// was promised. Recovery follows each.
	DrillFailed Kind = "drill-failed"
	DrillNotRun Kind = "drill-not-run"
	RTO         Kind = "rto"
	Unproven    Kind = "unproven"
	// Drift: something is not as the known-good state has it, or could not be compared.
	Drift Kind = "drift"
	Test  Kind = "test"
)

// Message is the JSON that webhooks and commands get, and the data of templates.
// Nothing in it is secret.
type Message struct {
	Kind        Kind      `json:"kind"`
	Host        string    `json:"host"`
	Environment string    `json:"environment,omitempty"` // empty: the daemon as a whole
	Repository  string    `json:"repository"`            // URL, credentials left out
	Version     string    `json:"version"`
	Time        time.Time `json:"time"`
	Title       string    `json:"title"` // one line
	Text        string    `json:"text"`  // complete, for people
	// Since is when the condition began.
	Since time.Time `json:"since,omitzero"`
	// Repeated is how often it was sent before.
	Repeated int         `json:"repeated,omitempty"`
	Run      *report.Run `json:"run,omitempty"`
	Failures int         `json:"failures,omitempty"` // in a row
	// AgeSeconds of the newest good snapshot, -1 when there is none, and what
	// is promised; of RPO and RPOMet.
	AgeSeconds float64 `json:"age_seconds,omitempty"`
	RPOSeconds float64 `json:"rpo_seconds,omitempty"`
	Tampering  bool    `json:"tampering,omitempty"`
	// LeftOut is how many messages before had no room.
	LeftOut int `json:"left_out,omitempty"`
}

func testMessage(host string) Message {
	return Message{
		Kind: Test, Environment: "test", Title: host + ": test of the notifications",
		Text: host + ": this is a test of knowngood's notifications. Nothing has happened.",
		Run:  &report.Run{Trigger: "hand", Result: report.Success},
	}
}

// after is the message after others that had no room.
func (m Message) after(leftOut int) *Message {
	if m.LeftOut = leftOut; leftOut > 0 {
		m.Text += fmt.Sprintf(" (Messages left out before this one: %d.)", leftOut)
	}
	return &m
}

// body is the message as a mail or a page of text.
func (m *Message) body() string {
	var b strings.Builder
	b.WriteString(m.Text + "\n")
	fmt.Fprintf(&b, "\nHost:       %s\n", m.Host)
	if m.Environment != "" && m.Kind != Test {
		fmt.Fprintf(&b, "Look:       knowngood status; knowngood list %s\n", m.Environment)
	}
	fmt.Fprintf(&b, "Repository: %s\nVersion:    %s\n", m.Repository, m.Version)
	return b.String()
}

// cutMark ends a text that was shortened.
const cutMark = "… (truncated)"

// shortTexts are the lengths, in bytes, to which a text is shortened for a channel
// that refuses a longer one. The first fits most services: Discord takes 2,000
// characters, Telegram and ntfy 4,096. The last fits everything.
var shortTexts = [...]int{1500, 200}

// shortened is the message with texts of at most limit bytes; nil when no text of it
// is longer.
func (m Message) shortened(limit int) *Message {
	long := len(m.Text) > limit
	m.Text = cut(m.Text, limit)
	if m.Run != nil {
		run := *m.Run
		long = long || len(run.Error) > limit
		run.Error = cut(run.Error, limit)
		reasons, room := []string{}, limit
		for _, reason := range run.Suspect {
			if room -= len(reason); room < 0 {
				reasons, long = append(reasons, cutMark), true
				break
			}
			reasons = append(reasons, reason)
		}
		if len(reasons) > 0 {
			run.Suspect = reasons
		}
		m.Run = &run
	}
	if !long {
		return nil
	}
	return &m
}

// cut shortens a text to at most n bytes, and marks that.
func cut(text string, n int) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= n {
		return text
	}
	n -= len(cutMark)
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + cutMark
}
