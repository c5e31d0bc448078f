// Package child makes the captures of a daemon, each in a process of its own, which
// ends with it: no secret of a run outlives that, and what kills a run leaves the
// daemon.
//
// The two talk over a pair of sockets, in JSON. The parent sends the job, with what
// it saw in the store, and then the limits that it grants, of which all processes
// together have one. The child sends progress, findings and at last what it made,
// with what it saw. When the parent closes its side, or dies, the child ends its run
// as one that is interrupted.
//
// It trusts both: they are one program of one user.
package child

import (
	"encoding/json"
	"net"
	"sync"
	"time"

	"knowngood/daemon/runner"
	"knowngood/storage/authentic"
	"knowngood/storage/replay"
)

// Job is what a child is to do.
type Job struct {
	Attempt *runner.Attempt
	Program json.RawMessage // how the program opens the repository
	Replies *replay.Replies
	Limited [2]bool // which of upload and download take grants
}

// message is all that is sent; it has one of its fields.
type message struct {
	Job    *Job     `json:",omitempty"` // first
	Memory int64    `json:",omitempty"` // the limit of the child from now on, in bytes
	Bytes  *portion `json:",omitempty"` // the child asks to move some; the parent lets it

	Progress *progress `json:",omitempty"`
	Warning  string    `json:",omitempty"`
	Note     string    `json:",omitempty"`
	Finding  *finding  `json:",omitempty"`
	End      *end      `json:",omitempty"` // last
}

// portion is so many bytes of one direction: 0 up, 1 down. The ID is that of the
// question.
type portion struct{ ID, Direction, N int }

// progress are the counters of snapshot.Progress, as fields names them.
type progress [8]uint64

// finding is an authentic.Finding.
type finding struct {
	Kind                       authentic.Kind
	Key, Expected, Found, Text string
	Since                      time.Time
}

// end is how the attempt ended.
type end struct {
	Made      *runner.Made
	Error     string
	Transient bool
	Replies   *replay.Replies
}

// wire sends messages. It may be used concurrently.
type wire struct {
	mu   sync.Mutex
	json *json.Encoder
}

func newWire(conn net.Conn) *wire { return &wire{json: json.NewEncoder(conn)} }

// send sends a message. Whether the other side is there the reading shows.
func (w *wire) send(m message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.json.Encode(m)
}
