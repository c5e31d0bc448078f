// Package outside lets a daemon that has neither root's rights nor a way to
// them run a few commands with both: those that the configuration, which is
// root's, names for that.
//
// systemd starts a server of root's for each connection to a socket that only
// the daemon can open (knowngood-outside.socket). It takes a command, looks
// whether it is allowed, runs it, and sends its output and exit status over the
// connection. A connection that closes ends the command, with all of its
// process group.
//
// A client may be an attacker, so the command gets nothing that a client made: its
// output goes into pipes of the server, no descriptor is taken over the socket, and
// of the environment only the Variables, a line each.
package outside

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"knowngood/internal/printable"
)

// Socket is where the server listens.
const Socket = "/run/knowngood-outside.sock"

// Variables are the names of the variables that are passed on to a command.
var Variables = []string{
	"KNOWNGOOD_BYTES", "KNOWNGOOD_ENVIRONMENT", "KNOWNGOOD_ERROR", "KNOWNGOOD_FILES", "KNOWNGOOD_HOOK", "KNOWNGOOD_HOST", "KNOWNGOOD_NEW_BYTES", "KNOWNGOOD_PROBLEMS",
	"KNOWNGOOD_REPOSITORY", "KNOWNGOOD_RESULT", "KNOWNGOOD_SNAPSHOT", "KNOWNGOOD_STARTED", "KNOWNGOOD_STORED_BYTES", "KNOWNGOOD_TRIGGER",
}

// maxRequest is the longest request, in bytes.
const maxRequest = 1 << 20

// request is sent as a line of JSON.
type request struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env"`
}

// answer is the last thing that the server sends, as JSON.
type answer struct {
	Status int    `json:"status"` // as a shell has it: 128 and more for signals
	Error  string `json:"error,omitempty"`
}

// What the server sends comes in parts: a byte for its kind, the length
// as a u32, little-endian, and so many bytes.
const (
	partStdout = 1
	partStderr = 2
	partAnswer = 3

	partHead = 5
	maxPart  = 64 << 10
)

// variables of an environment that are passed on, without control characters.
func variables(env []string) []string {
	var passed []string
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		if !slices.Contains(Variables, name) {
			continue
		}
		passed = append(passed, name+"="+printable.Columns(strings.ReplaceAll(value, "\n", " ")))
	}
	return passed
}

// Run has the server at socket run a command, passes its output on, and returns
// its exit status. When ctx is done, or its output cannot be written, it asks for
// the command to be ended, and waits for that.
func Run(ctx context.Context, socket string, argv, env []string, stdout, stderr io.Writer) (int, error) {
	unit, what := strings.TrimSuffix(filepath.Base(socket), ".sock"), "outside: true"
	if socket != Socket {
		what = unit
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return 0, fmt.Errorf("%s: %w (systemctl start %s.socket)", what, err, unit)
	}
	defer c.Close()
	conn := c.(*net.UnixConn)

	text, err := json.Marshal(request{argv, variables(env)})
	if err != nil {
		return 0, err
	}
	if len(text) >= maxRequest {
		return 0, fmt.Errorf("outside: true: a command and variables of %d bytes are too long", len(text))
	}
	_, unsent := conn.Write(append(text, '\n'))
	defer context.AfterFunc(ctx, func() { conn.CloseWrite() })()

	a, err := follow(conn, stdout, stderr)
	if err != nil {
		// A server that has refused hangs up before it has heard all.
		if unsent != nil {
			err = unsent
		}
		return 0, fmt.Errorf("%s: no answer: %w (journalctl -u '%s@*')", what, err, unit)
	}
	if a.Error != "" {
		return 0, errors.New(what + ": " + a.Error)
	}
	return a.Status, nil
}

// follow passes the output of the command on until the answer comes.
func follow(conn *net.UnixConn, stdout, stderr io.Writer) (a answer, err error) {
	r := bufio.NewReader(conn)
	var lost error
	for {
		var head [partHead]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return a, err
		}
		n := binary.LittleEndian.Uint32(head[1:])
		if n > maxPart {
			return a, fmt.Errorf("a part of %d bytes came", n)
		}
		part := make([]byte, n)
		if _, err := io.ReadFull(r, part); err != nil {
			return a, err
		}

		to := stdout
		switch head[0] {
		case partAnswer:
			if err := json.Unmarshal(part, &a); err != nil {
				return a, err
			}
			if a.Error == "" && lost != nil {
				a.Error = "the output of the command: " + lost.Error()
			}
			return a, nil
		case partStdout:
		case partStderr:
			to = stderr
		default:
			return a, fmt.Errorf("a part of kind %d came", head[0])
		}
		if lost == nil {
			if _, lost = to.Write(part); lost != nil {
				_ = conn.CloseWrite()
			}
		}
	}
}
