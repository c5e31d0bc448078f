package layout

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"knowngood/storage/seal"
)

func TestKeys(t *testing.T) {
	t.Run("are those of the format", func(t *testing.T) {
		domain, epoch := seal.DomainID{0xd0, 1}, seal.EpochID{0xe0, 2}
		hash := [32]byte{0xab, 31: 0xcd}
		sum := "ab" + strings.Repeat("00", 30) + "cd"
		finger := strings.Repeat("0f", 16)
		for want, got := range map[string]string{
			"descriptor":                                                      KeyDescriptor,
			"epochs/fffffffffffffffe":                                         KeyEpoch(1),
			"keys/e002000000000000/" + finger:                                 KeyEpochSecret(epoch, finger),
			"keys/owner/" + finger:                                            KeyOwnerSecret(finger),
			"certs/web-7/fffffffffffffffd":                                    KeyCertificate("web-7", 2),
			"hosts/web-7/packs/d001000000000000/" + sum:                       KeyPack("web-7", domain, hash),
			"hosts/web-7/manifests/d001000000000000/" + sum:                   KeyManifest("web-7", domain, hash),
			"hosts/web-7/index/d001000000000000/fffffffffffffffa-" + sum:      KeyIndexRun("web-7", domain, 5, hash),
			"hosts/web-7/roots/web/ffffffffffffffd5":                          KeyRoot("web-7", "web", 42),
			"hosts/web-7/tombstones/web/fffffffffffffffc":                     KeyTombstone("web-7", "web", 3),
			"hosts/web-7/acceptances/web/fffffffffffffffd":                    KeyAcceptance("web-7", "web", 2),
			"hosts/web-7/catalogues/web/fffffffffffffffd":                     KeyCatalogue("web-7", "web", 2),
			"hosts/web-7/pending/d001000000000000/fffffffffffffff6":           KeyDeletion("web-7", domain, 9),
			"hosts/web-7/damage/d001000000000000/" + sum:                      KeyDamageReport("web-7", domain, hash),
			"attest/a1b2000000000000/fffffffffffffffe":                        KeyAttestKey(KeyID{0xa1, 0xb2}, 1),
			"attestations/web-7/web/ffffffffffffffd5/a1b2000000000000/" + sum: KeyAttestation("web-7", "web", 42, KeyID{0xa1, 0xb2}, hash),
			"marks/web-7/web/fffffffffffffffd":                                KeyMark("web-7", "web", 2),
			"hosts/web-7/marks/web/fffffffffffffffd":                          KeyHostMark("web-7", "web", 2),
		} {
			if got != want {
				t.Errorf("key %s, want %s", got, want)
			}
		}
	})

	t.Run("read back", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			name := rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,62}`)
			host, env := name.Draw(t, "host"), name.Draw(t, "env")
			n := rapid.Uint64Range(1, MaxNumber).Draw(t, "n")
			var hash [32]byte
			var domain seal.DomainID
			var epoch seal.EpochID
			copy(hash[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "hash"))
			copy(domain[:], hash[3:])
			copy(epoch[:], hash[5:])
			finger := RecipientFingerprint(host)
			check := func(what string, ok bool) {
				if !ok {
					t.Fatalf("%s does not read back", what)
				}
			}
			gn, ok := ParseEpochKey(KeyEpoch(n))
			check("epoch", ok && gn == n)
			ge, gf, ok := ParseEpochSecretKey(KeyEpochSecret(epoch, finger))
			check("epoch secret", ok && ge == epoch && gf == finger)
			gh, gn, ok := ParseCertificateKey(KeyCertificate(host, n))
			check("certificate", ok && gh == host && gn == n)
			gh, gd, gs, ok := ParsePackKey(KeyPack(host, domain, hash))
			check("pack", ok && gh == host && gd == domain && gs == hash)
			gh, gd, gs, ok = ParseManifestKey(KeyManifest(host, domain, hash))
			check("manifest", ok && gh == host && gd == domain && gs == hash)
			gh, gd, gn, gs, ok = ParseIndexRunKey(KeyIndexRun(host, domain, n, hash))
			check("index run", ok && gh == host && gd == domain && gn == n && gs == hash)
			gh, genv, gn, ok := ParseRootKey(KeyRoot(host, env, n))
			check("root", ok && gh == host && genv == env && gn == n)
			gh, genv, gn, ok = ParseTombstoneKey(KeyTombstone(host, env, n))
			check("tombstone", ok && gh == host && genv == env && gn == n)
			gh, genv, gn, ok = ParseAcceptanceKey(KeyAcceptance(host, env, n))
			check("acceptance", ok && gh == host && genv == env && gn == n)
			gh, genv, gn, ok = ParseCatalogueKey(KeyCatalogue(host, env, n))
			check("catalogue", ok && gh == host && genv == env && gn == n)
			gh, gd, gn, ok = ParseDeletionKey(KeyDeletion(host, domain, n))
			check("pending deletion", ok && gh == host && gd == domain && gn == n)
			gh, gd, gs, ok = ParseDamageReportKey(KeyDamageReport(host, domain, hash))
			check("damage report", ok && gh == host && gd == domain && gs == hash)
			id := KeyID(hash[7:15])
			gid, gn, ok := ParseAttestKeyKey(KeyAttestKey(id, n))
			check("attest key", ok && gid == id && gn == n)
			gid, ok = ParseKeyID(id.String())
			check("key ID", ok && gid == id)
			gh, genv, gn, gid, gs, ok = ParseAttestationKey(KeyAttestation(host, env, n, id, hash))
			check("attestation", ok && gh == host && genv == env && gn == n && gid == id && gs == hash)
			gh, genv, gn, ok = ParseMarkKey(KeyMark(host, env, n))
			check("mark", ok && gh == host && genv == env && gn == n)
			gh, genv, gn, ok = ParseHostMarkKey(KeyHostMark(host, env, n))
			check("mark of a host", ok && gh == host && genv == env && gn == n)
			gh, ok = ParseHostPrefix(PrefixHost(host))
			check("host prefix", ok && gh == host)
			gh, genv, ok = ParseEnvironmentPrefix(PrefixRoots(host, env))
			check("environment prefix", ok && gh == host && genv == env)
			gh, gd, ok = ParsePackDomainPrefix(PrefixPacks(host, domain))
			check("domain prefix", ok && gh == host && gd == domain)
			gh, gd, ok = ParseManifestDomainPrefix(PrefixManifests(host, domain))
			check("domain prefix of manifests", ok && gh == host && gd == domain)
		})
	})

	t.Run("of nothing", func(t *testing.T) {
		sum := strings.Repeat("ab", 32)
		for _, key := range []string{
			"", "/", "epochs/", "epochs/1", "epochs/fffffffffffffff", "epochs/ffffffffffffffff", "epochs/FFFFFFFFFFFFFFFE", "epochs/+ffffffffffffffe",
			"epochs/fffffffffffffffe/", "epochs/0x00000000000001", "epochs/0000000000000000", "hosts/web/roots/web/0000000000000001", "keys/owner/ab", "keys/owner/" + strings.Repeat("AB", 16), "keys/e0/" + strings.Repeat("ab", 16),
			"hosts/", "hosts//", "hosts/Web/", "hosts/../", "hosts/web/certs/", "hosts/web/certs/x/fffffffffffffffe", "hosts/web/roots/fffffffffffffffe",
			"hosts/web/roots//fffffffffffffffe", "hosts/web/roots/web/fffffffffffffffe/", "hosts/web/roots/web/ffffffffffffffff",
			"hosts/web/packs/00/" + sum, "hosts/web/packs/0000000000000000/" + sum[1:], "hosts/web/packs/0000000000000000/" + strings.ToUpper(sum),
			"hosts/web/index/0000000000000000/" + sum, "hosts/web/index/0000000000000000/fffffffffffffffe-", "hosts/web/index/0000000000000000/-" + sum,
			"attest/0000000000000000/", "attest/00/fffffffffffffffe", "attestations/web/web/fffffffffffffffe/" + sum, "attestations/web/web/fffffffffffffffe/0000000000000000/" + sum[1:],
			"attestations/web/Web/fffffffffffffffe/0000000000000000/" + sum, "marks/web/fffffffffffffffe", "hosts/web/marks/fffffffffffffffe",
			"hosts/web/others/0000000000000000/" + sum, "prefix/hosts/web/certs/fffffffffffffffe",
		} {
			if w := parseKey(key); len(w) > 0 {
				t.Errorf("%q was read as %q", key, w)
			}
		}
	})

	t.Run("a listing yields higher numbers first", func(t *testing.T) {
		numbers := []uint64{1, 2, 9, 10, 255, 256, 1 << 32, MaxNumber}
		for i := 1; i < len(numbers); i++ {
			if a, b := Inverted(numbers[i]), Inverted(numbers[i-1]); a >= b {
				t.Errorf("%d comes after %d: %s %s", numbers[i], numbers[i-1], a, b)
			}
		}
	})

	t.Run("name their host", func(t *testing.T) {
		var domain seal.DomainID
		var hash [32]byte
		for _, key := range []string{
			KeyPack("h", domain, hash), KeyManifest("h", domain, hash), KeyIndexRun("h", domain, 1, hash), KeyRoot("h", "e", 1), KeyTombstone("h", "e", 1), KeyAcceptance("h", "e", 1), KeyCatalogue("h", "e", 1),
			KeyDeletion("h", domain, 1), KeyDamageReport("h", domain, hash), PrefixReserve("h") + "1", "hosts/h/attestations/x",
		} {
			if host, ok := HostOf(key); !ok || host != "h" {
				t.Errorf("%s: %q, %v", key, host, ok)
			}
		}
		for _, key := range []string{"", "descriptor", "hosts/h", "hosts/h/x", "hosts/H/audit/x", "hosts/h/other/x", "hosts/h/roots/e/x", "hosts/h/packs/x/y", "certs/h/" + Inverted(1)} {
			if host, ok := HostOf(key); ok {
				t.Errorf("%s is of host %q", key, host)
			}
		}
	})
}

// parseKey returns how many of the parsers take a key, and what they would
// write for it.
func parseKey(key string) (written []string) {
	add := func(ok bool, k func() string) {
		if ok {
			written = append(written, k())
		}
	}
	n, ok := ParseEpochKey(key)
	add(ok, func() string { return KeyEpoch(n) })
	e, f, ok := ParseEpochSecretKey(key)
	add(ok, func() string { return KeyEpochSecret(e, f) })
	h, n2, ok := ParseCertificateKey(key)
	add(ok, func() string { return KeyCertificate(h, n2) })
	h3, d, s, ok := ParsePackKey(key)
	add(ok, func() string { return KeyPack(h3, d, s) })
	h4, d2, s2, ok := ParseManifestKey(key)
	add(ok, func() string { return KeyManifest(h4, d2, s2) })
	h5, d3, g, s3, ok := ParseIndexRunKey(key)
	add(ok, func() string { return KeyIndexRun(h5, d3, g, s3) })
	h6, env, n4, ok := ParseRootKey(key)
	add(ok, func() string { return KeyRoot(h6, env, n4) })
	h7, ok := ParseHostPrefix(key)
	add(ok, func() string { return PrefixHost(h7) })
	h8, env2, ok := ParseEnvironmentPrefix(key)
	add(ok, func() string { return PrefixRoots(h8, env2) })
	h9, d4, ok := ParsePackDomainPrefix(key)
	add(ok, func() string { return PrefixPacks(h9, d4) })
	h12, d6, ok := ParseManifestDomainPrefix(key)
	add(ok, func() string { return PrefixManifests(h12, d6) })
	h10, env3, n5, ok := ParseTombstoneKey(key)
	add(ok, func() string { return KeyTombstone(h10, env3, n5) })
	h14, env4, n7, ok := ParseAcceptanceKey(key)
	add(ok, func() string { return KeyAcceptance(h14, env4, n7) })
	h15, env5, n8, ok := ParseCatalogueKey(key)
	add(ok, func() string { return KeyCatalogue(h15, env5, n8) })
	h13, d7, s7, ok := ParseDamageReportKey(key)
	add(ok, func() string { return KeyDamageReport(h13, d7, s7) })
	h11, d5, n6, ok := ParseDeletionKey(key)
	add(ok, func() string { return KeyDeletion(h11, d5, n6) })
	id, n9, ok := ParseAttestKeyKey(key)
	add(ok, func() string { return KeyAttestKey(id, n9) })
	h16, env6, n10, id2, s8, ok := ParseAttestationKey(key)
	add(ok, func() string { return KeyAttestation(h16, env6, n10, id2, s8) })
	h17, env7, n11, ok := ParseMarkKey(key)
	add(ok, func() string { return KeyMark(h17, env7, n11) })
	h18, env8, n12, ok := ParseHostMarkKey(key)
	add(ok, func() string { return KeyHostMark(h18, env8, n12) })
	return written
}

func FuzzKeys(f *testing.F) {
	for _, k := range []string{KeyEpoch(1), KeyRoot("a", "b", 7), KeyIndexRun("a", seal.DomainID{}, 4, [32]byte{}), PrefixHost("a"), KeyOwnerSecret(RecipientFingerprint("x"))} {
		f.Add(k)
	}
	f.Fuzz(func(t *testing.T, key string) {
		w := parseKey(key)
		if len(w) > 1 {
			t.Fatalf("%q has several meanings: %q", key, w)
		}
		if len(w) == 1 && w[0] != key {
			t.Fatalf("%q became %q", key, w[0])
		}
	})
}

func TestNames(t *testing.T) {
	t.Run("are valid or not", func(t *testing.T) {
		long := strings.Repeat("a", 63)
		for _, s := range []string{"a", "0", "web-7", "db.example.com", "a_b", long} {
			if err := ValidName(s); err != nil {
				t.Errorf("%q: %v", s, err)
			}
		}
		for _, s := range []string{"", long + "a", "A", "Web", ".a", "-a", "_a", "..", "a/b", "a b", "a\n", "ä", "a\x00", "a@1", "a:b"} {
			if ValidName(s) == nil {
				t.Errorf("%q passes", s)
			}
		}
	})
}

func TestRecipientFingerprint(t *testing.T) {
	const pin = "2c26b46b68ffc68ff99b453c1d304134"
	if got := RecipientFingerprint("foo"); got != pin {
		t.Errorf("fingerprint %s, want the first half of SHA-256, %s", got, pin)
	}
	for _, same := range [][2]string{
		{"age1xyz", " age1xyz\n"},
		{"ssh-ed25519 AAAA", "ssh-ed25519 AAAA me@host"},
		{"ssh-ed25519 AAAA", "ssh-ed25519  \tAAAA  a comment of words"},
	} {
		if RecipientFingerprint(same[0]) != RecipientFingerprint(same[1]) {
			t.Errorf("%q and %q differ", same[0], same[1])
		}
	}
	seen := map[string]string{}
	for _, s := range []string{"age1a", "age1b", "ssh-ed25519 AAAA", "ssh-rsa AAAA", "ssh-ed25519 AAAB"} {
		f := RecipientFingerprint(s)
		if other, ok := seen[f]; ok {
			t.Errorf("%q has the fingerprint of %q", s, other)
		}
		seen[f] = s
	}
}

func ExampleKeyRoot() {
	fmt.Println(KeyRoot("web-7", "web", 42))
	// Output: hosts/web-7/roots/web/ffffffffffffffd5
}
