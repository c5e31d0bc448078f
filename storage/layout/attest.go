package layout

import (
	"encoding/hex"
	"strings"
)

// Folders of attestations and marks. Those of the owner and of attest keys lie at the
// top, where no host may put; a host's own marks lie below its own prefix.
const (
	prefixAttestations = "attestations/"
	prefixMarks        = "marks/"
)

// KeyID names an attest key: the first 8 bytes of the SHA-256 of the public key.
type KeyID [8]byte

func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// ParseKeyID reads what String wrote.
func ParseKeyID(s string) (id KeyID, ok bool) {
	ok = parseHex(id[:], s)
	return id, ok
}

// PrefixAttestKey lists the certificates of an attest key, newest first.
func PrefixAttestKey(id KeyID) string { return PrefixAttestKeys + id.String() + "/" }

// KeyAttestKey is where the certificate of an attest key lies.
func KeyAttestKey(id KeyID, serial uint64) string { return PrefixAttestKey(id) + Inverted(serial) }

// ParseAttestKeyKey reads what KeyAttestKey wrote.
func ParseAttestKeyKey(key string) (id KeyID, serial uint64, ok bool) {
	p := strings.Split(key, "/")
	if ok = len(p) == 3 && p[0]+"/" == PrefixAttestKeys && parseHex(id[:], p[1]); ok {
		serial, ok = parseInverted(p[2])
	}
	if !ok {
		return KeyID{}, 0, false
	}
	return id, serial, true
}

// PrefixAttestations lists the attestations of an environment, those of the newest
// snapshots first.
func PrefixAttestations(host, environment string) string {
	return prefixAttestations + host + "/" + environment + "/"
}

// PrefixAttestationsOf lists the attestations of a snapshot.
func PrefixAttestationsOf(host, environment string, number uint64) string {
	return PrefixAttestations(host, environment) + Inverted(number) + "/"
}

// KeyAttestation is where an attestation lies, by the attest key that signed it and
// the SHA-256 of its bytes.
func KeyAttestation(host, environment string, number uint64, id KeyID, hash [32]byte) string {
	return PrefixAttestationsOf(host, environment, number) + id.String() + "/" + hex.EncodeToString(hash[:])
}

// ParseAttestationKey reads what KeyAttestation wrote.
func ParseAttestationKey(key string) (host, environment string, number uint64, id KeyID, hash [32]byte, ok bool) {
	p := strings.Split(key, "/")
	if ok = len(p) == 6 && p[0]+"/" == prefixAttestations && ValidName(p[1]) == nil && ValidName(p[2]) == nil; ok {
		number, ok = parseInverted(p[3])
	}
	if !ok || !parseHex(id[:], p[4]) || !parseHex(hash[:], p[5]) {
		return "", "", 0, KeyID{}, [32]byte{}, false
	}
	return p[1], p[2], number, id, hash, true
}

// PrefixMarks lists the marks of the owner and of attest keys on snapshots of an
// environment, newest first.
func PrefixMarks(host, environment string) string {
	return prefixMarks + host + "/" + environment + "/"
}

// KeyMark is where a mark lies.
func KeyMark(host, environment string, serial uint64) string {
	return PrefixMarks(host, environment) + Inverted(serial)
}

// ParseMarkKey reads what KeyMark wrote.
func ParseMarkKey(key string) (host, environment string, serial uint64, ok bool) {
	p := strings.Split(key, "/")
	if ok = len(p) == 4 && p[0]+"/" == prefixMarks && ValidName(p[1]) == nil && ValidName(p[2]) == nil; ok {
		serial, ok = parseInverted(p[3])
	}
	if !ok {
		return "", "", 0, false
	}
	return p[1], p[2], serial, true
}

// PrefixHostMarks lists the marks of a host on its own snapshots of an environment,
// newest first.
func PrefixHostMarks(host, environment string) string {
	return PrefixHost(host) + prefixMarks + environment + "/"
}

// KeyHostMark is where a mark of a host lies.
func KeyHostMark(host, environment string, serial uint64) string {
	return PrefixHostMarks(host, environment) + Inverted(serial)
}

// ParseHostMarkKey reads what KeyHostMark wrote.
func ParseHostMarkKey(key string) (host, environment string, serial uint64, ok bool) {
	return parseNumberKey(key, "marks")
}
