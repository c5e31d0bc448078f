package localstate

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"time"

	"knowngood/storage/statement"
)

// Limits of what is kept of the roots of an environment.
const (
	maxCopies = 12 << 20 // bytes of the file: with more it begins again
	CopiesRun = 512      // roots that are compressed together, at most
)

// RootCopy is a root as it was read.
type RootCopy struct {
	Object []byte
	// Modified is when the store took it, as its listing showed; zero when that is not
	// known.
	Modified time.Time
}

func (s *State) copiesFile(host, env string) string {
	return s.OfStore(filepath.Join("copies", host, env))
}

// RootCopies are the roots of an environment that this machine kept. They prove
// nothing. A file that is damaged is removed, after what can be read of it.
func (s *State) RootCopies(host, env string) (copies []RootCopy, err error) {
	b, err := s.Read(s.copiesFile(host, env))
	for len(b) > 0 {
		run, rest, ok := cutRun(b)
		if !ok {
			return copies, s.Remove(s.copiesFile(host, env))
		}
		copies, b = append(copies, run...), rest
	}
	return copies, err
}

// cutRun decodes the run at the beginning of b.
func cutRun(b []byte) (copies []RootCopy, rest []byte, ok bool) {
	if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
		return nil, nil, false
	}
	end := 4 + binary.BigEndian.Uint32(b)
	records, err := statement.ParseCatalogue(b[4:end])
	for _, r := range records {
		if len(r) < 8 {
			return nil, nil, false
		}
		c := RootCopy{Object: r[8:]}
		if at := binary.BigEndian.Uint64(r); at != 0 {
			c.Modified = time.Unix(0, int64(at))
		}
		copies = append(copies, c)
	}
	return copies, b[end:], err == nil
}

// AppendRun appends roots, compressed together, to what KeepRoots adds.
func AppendRun(b []byte, run []RootCopy) ([]byte, error) {
	if len(run) == 0 {
		return b, nil
	}
	records := make([][]byte, len(run))
	for i, c := range run {
		at := uint64(0)
		if !c.Modified.IsZero() {
			at = uint64(c.Modified.UnixNano())
		}
		records[i] = append(binary.BigEndian.AppendUint64(nil, at), c.Object...)
	}
	object, err := statement.EncodeCatalogue(records)
	if err != nil {
		return b, err
	}
	return append(binary.BigEndian.AppendUint32(b, uint32(len(object))), object...), nil
}

// KeepRoots adds runs of roots to what RootCopies returns.
func (s *State) KeepRoots(host, env string, runs []byte) error {
	if s.None() || len(runs) == 0 {
		return nil
	}
	return s.Locked(func() error {
		return s.folder().append(s.copiesFile(host, env), runs, func(f *os.File, size int64) (int64, error) {
			if size+int64(len(runs)) > maxCopies {
				return 0, f.Truncate(0)
			}
			return size, nil
		})
	})
}
