// Package outside lets a daemon that has neither root's rights nor a way to
// them run a few commands with both: those that the configuration, which is
// root's, names for that.
//
// systemd starts a server of root's for each connection to a socket that only
// the daemon can open (knowngood-outside.socket). It takes a command, looks
// whether it is allowed, runs it with the standard output and error that came
// over the socket, and answers with its exit status. A connection that closes
// ends the command, with all of its process group. Of the environment nothing
// is taken but variables named KNOWNGOOD_*.
package outside

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Socket is where the server listens.
const Socket = "/run/knowngood-outside.sock"

// maxRequest is the longest request, in bytes.
const maxRequest = 1 << 20

// request is sent as a line of JSON, with the two descriptors.
type request struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env"`
}

// answer is a line of JSON.
type answer struct {
	Status int    `json:"status"` // as a shell has it: 128 and more for signals
	Error  string `json:"error,omitempty"`
}

// variables of an environment that are passed on.
func variables(env []string) []string {
	var passed []string
	for _, v := range env {
		if strings.HasPrefix(v, "KNOWNGOOD_") {
			passed = append(passed, v)
		}
	}
	return passed
}

// Run has the server at socket run a command, and returns its exit status. When
// ctx is done it asks for the command to be ended, and waits for that.
func Run(ctx context.Context, socket string, argv, env []string, stdout, stderr *os.File) (int, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return 0, fmt.Errorf("outside: true: %w (systemctl start knowngood-outside.socket)", err)
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
	text = append(text, '\n')
	n, _, unsent := conn.WriteMsgUnix(text, unix.UnixRights(int(stdout.Fd()), int(stderr.Fd())), nil)
	if unsent == nil && n < len(text) {
		_, unsent = conn.Write(text[n:])
	}
	defer context.AfterFunc(ctx, func() { conn.CloseWrite() })()
	var a answer
	// A server that has refused hangs up before it has heard all.
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		if unsent != nil {
			err = unsent
		}
		return 0, fmt.Errorf("outside: true: no answer: %w (journalctl -u 'knowngood-outside@*')", err)
	}
	if a.Error != "" {
		return 0, errors.New("outside: true: " + a.Error)
	}
	return a.Status, nil
}

// receive reads a request and the descriptors that come with it; what follows
// on the connection is left.
func receive(conn *net.UnixConn) (r request, stdout, stderr *os.File, err error) {
	buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(2*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return r, nil, nil, err
	}
	files, err := descriptors(oob[:oobn])
	if err != nil {
		return r, nil, nil, err
	}
	if len(files) != 2 {
		closeAll(files)
		return r, nil, nil, fmt.Errorf("%d descriptors came, not 2", len(files))
	}
	line, err := bufio.NewReader(io.LimitReader(io.MultiReader(bytes.NewReader(buf[:n]), conn), maxRequest)).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err == nil && (len(r.Argv) == 0 || r.Argv[0] == "") {
		err = errors.New("no program is named")
	}
	if err != nil {
		closeAll(files)
		return r, nil, nil, fmt.Errorf("a request that is none: %w", err)
	}
	return r, files[0], files[1], nil
}

func descriptors(oob []byte) (files []*os.File, err error) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			closeAll(files)
			return nil, err
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
