// Package layout is the table of the keys under which the objects of a repository
// lie (docs/FORMAT.md section 3): Key makes the key of an object, Prefix that of a
// listing, Parse reads a key back.
//
// It is pure. What a Parse function accepts, its Key function writes again byte for
// byte.
package layout

import (
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"knowngood/storage/seal"
)

// MaxNumber is the highest that a root, a serial or a generation may have, so
// that neither the one after it nor the end of a range overflows.
const MaxNumber = math.MaxUint64 - 2

// KeyDescriptor is where the descriptor lies.
const KeyDescriptor = "descriptor"

// Prefixes of listings; each ends in a slash.
const (
	PrefixEpochs       = "epochs/"
	PrefixKeys         = "keys/"
	PrefixOwnerSecrets = "keys/owner/"
	PrefixHosts        = "hosts/"
	PrefixProbes       = "probe/" // where Init probes the store
	// PrefixAllCertificates lists the certificates of all hosts: one request
	// lists every host there is.
	PrefixAllCertificates = "certs/"
	// PrefixAttestKeys lists the certificates of all attest keys.
	PrefixAttestKeys = "attest/"
)

// Inverted is 2^64-1-n in hexadecimal, so that higher numbers come first.
func Inverted(n uint64) string { return fmt.Sprintf("%016x", math.MaxUint64-n) }

// PrefixEpochSecrets lists the age files of an epoch.
func PrefixEpochSecrets(epoch seal.EpochID) string { return "keys/" + epoch.String() + "/" }

// PrefixHost lists all of a host.
func PrefixHost(host string) string { return PrefixHosts + host + "/" }

// PrefixCertificates lists the certificates of a host, newest first.
func PrefixCertificates(host string) string { return PrefixAllCertificates + host + "/" }

// PrefixPackDomains lists, folded, the domains in which a host has packs.
func PrefixPackDomains(host string) string { return PrefixHost(host) + "packs/" }

// PrefixManifestDomains lists, folded, the domains in which a host has
// manifests.
func PrefixManifestDomains(host string) string { return PrefixHost(host) + "manifests/" }

// PrefixPacks lists the packs of a domain.
func PrefixPacks(host string, domain seal.DomainID) string {
	return PrefixPackDomains(host) + domain.String() + "/"
}

// PrefixManifests lists the manifest containers of a domain.
func PrefixManifests(host string, domain seal.DomainID) string {
	return PrefixManifestDomains(host) + domain.String() + "/"
}

// PrefixIndexRuns lists the index runs of a domain, highest generation first.
func PrefixIndexRuns(host string, domain seal.DomainID) string {
	return PrefixHost(host) + "index/" + domain.String() + "/"
}

// PrefixEnvironments lists, folded, the environments of a host.
func PrefixEnvironments(host string) string { return PrefixHost(host) + "roots/" }

// PrefixRoots lists the roots of an environment, newest first.
func PrefixRoots(host, environment string) string {
	return PrefixEnvironments(host) + environment + "/"
}

// PrefixTombstones lists the tombstones of an environment, newest first.
func PrefixTombstones(host, environment string) string {
	return PrefixHost(host) + "tombstones/" + environment + "/"
}

// PrefixAcceptances lists the acceptances of an environment, newest first.
func PrefixAcceptances(host, environment string) string {
	return PrefixHost(host) + "acceptances/" + environment + "/"
}

// PrefixCatalogues lists the catalogues of an environment, newest first.
func PrefixCatalogues(host, environment string) string {
	return PrefixHost(host) + "catalogues/" + environment + "/"
}

// PrefixDeletions lists the pending deletions of a domain, newest first.
func PrefixDeletions(host string, domain seal.DomainID) string {
	return PrefixHost(host) + "pending/" + domain.String() + "/"
}

// PrefixDamageReports lists the damage reports of a domain, in no order.
func PrefixDamageReports(host string, domain seal.DomainID) string {
	return PrefixHost(host) + "damage/" + domain.String() + "/"
}

// PrefixHostProbes lists what shows the time of the store.
func PrefixHostProbes(host string) string { return PrefixHost(host) + "probe/" }

// PrefixReserve lists what is deleted first when the store is full.
func PrefixReserve(host string) string { return PrefixHostProbes(host) + "reserve-" }

// KeyEpoch is where an epoch of the whole repository lies.
func KeyEpoch(number uint64) string { return PrefixEpochs + Inverted(number) }

// KeyEpochSecret is where an epoch's secret lies, wrapped for one recipient.
func KeyEpochSecret(epoch seal.EpochID, fingerprint string) string {
	return PrefixEpochSecrets(epoch) + fingerprint
}

// KeyOwnerSecret is where the owner's secret lies, wrapped for one recipient.
func KeyOwnerSecret(fingerprint string) string { return PrefixOwnerSecrets + fingerprint }

// KeyCertificate is where a host certificate lies.
func KeyCertificate(host string, serial uint64) string {
	return PrefixCertificates(host) + Inverted(serial)
}

// KeyPack is where a pack lies.
func KeyPack(host string, domain seal.DomainID, hash [32]byte) string {
	return PrefixPacks(host, domain) + hex.EncodeToString(hash[:])
}

