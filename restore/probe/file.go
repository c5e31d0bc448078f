package probe

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/configs"
)

func file(ctx context.Context, e *env, p *configs.Probe) Answer {
	f := p.File
	wanted := f.Exists == nil || *f.Exists
	st, err := e.root.stat(f.Path)
	missing := errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
	switch {
	case missing && !wanted:
		return passed("it does not exist")
	case err != nil:
		return failed(fmt.Sprintf("%v", err))
	case !wanted:
		return failed("it exists")
	case f.NotEmpty && st.IsDir():
		if err := e.root.hasEntry(f.Path); err != nil {
			return failed(err.Error())
		}
	case f.NotEmpty && st.Size() == 0:
		return failed("it is empty")
	}
	if f.NewerThan != 0 {
		if least := e.begun.Add(-time.Duration(f.NewerThan)); st.ModTime().Before(least) {
			return failed(fmt.Sprintf("it was changed last at %s, longer than %v before the snapshot", st.ModTime().UTC().Format(time.RFC3339), f.NewerThan))
		}
	}
	if f.NotEmpty && !st.Mode().IsRegular() && !st.IsDir() {
		return failed("it is no file")
	}
	if f.SHA256 == "" && st.IsDir() {
		return passed("a directory")
	}
	if f.SHA256 == "" {
		return passed(fmt.Sprintf("%d bytes", st.Size()))
	}
	sum, err := e.sum(ctx, f.Path)
	switch {
	case err != nil:
		return failed(err.Error())
	case hex.EncodeToString(sum) != f.SHA256:
		return failed(fmt.Sprintf("its SHA-256 is %x", sum))
	}
	return passed("its SHA-256 is as configured")
}

// canary compares a file with a known value, of which the cell has only the hash.
func canary(ctx context.Context, e *env, p *configs.Probe) Answer {
	sum, err := e.sum(ctx, p.Canary.Path)
	want, _ := hex.DecodeString(p.Canary.SHA256)
	switch {
	case err != nil:
		return failed(err.Error())
	case !bytes.Equal(sum, want):
		return failed("it is not the known value")
	}
	return passed("it is the known value, byte for byte")
}

// hideValue replaces the value of a canary with its hash.
func hideValue(c *configs.CanaryProbe) (*configs.CanaryProbe, error) {
	if c.ValueFile == "" {
		return c, nil
	}
	f, err := os.Open(c.ValueFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err == nil && n == 0 { // so would be a canary that was lost with it
		err = fmt.Errorf("%s is empty", c.ValueFile)
	}
	if err != nil {
		return nil, err
	}
	return &configs.CanaryProbe{Path: c.Path, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// sum is the SHA-256 of a file.
func (e *env) sum(ctx context.Context, path string) ([]byte, error) {
	f, err := e.root.open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		n, err := f.Read(buf)
		h.Write(buf[:n])
		switch {
		case err == io.EOF:
			return h.Sum(nil), nil
		case err != nil:
			return nil, err
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
	}
}
