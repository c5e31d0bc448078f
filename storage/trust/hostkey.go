package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"

	"knowngood/internal/wire"
	"knowngood/storage/localstate"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// hostKeyFile has the secrets of a host. None of them opens what it captured.
const hostKeyFile = "host.key"

// hostKeyHead starts the file and carries its version.
const hostKeyHead = "knowngood host key, version 1. Secret: it signs this host's snapshots.\n"

// hostKey is the content of the file: the head, a record, and the SHA-256 of
// both.
type hostKey struct {
	repo        seal.RepositoryID
	name        string
	key         ed25519.PrivateKey
	domain      *seal.Domain
	certificate []byte // nil while the host waits for a grant
	machine     [32]byte
	pin         [32]byte // of the descriptor it was enrolled under
}

// newHostKey generates the keys of a host.
func (h *Hosts) newHostKey(name string) (*hostKey, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	return &hostKey{repo: h.base.ID(), name: name, key: key, domain: seal.NewDomain(), machine: h.base.State.MachineHash(), pin: h.base.Pin()}, nil
}

func (k *hostKey) public() ed25519.PublicKey { return k.key.Public().(ed25519.PublicKey) }

func (k *hostKey) encode() []byte {
	record, _ := wire.Encode(k.fields) // which refuses nothing
	b := append([]byte(hostKeyHead), record...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func parseHostKey(b []byte) (*hostKey, error) {
	body, ok := bytes.CutPrefix(b, []byte(hostKeyHead))
	if !ok {
		if bytes.HasPrefix(b, []byte("knowngood host key, version ")) {
			return nil, wire.ErrVersion
		}
		return nil, errors.New("not a host key")
	}
	n := len(body) - sha256.Size
	if n < 0 || sha256.Sum256(b[:len(hostKeyHead)+n]) != [32]byte(body[n:]) {
		return nil, errors.New("its checksum is wrong")
	}
	k := &hostKey{}
	if err := wire.Decode(body[:n], k.fields); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *hostKey) fields(c *wire.Codec) {
	var seed, domain [32]byte
	if !c.Reads() {
		seed, domain = [32]byte(k.key.Seed()), k.domain.Bytes()
	}
	c.Fixed(2, k.repo[:])
	c.Text(4, &k.name)
	c.Fixed(6, seed[:])
	c.Fixed(8, domain[:])
	c.Bytes(10, &k.certificate)
	c.Fixed(12, k.machine[:])
	c.Fixed(14, k.pin[:])
	if c.Reads() {
		k.key, k.domain = ed25519.NewKeyFromSeed(seed[:]), seal.DomainFromBytes(domain)
	}
}

// hostKey reads this machine's host key; nil when it has none. A key that
// came from another machine is ErrCloned.
func (h *Hosts) hostKey() (*hostKey, error) {
	b, err := h.base.State.Read(hostKeyFile)
	if b == nil || err != nil {
		return nil, err
	}
	k, err := parseHostKey(b)
	if err != nil {
		return nil, fmt.Errorf("host key %s/%s is damaged: %w; enrol again with `knowngood init --join --reenrol`", h.base.State.Dir(), hostKeyFile, err)
	}
	if k.repo != h.base.ID() {
		return nil, fmt.Errorf("host key %s/%s is of repository %v: move it to the folder of that repository", h.base.State.Dir(), hostKeyFile, k.repo)
	}
	if k.pin != h.base.Pin() {
		return nil, pinMismatch("the descriptor"+h.base.where(), "the host key", k.pin, h.base.Pin())
	}
	if now := h.base.State.MachineHash(); k.machine != now && k.machine != [32]byte{} && now != [32]byte{} {
		return nil, fmt.Errorf("%[1]w: the key of host %[2]s in %[3]s was made on another machine. A clone needs a name of its own: remove that folder and run `knowngood init --join --host NEWNAME`; a host that moved for good runs `knowngood init --join --reenrol --host %[2]s`; either with --identity FILE or --request FILE", ErrCloned, k.name, h.base.State.Dir())
	}
	return k, nil
}

// EnrolledAs is the name of the host whose key is in a state directory, for the
// repository that is remembered at a place, as in Options; "" when there is none, or
// none that can be read. It does not access the store: Host checks whether the key
// counts.
func EnrolledAs(stateDir, place string) string {
	state, ok := localstate.AtPlace(stateDir, place)
	if !ok {
		return ""
	}
	key, err := state.Read(hostKeyFile)
	if err != nil {
		return ""
	}
	k, err := parseHostKey(key)
	if err != nil {
		return ""
	}
	return k.name
}

// Host is this machine as a host of the repository: what it signs and
// deduplicates with.
type Host struct {
	Name        string
	Domain      *seal.Domain
	Certificate *statement.Certificate
	key         ed25519.PrivateKey
}

// Format prints only the name, with every verb, so that no secret is printed.
func (h *Host) Format(f fmt.State, _ rune) { fmt.Fprint(f, "host ", h.Name) }

// SigningKey is the host key, for the statements that a host signs.
func (h *Host) SigningKey() ed25519.PrivateKey { return h.key }