// KeyManifest is where a manifest container lies.
func KeyManifest(host string, domain seal.DomainID, hash [32]byte) string {
	return PrefixManifests(host, domain) + hex.EncodeToString(hash[:])
}

// KeyIndexRun is where an index run lies.
func KeyIndexRun(host string, domain seal.DomainID, generation uint64, hash [32]byte) string {
	return PrefixIndexRuns(host, domain) + Inverted(generation) + "-" + hex.EncodeToString(hash[:])
}

// KeyRoot is where a root lies.
func KeyRoot(host, environment string, number uint64) string {
	return PrefixRoots(host, environment) + Inverted(number)
}

// KeyTombstone is where a tombstone lies.
func KeyTombstone(host, environment string, serial uint64) string {
	return PrefixTombstones(host, environment) + Inverted(serial)
}

// KeyAcceptance is where an acceptance lies.
func KeyAcceptance(host, environment string, serial uint64) string {
	return PrefixAcceptances(host, environment) + Inverted(serial)
}

// KeyCatalogue is where the catalogue lies that ends with a root.
func KeyCatalogue(host, environment string, last uint64) string {
	return PrefixCatalogues(host, environment) + Inverted(last)
}

// KeyDeletion is where a pending deletion lies.
func KeyDeletion(host string, domain seal.DomainID, serial uint64) string {
	return PrefixDeletions(host, domain) + Inverted(serial)
}

// KeyDamageReport is where a damage report lies, by the SHA-256 of its bytes.
func KeyDamageReport(host string, domain seal.DomainID, hash [32]byte) string {
	return PrefixDamageReports(host, domain) + hex.EncodeToString(hash[:])
}

// ParseEpochKey reads what KeyEpoch wrote.
func ParseEpochKey(key string) (number uint64, ok bool) {
	s, ok := strings.CutPrefix(key, PrefixEpochs)
	if !ok {
		return 0, false
	}
	return parseInverted(s)
}

// ParseEpochSecretKey reads what KeyEpochSecret wrote.
func ParseEpochSecretKey(key string) (epoch seal.EpochID, fingerprint string, ok bool) {
	p := strings.Split(key, "/")
	ok = len(p) == 3 && p[0] == "keys" && parseHex(epoch[:], p[1]) && validFingerprint(p[2])
	if !ok {
		return seal.EpochID{}, "", false
	}
	return epoch, p[2], true
}

// ParseHostPrefix reads the host out of a folded listing of PrefixHosts.
func ParseHostPrefix(folded string) (host string, ok bool) {
	s, ok := strings.CutPrefix(folded, PrefixHosts)
	s, slash := strings.CutSuffix(s, "/")
	if !ok || !slash || ValidName(s) != nil {
		return "", false
	}
	return s, true
}

// ParseEnvironmentPrefix reads host and environment out of a folded listing of
// PrefixEnvironments.
func ParseEnvironmentPrefix(folded string) (host, environment string, ok bool) {
	host, rest, ok := splitHostKey(folded, "roots", 2)
	if !ok || ValidName(rest[0]) != nil || rest[1] != "" {
		return "", "", false
	}
	return host, rest[0], true
}

// ParsePackDomainPrefix reads host and domain out of a folded listing of
// PrefixPackDomains.
func ParsePackDomainPrefix(folded string) (host string, domain seal.DomainID, ok bool) {
	return parseDomainPrefix(folded, "packs")
}

// ParseManifestDomainPrefix reads host and domain out of a folded listing of
// PrefixManifestDomains.
func ParseManifestDomainPrefix(folded string) (host string, domain seal.DomainID, ok bool) {
	return parseDomainPrefix(folded, "manifests")
}

func parseDomainPrefix(folded, folder string) (host string, domain seal.DomainID, ok bool) {
	host, rest, ok := splitHostKey(folded, folder, 2)
	if !ok || !parseHex(domain[:], rest[0]) || rest[1] != "" {
		return "", seal.DomainID{}, false
	}
	return host, domain, true
}

// ParseCertificateKey reads what KeyCertificate wrote.
func ParseCertificateKey(key string) (host string, serial uint64, ok bool) {
	p := strings.Split(key, "/")
	if ok = len(p) == 3 && p[0]+"/" == PrefixAllCertificates && ValidName(p[1]) == nil; ok {
		serial, ok = parseInverted(p[2])
	}
	if !ok {
		return "", 0, false
	}
	return p[1], serial, true
}

// ParsePackKey reads what KeyPack wrote.
func ParsePackKey(key string) (host string, domain seal.DomainID, hash [32]byte, ok bool) {
	return parseHashKey(key, "packs")
}

// ParseManifestKey reads what KeyManifest wrote.
func ParseManifestKey(key string) (host string, domain seal.DomainID, hash [32]byte, ok bool) {
	return parseHashKey(key, "manifests")
}

