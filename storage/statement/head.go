package statement

import (
	"bytes"

	"knowngood/internal/wire"
	"knowngood/storage/layout"
)

// Head names a root of an environment.
type Head struct {
	Environment string
	Number      uint64 // from 1
	Hash        [32]byte
}

// MaxHeads is how many heads a certificate or a root names at most. It keeps a
// statement below its size limit, even where an attacker with a host's key makes
// many environments.
const MaxHeads = 1024

// appendHeads encodes heads, which are sorted by environment; none is nil.
func appendHeads(heads []Head) []byte {
	if len(heads) == 0 {
		return nil
	}
	b := wire.AppendUvarint(nil, uint64(len(heads)))
	for _, h := range heads {
		b = wire.AppendBytes(b, h.Environment)
		b = wire.AppendUvarint(b, h.Number)
		b = append(b, h.Hash[:]...)
	}
	return b
}

// parseHeads takes a list of heads.
func parseHeads(r *wire.Fields, tag uint64) []Head {
	v := r.Bytes(tag)
	if v == nil {
		return nil
	}
	d := wire.NewDecoder(v)
	n := d.Count(1 + 1 + 1 + 32)
	if n == 0 {
		d.Fail("an empty list")
	}
	if n > MaxHeads {
		d.Fail("%d heads", n)
		n = 0
	}
	heads := make([]Head, n)
	var last []byte
	for i := range heads {
		env := d.Bytes()
		heads[i] = Head{Environment: string(env), Number: d.Uvarint()}
		d.Copy(heads[i].Hash[:])
		if err := layout.ValidName(heads[i].Environment); err != nil {
			d.Fail("%v", err)
		}
		if heads[i].Number == 0 || heads[i].Number > layout.MaxNumber {
			d.Fail("root number %d", heads[i].Number)
		}
		if i > 0 && bytes.Compare(last, env) >= 0 {
			d.Fail("environments out of order")
		}
		if d.Err() != nil {
			break
		}
		last = env
	}
	if err := d.Finish(); err != nil {
		r.Fail(tag, "%v", err)
		return nil
	}
	return heads
}
