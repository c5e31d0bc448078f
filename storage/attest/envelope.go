package attest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"knowngood/storage/layout"
)

// MaxObject is the longest attestation that is written or read, in bytes.
const MaxObject = 1 << 20

// payloadType is that of in-toto statements.
const payloadType = "application/vnd.in-toto+json"

// envelope is a DSSE envelope (github.com/secure-systems-lab/dsse) with one signature.
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// preAuthentication are the bytes that a signature in an envelope is over.
func preAuthentication(payload []byte) []byte {
	b := []byte("DSSEv1 " + strconv.Itoa(len(payloadType)) + " " + payloadType + " " + strconv.Itoa(len(payload)) + " ")
	return append(b, payload...)
}

// sign makes the object of a payload.
func sign(payload []byte, id layout.KeyID, key ed25519.PrivateKey) ([]byte, error) {
	object, err := canonical(envelope{payloadType, payload, []signature{{id.String(), ed25519.Sign(key, preAuthentication(payload))}}})
	if err == nil && len(object) > MaxObject {
		err = fmt.Errorf("an attestation of %d bytes is over the limit of %d: keep less of what probes printed", len(object), MaxObject)
	}
	return object, err
}

// openEnvelope reads an object without trusting it.
func openEnvelope(object []byte) (payload []byte, id layout.KeyID, sig []byte, err error) {
	var e envelope
	if len(object) > MaxObject {
		return nil, id, nil, fmt.Errorf("it has %d bytes, the limit is %d", len(object), MaxObject)
	}
	if err := exactly(object, &e); err != nil {
		return nil, id, nil, fmt.Errorf("envelope: %w", err)
	}
	if e.PayloadType != payloadType {
		return nil, id, nil, fmt.Errorf("envelope: a payload of type %q, not %s", e.PayloadType, payloadType)
	}
	if len(e.Signatures) != 1 {
		return nil, id, nil, fmt.Errorf("envelope: %d signatures, not one", len(e.Signatures))
	}
	id, ok := layout.ParseKeyID(e.Signatures[0].KeyID)
	if !ok {
		return nil, id, nil, errors.New("envelope: its key ID is none of an attest key")
	}
	return e.Payload, id, e.Signatures[0].Sig, nil
}

// canonical is the one JSON text of a value that is written and read: compact, with
// the members in the order of the format, and nothing escaped that need not be.
func canonical(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// errForm: a JSON text is not the canonical one.
var errForm = errors.New("not in the form of the format: members that are unknown, repeated or in another order, or other spaces or escapes")

// exactly decodes a JSON text into v, and refuses any but the canonical one. So no
// member can be there twice, be unknown, or mean something else to another reader.
func exactly(text []byte, v any) error {
	if err := json.Unmarshal(text, v); err != nil {
		return err
	}
	again, err := canonical(v)
	if err == nil && !bytes.Equal(again, text) {
		err = errForm
	}
	return err
}