// ParseIndexRunKey reads what KeyIndexRun wrote.
func ParseIndexRunKey(key string) (host string, domain seal.DomainID, generation uint64, hash [32]byte, ok bool) {
	host, rest, ok := splitHostKey(key, "index", 2)
	if ok {
		inverted, sum, dash := strings.Cut(rest[1], "-")
		var number bool
		generation, number = parseInverted(inverted)
		ok = dash && number && parseHex(domain[:], rest[0]) && parseHex(hash[:], sum)
	}
	if !ok {
		return "", seal.DomainID{}, 0, [32]byte{}, false
	}
	return host, domain, generation, hash, true
}

// ParseRootKey reads what KeyRoot wrote.
func ParseRootKey(key string) (host, environment string, number uint64, ok bool) {
	return parseNumberKey(key, "roots")
}

// ParseTombstoneKey reads what KeyTombstone wrote.
func ParseTombstoneKey(key string) (host, environment string, serial uint64, ok bool) {
	return parseNumberKey(key, "tombstones")
}

// ParseAcceptanceKey reads what KeyAcceptance wrote.
func ParseAcceptanceKey(key string) (host, environment string, serial uint64, ok bool) {
	return parseNumberKey(key, "acceptances")
}

// ParseCatalogueKey reads what KeyCatalogue wrote.
func ParseCatalogueKey(key string) (host, environment string, last uint64, ok bool) {
	return parseNumberKey(key, "catalogues")
}

func parseNumberKey(key, folder string) (host, environment string, number uint64, ok bool) {
	host, rest, ok := splitHostKey(key, folder, 2)
	if ok {
		number, ok = parseInverted(rest[1])
	}
	if !ok || ValidName(rest[0]) != nil {
		return "", "", 0, false
	}
	return host, rest[0], number, true
}

// ParseDeletionKey reads what KeyDeletion wrote.
func ParseDeletionKey(key string) (host string, domain seal.DomainID, serial uint64, ok bool) {
	host, rest, ok := splitHostKey(key, "pending", 2)
	if ok {
		serial, ok = parseInverted(rest[1])
	}
	if !ok || !parseHex(domain[:], rest[0]) {
		return "", seal.DomainID{}, 0, false
	}
	return host, domain, serial, true
}

// ParseDamageReportKey reads what KeyDamageReport wrote.
func ParseDamageReportKey(key string) (host string, domain seal.DomainID, hash [32]byte, ok bool) {
	return parseHashKey(key, "damage")
}

func parseHashKey(key, folder string) (host string, domain seal.DomainID, hash [32]byte, ok bool) {
	host, rest, ok := splitHostKey(key, folder, 2)
	if !ok || !parseHex(domain[:], rest[0]) || !parseHex(hash[:], rest[1]) {
		return "", seal.DomainID{}, [32]byte{}, false
	}
	return host, domain, hash, true
}

// splitHostKey splits hosts/<host>/<folder>/ and n further parts.
func splitHostKey(key, folder string, n int) (host string, rest []string, ok bool) {
	p := strings.Split(key, "/")
	if len(p) != 3+n || p[0]+"/" != PrefixHosts || ValidName(p[1]) != nil || p[2] != folder {
		return "", nil, false
	}
	return p[1], p[3:], true
}

// parseInverted reads what Inverted wrote, of numbers from 1 to MaxNumber.
func parseInverted(s string) (uint64, bool) {
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil || len(s) != 16 || s != strings.ToLower(s) || v < math.MaxUint64-MaxNumber || v == math.MaxUint64 {
		return 0, false
	}
	return math.MaxUint64 - v, true
}

func parseHex(dst []byte, s string) bool {
	if len(s) != 2*len(dst) || s != strings.ToLower(s) {
		return false
	}
	_, err := hex.Decode(dst, []byte(s))
	return err == nil
}

func validFingerprint(s string) bool { return parseHex(make([]byte, 16), s) }

// HostOf reads the host out of any key below PrefixHosts that this version writes,
// or that is reserved.
func HostOf(key string) (host string, ok bool) {
	if host, _, _, ok = ParsePackKey(key); ok {
		return host, true
	}
	if host, _, _, ok = ParseManifestKey(key); ok {
		return host, true
	}
	if host, _, _, _, ok = ParseIndexRunKey(key); ok {
		return host, true
	}
	for _, parse := range []func(string) (string, string, uint64, bool){ParseRootKey, ParseTombstoneKey, ParseAcceptanceKey, ParseCatalogueKey, ParseHostMarkKey} {
		if host, _, _, ok = parse(key); ok {
			return host, true
		}
	}
	if host, _, _, ok = ParseDeletionKey(key); ok {
		return host, true
	}
	if host, _, _, ok = ParseDamageReportKey(key); ok {
		return host, true
	}
	if host, _, ok = splitHostKey(key, "probe", 1); ok {
		return host, true
	}
	p := strings.SplitN(key, "/", 4)
	if len(p) < 4 || p[0]+"/" != PrefixHosts || ValidName(p[1]) != nil || !slices.Contains(reserved, p[2]) {
		return "", false
	}
	return p[1], true
}

// reserved are folders of hosts for what later versions will store.
var reserved = []string{"receipts", "attestations", "audit", "parity", "attest", "marks"}
