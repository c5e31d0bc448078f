package jobfiles

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"knowngood/daemon/report"
	"knowngood/internal/userdir"
)

// keptRuns is how many past runs of a job are remembered; the file holds at
// most twice as many.
const keptRuns = 500

// History is the past runs of a job, a line of JSON each. It is for people: a
// line that cannot be read or written is only one line less.
type History struct {
	dir   userdir.Dir
	name  string
	Runs  []report.Run // oldest first
	lines int          // in the file
	// failed is why the newest run is not in the file; "" when it is.
	Failed string
}

// OpenHistory reads what there is.
func OpenHistory(dir userdir.Dir, name string) (*History, error) {
	h := &History{dir: dir, name: name}
	b, err := dir.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return h, fmt.Errorf("past runs: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		h.lines++
		var r report.Run
		if json.Unmarshal(lines.Bytes(), &r) == nil {
			h.keep(r)
		}
	}
	return h, nil
}

func (h *History) keep(r report.Run) {
	h.Runs = append(h.Runs, r)
	if extra := len(h.Runs) - keptRuns; extra > 0 {
		h.Runs = slices.Delete(h.Runs, 0, extra)
	}
}

// Add remembers a run. An error means that the file does not have it.
func (h *History) Add(r report.Run) error {
	h.keep(r)
	if h.lines >= 2*keptRuns {
		return h.rewrite()
	}
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := h.dir.OpenFile(h.name, os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	if err != nil {
		return fmt.Errorf("past runs: %w", err)
	}
	// The line end comes first where a crash or a full disk cut the last line.
	if st, serr := f.Stat(); serr == nil && st.Size() > 0 {
		line = append([]byte{'\n'}, line...)
	}
	_, err = f.Write(line)
	h.lines++
	return errors.Join(err, f.Close())
}

func (h *History) rewrite() error {
	var b []byte
	for i, r := range h.Runs {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if i > 0 {
			b = append(b, '\n')
		}
		b = append(b, line...)
	}
	if err := h.dir.Replace(h.name, b); err != nil {
		return err
	}
	h.lines = len(h.Runs)
	return nil
}

// Path of the file.
func (h *History) Path() string { return h.dir.Path(h.name) }
