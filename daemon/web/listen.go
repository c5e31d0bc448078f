package web

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"knowngood/internal/userdir"
)

// maxConnections bounds what requests can use up of a daemon that has work to do.
const maxConnections = 64

// split returns the network and address of a listen setting: unix:///path, or a
// loopback address with a port, tcp:// before it or not.
func split(addr string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(addr, "unix://"); ok && filepath.IsAbs(path) {
		return "unix", path, nil
	}
	address = strings.TrimPrefix(addr, "tcp://")
	host, _, err := net.SplitHostPort(address)
	ip, ipErr := netip.ParseAddr(host)
	if err != nil || host != "localhost" && (ipErr != nil || !ip.IsLoopback()) {
		return "", "", fmt.Errorf("listen: %q is neither unix:///path nor a loopback address such as 127.0.0.1:9321", addr)
	}
	return "tcp", address, nil
}

// Listen opens the address where a daemon answers. A socket gets mode 0660:
// those of its group may ask. One that a dead daemon left is taken over, one at
// which a daemon answers is not. Closing the listener removes the socket.
func Listen(addr string) (net.Listener, error) {
	network, address, err := split(addr)
	if err != nil {
		return nil, err
	}
	if network == "unix" {
		l, err := listenAt(address)
		if err != nil {
			return nil, fmt.Errorf("listen at %s: %w", addr, err)
		}
		return netutil.LimitListener(l, maxConnections), nil
	}
	l, err := net.Listen(network, address)
	if err != nil {
		hint := ""
		if errors.Is(err, unix.EADDRINUSE) {
			hint = ": another program has it, perhaps another daemon; choose another listen in the configuration"
		}
		return nil, fmt.Errorf("listen at %s: %w%s", addr, err, hint)
	}
	return netutil.LimitListener(l, maxConnections), nil
}

// listenAt makes a socket, with the rights of the owner of its directory, which
// it makes when needed: that user may replace the socket by a link at any moment.
func listenAt(path string) (l net.Listener, err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	err = userdir.OwnerOf(info).Do(func() error {
		if err := makeRoom(path); err != nil {
			return err
		}
		if l, err = net.Listen("unix", path); err != nil {
			return err
		}
		// Until here none but the owner may connect, because that takes the right to write.
		if err := os.Chmod(path, 0o660); err != nil {
			l.Close()
			return err
		}
		return nil
	})
	return l, err
}

// makeRoom removes a socket at which nobody answers.
func makeRoom(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is something else than a socket; remove it, or choose another listen in the configuration")
	}
	c, err := net.DialTimeout("unix", path, 2*time.Second)
	if err == nil {
		c.Close()
		return errors.New("a daemon runs already and answers there; stop it first, or choose another listen in the configuration")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("whether a daemon answers there is not known: %w", err)
	}
	return os.Remove(path)
}

// Serve answers requests until ctx ends, lets those under way finish for some
// seconds, and closes l. The error is why it stopped before ctx ended.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if s.Shutdown(grace) != nil {
			s.Close()
		}
	})
	err := s.Serve(l)
	if stop() { // ctx has not ended
		s.Close()
		return fmt.Errorf("answering at %s: %w", l.Addr(), err)
	}
	<-stopped
	return nil
}
