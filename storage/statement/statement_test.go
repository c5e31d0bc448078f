package statement

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"knowngood/internal/wire"
	"knowngood/storage/seal"
)

var update = flag.Bool("update", false, "write the vectors anew")

var (
	repo      = seal.RepositoryID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	at        = time.Unix(1_700_000_000, 123_456_789).UTC()
	ownerKey  = keyOf(1)
	hostKey   = keyOf(2)
	strange   = keyOf(3)
	attestKey = keyOf(4)
	publicKEM = bytes.Repeat([]byte{0xaa, 0x55}, publicKeyLen/2)
)

func keyOf(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// statement is what all statements have in common, for the tests.
type statement interface {
	Encode(ed25519.PrivateKey) ([]byte, error)
	Bytes() []byte
	Hash() [32]byte
}

// codec is a kind of statement with a sample that uses every field.
type codec struct {
	name   string
	kind   wire.Kind
	sample statement
	key    ed25519.PrivateKey
	parse  func([]byte) (statement, error)
	verify func(s statement, r seal.RepositoryID, owner ed25519.PublicKey) error
}

func codecs(t testing.TB) []codec {
	cert := mustParse(t, ParseCertificate, certificate(1, hostKey), ownerKey)
	root := sampleRoot(cert)
	return []codec{
		{"descriptor", wire.KindDescriptor, &Descriptor{Repository: repo, Owner: public(ownerKey), Created: at,
			ChunkMin: 256 << 10, ChunkAverage: 1 << 20, ChunkMax: 4 << 20, PackSize: 16 << 20, LockMode: "COMPLIANCE", LockDuration: 30 * 24 * time.Hour,
			Probe: &Probe{SecondCreateRefused: true, VersionsKept: true, At: at, PlainPutRefused: true}}, ownerKey,
			parser(ParseDescriptor), func(s statement, r seal.RepositoryID, owner ed25519.PublicKey) error {
				d := s.(*Descriptor)
				return d.verify(d.Repository, r, owner)
			}},
		{"epoch", wire.KindEpoch, &Epoch{Repository: repo, Number: 1, PublicKey: publicKEM,
			Recipients: []string{"age1pqexample", "ssh-ed25519 AAAA"}, Created: at}, ownerKey,
			parser(ParseEpoch), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error { return s.(*Epoch).Verify(r, k) }},
		{"certificate", wire.KindCertificate, &Certificate{Repository: repo, Host: "web-7", Serial: 2, HostKey: public(hostKey), Issued: at, Previous: [32]byte{7},
			Heads: []Head{{"db", 3, [32]byte{8}}, {"web", 300, [32]byte{9}}}}, ownerKey,
			parser(ParseCertificate), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error {
				return s.(*Certificate).Verify(r, k)
			}},
		{"join-request", wire.KindJoinRequest, &JoinRequest{Repository: repo, Host: "web-7", HostKey: public(hostKey), Created: at, Descriptor: [32]byte{3}}, hostKey,
			parser(ParseJoinRequest), func(s statement, r seal.RepositoryID, owner ed25519.PublicKey) error {
				if !bytes.Equal(owner, public(ownerKey)) {
					return s.(*JoinRequest).verify(s.(*JoinRequest).Repository, r, owner)
				}
				return s.(*JoinRequest).Verify(r, [32]byte{3})
			}},
		{"index-run", wire.KindIndexRun, &IndexRun{Repository: repo, Host: "web-7", Domain: seal.DomainID{5}, Generation: 9, Salt: seal.Salt{6},
			Replaces: [][32]byte{{1}, {2}}, SealedBody: []byte("sealed body"), Certificate: cert}, hostKey,
			parser(ParseIndexRun), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error { return s.(*IndexRun).Verify(r, k) }},
		{"root", wire.KindRoot, root, hostKey,
			parser(ParseRoot), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error {
				return CheckRootCertificate(s.(*Root), nil, k, r)
			}},
		{"tombstone", wire.KindTombstone, &Tombstone{Repository: repo, Host: "web-7", Environment: "web", Serial: 3, Previous: [32]byte{4},
			Forgotten: Numbers{{1, 9}, {11, 11}, {300, 4000}}, Free: 4000, Made: at, Reason: "keep 24 hourly",
			Reasons: []ForgetReason{{"held a secret", Numbers{{11, 11}}}, {"keep 24 hourly", Numbers{{1, 9}, {300, 4000}}}}, Certificate: cert}, hostKey,
			parser(ParseTombstone), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error {
				return CheckTombstoneCertificate(s.(*Tombstone), nil, k, r)
			}},
		{"owner-tombstone", wire.KindTombstone, &Tombstone{Repository: repo, Host: "web-7", Environment: "web", Serial: 1, Made: at,
			Forgotten: Numbers{{1, 9}, {11, 11}}, Repeated: Numbers{{2, 9}}, RepeatedSerial: 5}, ownerKey,
			parser(ParseTombstone), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error { return s.(*Tombstone).Verify(r, k) }},
		{"acceptance", wire.KindAcceptance, &Acceptance{Repository: repo, Host: "web-7", Environment: "web", Serial: 2, Previous: [32]byte{4},
			Accepted: []Accepted{{43, [32]byte{1}}, {44, [32]byte{2}}, {300, [32]byte{3}}}, Made: at, Reason: "moved to db-2", Certificate: cert}, hostKey,
			parser(ParseAcceptance), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error {
				return CheckAcceptanceCertificate(s.(*Acceptance), nil, k, r)
			}},
		{"owner-acceptance", wire.KindAcceptance, &Acceptance{Repository: repo, Host: "web-7", Environment: "web", Serial: 1, Accepted: []Accepted{{1, [32]byte{1}}}, Made: at}, ownerKey,
			parser(ParseAcceptance), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error { return s.(*Acceptance).Verify(r, k) }},
		{"pending-deletion", wire.KindDeletion, &Deletion{Repository: repo, Host: "web-7", Domain: seal.DomainID{5}, Serial: 9, Since: 7, Made: at, Certificate: cert,
			Announced: []Object{{wire.KindPack, [32]byte{1}, 17 << 20}, {wire.KindManifest, [32]byte{1}, 5000}},
			Deleted:   []Object{{wire.KindPack, [32]byte{2}, 0}, {wire.KindPack, [32]byte{3}, 0}}, Spared: []Object{{wire.KindManifest, [32]byte{4}, 0}}}, hostKey,
			parser(ParseDeletion), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error { return s.(*Deletion).Verify(r, k) }},
		{"repack", wire.KindDeletion, &Deletion{Repository: repo, Host: "web-7", Domain: seal.DomainID{5}, Serial: 2, Since: 1, Made: at, Certificate: cert,
			Announced: []Object{{wire.KindPack, [32]byte{1}, 17 << 20}, {wire.KindPack, [32]byte{2}, 16 << 20}},
			Repacks: []Repack{{Manifests: [][32]byte{{7}, {8}, {9}}, Moves: []Move{{[][32]byte{{1}, {2}}, [][32]byte{{3}}}, {[][32]byte{{5}}, nil}}},
				{Manifests: [][32]byte{{7}}, Moves: []Move{{[][32]byte{{4}}, [][32]byte{{1}, {3}}}}}}}, hostKey,
			parser(ParseDeletion), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error { return s.(*Deletion).Verify(r, k) }},
		{"owner-pending-deletion", wire.KindDeletion, &Deletion{Repository: repo, Host: "web-7", Domain: seal.DomainID{5}, Serial: 1, Since: 1, Made: at}, ownerKey,
			parser(ParseDeletion), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error { return s.(*Deletion).Verify(r, k) }},
		{"attest-key", wire.KindAttestKey, &AttestKey{Repository: repo, Machine: "drill-1", Serial: 3, Key: public(attestKey), Issued: at, Previous: [32]byte{4},
			Hosts: []string{"web-*", "db-1"}, Before: at, Host: "drills"}, ownerKey,
			parser(ParseAttestKey), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error { return s.(*AttestKey).Verify(r, k) }},
		{"mark", wire.KindMark, &Mark{Repository: repo, Host: "web-7", Environment: "web", Serial: 2, Previous: [32]byte{4}, Marked: []Marked{{42, [32]byte{1}, true}, {300, [32]byte{2}, false}},
			Made: at, Reason: "its database is corrupt", AttestKey: mustParse(t, ParseAttestKey, &AttestKey{Repository: repo, Machine: "drill-1", Serial: 1, Key: public(attestKey), Issued: at, Hosts: []string{"web-*"}}, ownerKey)}, attestKey,
			parser(ParseMark), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error {
				return CheckMarkCertificate(s.(*Mark), nil, k, r)
			}},
		{"owner-mark", wire.KindMark, &Mark{Repository: repo, Host: "web-7", Environment: "web", Serial: 1, Marked: []Marked{{42, [32]byte{1}, true}}, Made: at}, ownerKey,
			parser(ParseMark), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error { return s.(*Mark).Verify(r, k) }},
		{"host-mark", wire.KindMark, &Mark{Repository: repo, Host: "web-7", Environment: "web", Serial: 1, Marked: []Marked{{42, [32]byte{1}, true}}, Made: at, Certificate: cert}, hostKey,
			parser(ParseMark), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error {
				return CheckMarkCertificate(s.(*Mark), nil, k, r)
			}},
		{"damage-report", wire.KindDamageReport, &DamageReport{Repository: repo, Host: "web-7", Domain: seal.DomainID{5}, Made: at,
			Damaged: []Object{{wire.KindPack, [32]byte{1}, 0}, {wire.KindPack, [32]byte{2}, 0}, {wire.KindManifest, [32]byte{1}, 0}}}, ownerKey,
			parser(ParseDamageReport), func(s statement, r seal.RepositoryID, k ed25519.PublicKey) error {
				return s.(*DamageReport).Verify(r, k)
			}},
	}
}

// many are n hashes in order.
func many(n int) [][32]byte {
	out := make([][32]byte, n)
	for i := range out {
		binary.BigEndian.PutUint32(out[i][:], uint32(i))
	}
	return out
}

// damagedPacks are n packs in order.
func damagedPacks(n int) (out []Object) {
	for _, h := range many(n) {
		out = append(out, Object{Kind: wire.KindPack, Hash: h})
	}
	return out
}

func hashesOf(first ...byte) (out [][32]byte) {
	for _, b := range first {
		out = append(out, [32]byte{b})
	}
	return out
}

// value is that of field 1, which list writes.
func value(list func(*wire.Codec)) []byte {
	record, _ := wire.Encode(list)
	f, _ := wire.ParseRecord(record)
	return f.Bytes(1)
}

func repackOf(manifests [][32]byte, moves ...Move) []byte {
	list := []Repack{{manifests, moves}}
	return value(func(c *wire.Codec) { repacks(c, 1, &list) })
}

func certificate(serial uint64, key ed25519.PrivateKey, heads ...Head) *Certificate {
	return &Certificate{Repository: repo, Host: "web-7", Serial: serial, HostKey: public(key), Issued: at, Heads: heads}
}

func sampleRoot(cert *Certificate) *Root {
	return &Root{Repository: repo, Host: "web-7", Environment: "web", Number: 42, Previous: [32]byte{4}, Certificate: cert,
		Domain: seal.DomainID{5}, Epoch: seal.EpochID{6}, SealedDomain: []byte("sealed domain"), Salt: seal.Salt{7}, SealedBody: []byte("sealed body"), IndexRuns: [][32]byte{{8}, {9}}}
}

func parser[T statement](parse func([]byte) (T, error)) func([]byte) (statement, error) {
	return func(b []byte) (statement, error) { return parse(b) }
}

func mustParse[T statement](t testing.TB, parse func([]byte) (T, error), s T, key ed25519.PrivateKey) T {
	t.Helper()
	b, err := s.Encode(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err = parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (c *codec) encode(t testing.TB) []byte {
	t.Helper()
	b, err := c.sample.Encode(c.key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// withoutEnvelope compares the fields of a statement, not what it was read from.
func withoutEnvelope(s statement) any {
	v := reflect.New(reflect.TypeOf(s).Elem()).Elem()
	v.Set(reflect.ValueOf(s).Elem())
	v.FieldByName("Envelope").SetZero()
	return v.Interface()
}

func vector(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		var lines strings.Builder
		for b := range slices.Chunk(got, 64) {
			lines.WriteString(hex.EncodeToString(b) + "\n")
		}
		if err := os.WriteFile(path, []byte(lines.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s is no longer what it was: the format changed", name)
	}
}

func TestStatement(t *testing.T) {
	t.Run("statements are the vectors and read back", testStatementsAreTheVectorsAndReadBack)
	t.Run("a field of a newer version", testAFieldOfANewerVersion)
	t.Run("parse refuses what is no such object", testParseRefusesWhatIsNoSuchObject)
	t.Run("parse refuses fields", testParseRefusesFields)
}

func testStatementsAreTheVectorsAndReadBack(t *testing.T) {
	for _, c := range codecs(t) {
		t.Run(c.name, func(t *testing.T) {
			b := c.encode(t)
			vector(t, c.name, b)
			s, err := c.parse(b)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(withoutEnvelope(s), withoutEnvelope(c.sample)) {
				t.Fatal("it reads back as something else")
			}
			if !bytes.Equal(s.Bytes(), b) {
				t.Fatal("the parsed statement does not have its object")
			}
			if err := c.verify(s, repo, public(ownerKey)); err != nil {
				t.Fatal(err)
			}
			again, err := s.Encode(c.key)
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("written again it differs, %v", err)
			}
		})
	}
}

// edited is the sample with its fields changed by edit and signed again.
func (c *codec) edited(t testing.TB, edit func(map[uint64][]byte)) []byte {
	t.Helper()
	b := c.encode(t)
	d := wire.NewDecoder(b[headLen : len(b)-ed25519.SignatureSize])
	fields := map[uint64][]byte{}
	for d.Rest() > 0 {
		tag := d.Uvarint()
		fields[tag] = d.Bytes()
	}
	edit(fields)
	var r wire.Record
	for tag, v := range fields {
		r.Bytes(tag, v)
	}
	b, err := sign(c.kind, r.Append(nil), c.key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testAFieldOfANewerVersion(t *testing.T) {
	for _, c := range codecs(t) {
		t.Run(c.name+" is kept when its tag is odd", func(t *testing.T) {
			b := c.edited(t, func(f map[uint64][]byte) { f[901] = []byte("later") })
			s, err := c.parse(b)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := s.Encode(c.key); err != nil || !bytes.Equal(again, b) {
				t.Fatalf("written again it differs, %v", err)
			}
		})
		t.Run(c.name+" is refused when its tag is even", func(t *testing.T) {
			_, err := c.parse(c.edited(t, func(f map[uint64][]byte) { f[902] = []byte("later") }))
			if !errors.Is(err, wire.ErrVersion) {
				t.Fatalf("error %v", err)
			}
		})
	}
}

func testParseRefusesWhatIsNoSuchObject(t *testing.T) {
	for _, c := range codecs(t) {
		change := func(i int, v byte) []byte {
			b := c.encode(t)
			b[i] = v
			return b
		}
		long := c.encode(t)
		binary.LittleEndian.PutUint32(long[8:], uint32(maxPayload(c.kind)+1))
		for name, in := range map[string]struct {
			object []byte
			want   error
		}{
			"nothing":                 {nil, wire.ErrMalformed},
			"another program's":       {change(0, 'X'), wire.ErrMalformed},
			"another kind":            {change(4, byte(wire.KindPack)), wire.ErrMalformed},
			"an earlier version":      {change(5, 1), wire.ErrVersion},
			"a later version":         {change(5, 3), wire.ErrVersion},
			"an unknown feature":      {change(7, 1), wire.ErrVersion},
			"a payload over limit":    {long, wire.ErrMalformed},
			"bytes after the end":     {append(c.encode(t), 0), wire.ErrMalformed},
			"a signature cut short":   {c.encode(t)[:len(c.encode(t))-1], wire.ErrMalformed},
			"a prelude and no more":   {c.encode(t)[:8], wire.ErrMalformed},
			"no repository ID":        {c.edited(t, func(f map[uint64][]byte) { delete(f, 2) }), wire.ErrMalformed},
			"a short repository ID":   {c.edited(t, func(f map[uint64][]byte) { f[2] = f[2][:15] }), wire.ErrMalformed},
			"an empty payload":        {mustSign(t, c.kind, nil), wire.ErrMalformed},
			"a payload not a record":  {mustSign(t, c.kind, []byte{0xff}), wire.ErrMalformed},
			"no field 4":              {c.edited(t, func(f map[uint64][]byte) { delete(f, 4) }), wire.ErrMalformed},
			"a field 4 of rubbish":    {c.edited(t, func(f map[uint64][]byte) { f[4] = []byte{0x80, 0xff} }), wire.ErrMalformed},
			"a field 4 of many bytes": {c.edited(t, func(f map[uint64][]byte) { f[4] = make([]byte, 5000) }), wire.ErrMalformed},
		} {
			t.Run(c.name+" from "+name, func(t *testing.T) {
				if _, err := c.parse(in.object); !errors.Is(err, in.want) {
					t.Fatalf("error %v", err)
				}
			})
		}
	}
}

func mustSign(t *testing.T, k wire.Kind, payload []byte) []byte {
	t.Helper()
	b, err := sign(k, payload, hostKey)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testParseRefusesFields(t *testing.T) {
	all := map[string]codec{}
	for _, c := range codecs(t) {
		all[c.name] = c
	}
	otherHost := mustParse(t, ParseCertificate, &Certificate{Repository: repo, Host: "web-8", Serial: 1, HostKey: public(hostKey), Issued: at}, ownerKey).Bytes()
	otherRepository := mustParse(t, ParseCertificate, &Certificate{Repository: seal.RepositoryID{9}, Host: "web-7", Serial: 1, HostKey: public(hostKey), Issued: at}, ownerKey).Bytes()
	certCodec := all["certificate"]
	newerCertificate := certCodec.edited(t, func(f map[uint64][]byte) { f[902] = []byte("later") })
	u := func(v uint64) []byte { return wire.AppendUvarint(nil, v) }
	texts := func(list ...string) []byte { return value(func(c *wire.Codec) { c.Texts(1, &list, 1000) }) }
	cert := mustParse(t, ParseCertificate, certificate(1, hostKey), ownerKey)
	otherAttestKey := mustParse(t, ParseAttestKey, &AttestKey{Repository: seal.RepositoryID{9}, Machine: "a", Serial: 1, Key: public(attestKey), Issued: at}, ownerKey).Bytes()
	heads := func(h ...Head) []byte { return value(func(c *wire.Codec) { heads(c, 1, &h) }) }
	accepted := func(list []Accepted) []byte { return value(func(c *wire.Codec) { accepted(c, 1, &list) }) }
	objects := func(list []Object) []byte { return value(func(c *wire.Codec) { objects(c, 1, &list, false) }) }
	for name, c := range map[string]struct {
		codec string
		tag   uint64
		value []byte // nil: leave the field out
		want  error
	}{
		"a short owner key":                       {"descriptor", 4, make([]byte, 31), wire.ErrMalformed},
		"no time of creation":                     {"descriptor", 6, nil, wire.ErrMalformed},
		"chunks of minimum 0":                     {"descriptor", 8, nil, wire.ErrMalformed},
		"a minimum above the average":             {"descriptor", 8, u(2 << 20), wire.ErrMalformed},
		"an average above the maximum":            {"descriptor", 10, u(5 << 20), wire.ErrMalformed},
		"a maximum above the limit of chunks":     {"descriptor", 12, u(8<<20 + 1), wire.ErrMalformed},
		"packs of no size":                        {"descriptor", 14, nil, wire.ErrMalformed},
		"packs above the limit":                   {"descriptor", 14, u(256<<20 + 1), wire.ErrMalformed},
		"a descriptor of another KEM":             {"descriptor", 16, u(0x20), wire.ErrVersion},
		"a lock mode that is no text":             {"descriptor", 17, []byte{0xff}, wire.ErrMalformed},
		"a lock longer than a duration":           {"descriptor", 19, u(1 << 63), wire.ErrMalformed},
		"a probe that is no record":               {"descriptor", 21, []byte{1}, wire.ErrMalformed},
		"a probe with a third answer":             {"descriptor", 21, []byte{1, 1, 2}, wire.ErrMalformed},
		"a probe of a newer version":              {"descriptor", 21, []byte{2, 1, 2}, wire.ErrVersion},
		"epoch 0":                                 {"epoch", 4, nil, wire.ErrMalformed},
		"an epoch of another KEM":                 {"epoch", 6, u(0x20), wire.ErrVersion},
		"a short public key":                      {"epoch", 8, publicKEM[1:], wire.ErrMalformed},
		"no recipients":                           {"epoch", 10, nil, wire.ErrMalformed},
		"an empty recipient":                      {"epoch", 10, []byte{1, 0}, wire.ErrMalformed},
		"a recipient that is no text":             {"epoch", 10, []byte{1, 1, 0xff}, wire.ErrMalformed},
		"an epoch made at no time":                {"epoch", 12, nil, wire.ErrMalformed},
		"an attest key of 31 bytes":               {"attest-key", 8, make([]byte, 31), wire.ErrMalformed},
		"an attest key certificate 0":             {"attest-key", 6, nil, wire.ErrMalformed},
		"a pattern of hosts with a slash":         {"attest-key", 14, texts("web/*"), wire.ErrMalformed},
		"a pattern of hosts with a class":         {"attest-key", 14, texts("web-[0-9]"), wire.ErrMalformed},
		"257 patterns of hosts":                   {"attest-key", 14, texts(slices.Repeat([]string{"a"}, 257)...), wire.ErrMalformed},
		"an attest key of a host in capitals":     {"attest-key", 18, []byte("Web"), wire.ErrMalformed},
		"mark 0":                                  {"mark", 8, nil, wire.ErrMalformed},
		"a mark of nothing":                       {"mark", 12, nil, wire.ErrMalformed},
		"a mark that is neither bad nor cleared":  {"mark", 12, append(append([]byte{1, 1}, make([]byte, 32)...), 3), wire.ErrMalformed},
		"a mark of number 0":                      {"mark", 12, append(append([]byte{1, 0}, make([]byte, 32)...), 1), wire.ErrMalformed},
		"a mark at no time":                       {"mark", 14, nil, wire.ErrMalformed},
		"a mark with two certificates":            {"mark", 18, cert.Bytes(), wire.ErrMalformed},
		"a mark by the key of another repository": {"mark", 16, otherAttestKey, wire.ErrMalformed},
		"a mark with the certificate of a host":   {"mark", 16, cert.Bytes(), wire.ErrMalformed},
		"a host certificate in capitals":          {"certificate", 4, []byte("Web"), wire.ErrMalformed},
		"certificate 0":                           {"certificate", 6, nil, wire.ErrMalformed},
		"a long host key":                         {"certificate", 8, make([]byte, 33), wire.ErrMalformed},
		"a certificate issued at no time":         {"certificate", 10, nil, wire.ErrMalformed},
		"a certificate before of zeros":           {"certificate", 12, make([]byte, 32), wire.ErrMalformed},
		"heads out of order":                      {"certificate", 14, heads(Head{"web", 1, [32]byte{}}, Head{"db", 1, [32]byte{}}), wire.ErrMalformed},
		"heads of one environment twice":          {"certificate", 14, heads(Head{"web", 1, [32]byte{}}, Head{"web", 2, [32]byte{}}), wire.ErrMalformed},
		"a head of number 0":                      {"certificate", 14, heads(Head{"web", 0, [32]byte{}}), wire.ErrMalformed},
		"a head of a bad name":                    {"certificate", 14, heads(Head{"../x", 1, [32]byte{}}), wire.ErrMalformed},
		"an empty list of heads":                  {"certificate", 14, []byte{0}, wire.ErrMalformed},
		"heads with bytes after them":             {"certificate", 14, append(heads(Head{"web", 1, [32]byte{}}), 0), wire.ErrMalformed},
		"more heads than there is room for":       {"certificate", 14, []byte{0xff, 0xff, 0xff, 0x7f}, wire.ErrMalformed},
		"a request of a host with a slash":        {"join-request", 4, []byte("a/b"), wire.ErrMalformed},
		"a request without a key":                 {"join-request", 6, nil, wire.ErrMalformed},
		"a request made at no time":               {"join-request", 8, nil, wire.ErrMalformed},
		"a run of generation 0":                   {"index-run", 8, nil, wire.ErrMalformed},
		"a run of the last generation":            {"index-run", 8, u(1<<64 - 1), wire.ErrMalformed},
		"a run without a salt":                    {"index-run", 10, nil, wire.ErrMalformed},
		"half a hash of a replaced run":           {"index-run", 12, append([]byte{1}, make([]byte, 16)...), wire.ErrMalformed},
		"an empty list of replaced runs":          {"index-run", 12, []byte{0}, wire.ErrMalformed},
		"a run without a body":                    {"index-run", 14, nil, wire.ErrMalformed},
		"a run without a certificate":             {"index-run", 15, nil, wire.ErrMalformed},
		"a root of a bad environment":             {"root", 6, []byte("-web"), wire.ErrMalformed},
		"root 0":                                  {"root", 8, nil, wire.ErrMalformed},
		"a first root with one before it":         {"root", 8, u(1), wire.ErrMalformed},
		"a later root with none before it":        {"root", 10, nil, wire.ErrMalformed},
		"a root without a certificate":            {"root", 12, nil, wire.ErrMalformed},
		"a root with another host's":              {"root", 12, otherHost, wire.ErrMalformed},
		"a root with another repository's":        {"root", 12, otherRepository, wire.ErrMalformed},
		"a root with a certificate newer than us": {"root", 12, newerCertificate, wire.ErrVersion},
		"a root with index runs out of order":     {"root", 24, appendHashes(nil, [][32]byte{{9}, {8}}), wire.ErrMalformed},
		"a root with an index run twice":          {"root", 24, appendHashes(nil, [][32]byte{{9}, {9}}), wire.ErrMalformed},
		"a long domain ID":                        {"root", 14, make([]byte, 9), wire.ErrMalformed},
		"a short epoch ID":                        {"root", 16, make([]byte, 7), wire.ErrMalformed},
		"a root without a domain secret":          {"root", 18, nil, wire.ErrMalformed},
		"a domain secret over the limit":          {"root", 18, make([]byte, seal.MaxSealed+1), wire.ErrMalformed},
		"a root without a body":                   {"root", 22, nil, wire.ErrMalformed},
		"a tombstone in a bad environment":        {"tombstone", 6, []byte("-web"), wire.ErrMalformed},
		"tombstone 0":                             {"tombstone", 8, nil, wire.ErrMalformed},
		"a tombstone before of zeros":             {"tombstone", 10, make([]byte, 32), wire.ErrMalformed},
		"an empty list of numbers":                {"tombstone", 12, []byte{0}, wire.ErrMalformed},
		"snapshot 0 forgotten":                    {"tombstone", 12, []byte{1, 0, 1}, wire.ErrMalformed},
		"ranges that touch":                       {"tombstone", 12, []byte{2, 1, 1, 0, 1}, wire.ErrMalformed},
		"a range of no numbers":                   {"tombstone", 12, []byte{1, 1, 0}, wire.ErrMalformed},
		"a range beyond all numbers":              {"tombstone", 12, append([]byte{1, 2}, u(1<<64-2)...), wire.ErrMalformed},
		"a range that begins beyond all numbers":  {"tombstone", 12, append(append([]byte{1}, u(1<<64-1)...), 1), wire.ErrMalformed},
		"ranges with bytes after them":            {"tombstone", 12, []byte{1, 1, 1, 0}, wire.ErrMalformed},
		"a tombstone made at no time":             {"tombstone", 14, nil, wire.ErrMalformed},
		"a reason that is no text":                {"tombstone", 15, []byte{0xff}, wire.ErrMalformed},
		"a reason of many words":                  {"tombstone", 15, bytes.Repeat([]byte("a"), maxReason+1), wire.ErrMalformed},
		"a reason for nothing":                    {"tombstone", 17, []byte{2, 1, 'a', 0}, wire.ErrMalformed},
		"a reason without numbers":                {"tombstone", 17, []byte{1, 1, 'a'}, wire.ErrMalformed},
		"a reason that is empty":                  {"tombstone", 17, []byte{2, 0, 3, 1, 1, 1}, wire.ErrMalformed},
		"reasons out of order":                    {"tombstone", 17, []byte{4, 1, 'b', 3, 1, 1, 1, 1, 'a', 3, 1, 2, 1}, wire.ErrMalformed},
		"a tombstone with another host's":         {"tombstone", 16, otherHost, wire.ErrMalformed},
		"acceptance 0":                            {"acceptance", 8, nil, wire.ErrMalformed},
		"an acceptance in a bad environment":      {"acceptance", 6, []byte("-web"), wire.ErrMalformed},
		"an acceptance before of zeros":           {"acceptance", 10, make([]byte, 32), wire.ErrMalformed},
		"an acceptance of nothing":                {"acceptance", 12, nil, wire.ErrMalformed},
		"an empty list of accepted snapshots":     {"acceptance", 12, []byte{0}, wire.ErrMalformed},
		"snapshot 0 accepted":                     {"acceptance", 12, append([]byte{1, 0}, make([]byte, 32)...), wire.ErrMalformed},
		"a snapshot accepted twice":               {"acceptance", 12, accepted([]Accepted{{1, [32]byte{}}, {1, [32]byte{}}}), wire.ErrMalformed},
		"an accepted snapshot beyond all numbers": {"acceptance", 12, accepted([]Accepted{{1<<64 - 2, [32]byte{}}}), wire.ErrMalformed},
		"a snapshot accepted without its ID":      {"acceptance", 12, []byte{1, 1}, wire.ErrMalformed},
		"more accepted snapshots than there may":  {"acceptance", 12, accepted(make([]Accepted, MaxAccepted+1)), wire.ErrMalformed},
		"an acceptance made at no time":           {"acceptance", 14, nil, wire.ErrMalformed},
		"a long reason of an acceptance":          {"acceptance", 15, bytes.Repeat([]byte("a"), maxReason+1), wire.ErrMalformed},
		"an acceptance with another host's":       {"acceptance", 16, otherHost, wire.ErrMalformed},
		"a deletion in no domain":                 {"pending-deletion", 6, nil, wire.ErrMalformed},
		"deletion 0":                              {"pending-deletion", 8, nil, wire.ErrMalformed},
		"an empty list of objects":                {"pending-deletion", 10, []byte{0}, wire.ErrMalformed},
		"a root to be deleted":                    {"pending-deletion", 12, append([]byte{1, byte(wire.KindRoot)}, make([]byte, 32)...), wire.ErrMalformed},
		"an object named twice":                   {"pending-deletion", 14, objects([]Object{{wire.KindPack, [32]byte{1}, 0}, {wire.KindPack, [32]byte{1}, 0}}), wire.ErrMalformed},
		"an announced object without its size":    {"pending-deletion", 10, objects([]Object{{wire.KindPack, [32]byte{1}, 0}}), wire.ErrMalformed},
		"since the future":                        {"pending-deletion", 16, u(10), wire.ErrMalformed},
		"since never":                             {"pending-deletion", 16, nil, wire.ErrMalformed},
		"a deletion made at no time":              {"pending-deletion", 18, nil, wire.ErrMalformed},
		"no repack at all":                        {"repack", 22, []byte{0}, wire.ErrMalformed},
		"a repack of nothing":                     {"repack", 22, repackOf(hashesOf(1, 2)), wire.ErrMalformed},
		"a repack for nobody":                     {"repack", 22, repackOf(nil, Move{hashesOf(1), hashesOf(2, 3)}), wire.ErrMalformed},
		"a move of nothing":                       {"repack", 22, repackOf(hashesOf(1, 2), Move{nil, hashesOf(1)}), wire.ErrMalformed},
		"a repack of packs out of order":          {"repack", 22, repackOf(hashesOf(1), Move{hashesOf(2, 1), hashesOf(3)}), wire.ErrMalformed},
		"a repack for a manifest named twice":     {"repack", 22, repackOf(hashesOf(1, 1), Move{hashesOf(2), hashesOf(3)}), wire.ErrMalformed},
		"a pack rewritten into itself":            {"repack", 22, repackOf(hashesOf(1), Move{hashesOf(1, 2), hashesOf(2)}), wire.ErrMalformed},
		"a repack of more than fits":              {"repack", 22, repackOf(hashesOf(1), Move{many(MaxDeletionObjects - 1), hashesOf(0xff)}), wire.ErrMalformed},
		"repacks of more than fits together":      {"repack", 22, repackOf(hashesOf(1), Move{many(MaxDeletionObjects / 2), nil}, Move{many(MaxDeletionObjects / 2), nil}), wire.ErrMalformed},
		"a deletion with another host's":          {"pending-deletion", 20, otherHost, wire.ErrMalformed},
		"damage in no domain":                     {"damage-report", 6, nil, wire.ErrMalformed},
		"damage at no time":                       {"damage-report", 8, nil, wire.ErrMalformed},
		"damage of nothing":                       {"damage-report", 10, nil, wire.ErrMalformed},
		"an empty list of damaged objects":        {"damage-report", 10, []byte{0}, wire.ErrMalformed},
		"a damaged root":                          {"damage-report", 10, append([]byte{1, byte(wire.KindRoot)}, make([]byte, 32)...), wire.ErrMalformed},
		"damaged objects out of order":            {"damage-report", 10, objects([]Object{{wire.KindManifest, [32]byte{1}, 0}, {wire.KindPack, [32]byte{1}, 0}}), wire.ErrMalformed},
		"more damage than fits":                   {"damage-report", 10, objects(damagedPacks(MaxDeletionObjects + 1)), wire.ErrMalformed},
		"damage that an attest key signed":        {"damage-report", 12, []byte("certificate"), wire.ErrVersion},
	} {
		t.Run(name, func(t *testing.T) {
			k := all[c.codec]
			_, err := k.parse(k.edited(t, func(f map[uint64][]byte) { f[c.tag] = c.value }))
			if !errors.Is(err, c.want) {
				t.Fatalf("error %v", err)
			}
		})
	}
}
