package pack

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"knowngood/internal/wire"
	"knowngood/storage/seal"
)

var update = flag.Bool("update", false, "write the vectors anew")

var repo = seal.RepositoryID{1, 2, 3}

// build makes a pack with three chunks in two frames.
func build(t testing.TB, kind wire.Kind, objects []Object) (object []byte, sum [32]byte, domain *seal.Domain, epoch *seal.EpochSecret) {
	t.Helper()
	epoch, err := seal.NewEpochSecret()
	if err != nil {
		t.Fatal(err)
	}
	domain = seal.DomainFromBytes([32]byte{7})
	session, err := seal.NewSession(repo, epoch.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	b := NewBuilder(kind, repo, domain, session, nil)
	c := NewCompressor(LevelDefault)
	if kind == wire.KindPack {
		b.Add(c.Frame(nil, []byte("hello, hello, world")), 19, []Chunk{{ID: [32]byte{1}, Len: 14}, {ID: [32]byte{2}, Len: 5}})
	} else {
		b.AddManifest(c.Frame(nil, []byte("hello, hello, world")), 19, []Chunk{{ID: [32]byte{1}, Len: 19}})
	}
	b.AddManifest(c.Frame(nil, bytes.Repeat([]byte("x"), 5000)), 5000, []Chunk{{ID: [32]byte{3}, Len: 5000}})
	object, sum, _ = b.Finish(ObjectList{Added: objects})
	return object, sum, domain, epoch
}

// contents opens a pack and the content of its frames.
func contents(kind wire.Kind, object []byte, domain *seal.Domain, epoch *seal.EpochSecret) (*Contents, []string, error) {
	tail, err := ParseTail(kind, object, int64(len(object)))
	if err != nil {
		return nil, nil, err
	}
	c, err := tail.Contents(kind, domain)
	if err != nil {
		return nil, nil, err
	}
	session, err := epoch.OpenSession(repo, tail.Session)
	if err != nil {
		return nil, nil, err
	}
	key := session.FrameKey(kind, repo, domain.ID, tail.Salt)
	if err := tail.VerifyEnd(key, kind, object, c); err != nil {
		return nil, nil, err
	}
	var out []string
	for _, f := range c.frames() {
		plain, err := OpenFrame(key, kind, int(f.Offset), bytes.Clone(object[f.Offset:f.Offset+f.SealedLen]))
		if err != nil {
			return nil, nil, err
		}
		content, err := NewDecompressor().Content(nil, kind, plain)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, string(content))
	}
	return c, out, nil
}

func TestPack(t *testing.T) {
	t.Run("a pack reads back as built", aPackReadsBackAsBuilt)
	t.Run("every byte of a pack is guarded", everyByteOfAPackIsGuarded)
	t.Run("a tail that is too short says what it takes", aTailThatIsTooShortSaysWhatItTakes)
	t.Run("the wrong domain opens no contents", theWrongDomainOpensNoContents)
	t.Run("content that does not compress is stored", contentThatDoesNotCompressIsStored)
	t.Run("the default level depends on the content", theDefaultLevelDependsOnTheContent)
	t.Run("text in which nothing repeats is compressed", textInWhichNothingRepeatsIsCompressed)
	t.Run("frames that lie about their length are refused", framesThatLieAboutTheirLengthAreRefused)
	t.Run("contents that are larger than an object can be are refused", contentsThatAreLargerThanAnObjectCanBeAreRefused)
	t.Run("the pack of the format opens", thePackOfTheFormatOpens)
}

func aPackReadsBackAsBuilt(t *testing.T) {
	for _, kind := range []wire.Kind{wire.KindPack, wire.KindManifest} {
		objects := []Object{{wire.KindPack, [32]byte{1}, 10, 20}, {wire.KindManifest, [32]byte{1}, 30, 40}}
		object, sum, domain, epoch := build(t, kind, objects)
		if sha256.Sum256(object) != sum {
			t.Error("the hash is not that of the bytes")
		}
		c, frames, err := contents(kind, object, domain, epoch)
		if err != nil {
			t.Fatal(err)
		}
		if len(frames) != 2 || frames[0] != "hello, hello, world" || frames[1] != strings.Repeat("x", 5000) {
			t.Errorf("frames %q", frames)
		}
		if len(c.List.Added) != 2 || c.List.Added[1].Live != 40 || c.frames()[1].Chunks[0].Len != 5000 || len(c.Manifest) == len(frames) == (kind == wire.KindPack) {
			t.Errorf("contents %+v", c)
		}
	}
}

func everyByteOfAPackIsGuarded(t *testing.T) {
	object, _, domain, epoch := build(t, wire.KindPack, nil)
	for i := range object {
		bad := bytes.Clone(object)
		bad[i] ^= 0x40
		_, _, err := contents(wire.KindPack, bad, domain, epoch)
		if err == nil {
			err = CheckPrelude(wire.KindPack, bad)
		}
		if err == nil {
			t.Errorf("byte %d of %d may be flipped unnoticed", i, len(object))
		}
	}
	for n := range len(object) {
		if _, _, err := contents(wire.KindPack, object[:n], domain, epoch); err == nil {
			t.Errorf("%d of %d bytes pass for the whole", n, len(object))
		}
	}
}

func aTailThatIsTooShortSaysWhatItTakes(t *testing.T) {
	object, _, _, _ := build(t, wire.KindPack, nil)
	var short *ErrShortTail
	if _, err := ParseTail(wire.KindPack, object[len(object)-20:], int64(len(object))); !errors.As(err, &short) {
		t.Fatalf("got %v", err)
	}
	if _, err := ParseTail(wire.KindPack, object[int64(len(object))-short.Need:], int64(len(object))); err != nil {
		t.Error(err)
	}
}

func theWrongDomainOpensNoContents(t *testing.T) {
	object, _, _, epoch := build(t, wire.KindPack, nil)
	if _, _, err := contents(wire.KindPack, object, seal.DomainFromBytes([32]byte{8}), epoch); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("got %v", err)
	}
}

func contentThatDoesNotCompressIsStored(t *testing.T) {
	c, d := NewCompressor(LevelDefault), NewDecompressor()
	r := rand.NewChaCha8([32]byte{1})
	for _, n := range []int{0, 1, 100, 70_000, 1 << 20} {
		random := make([]byte, n)
		r.Read(random)
		for what, content := range map[string][]byte{"random": random, "zeros": make([]byte, n), "text": bytes.Repeat([]byte("a line of text\n"), n/15)} {
			frame := c.Frame(nil, content)
			if len(frame) > len(content)+6 {
				t.Errorf("%d bytes of %s take %d", n, what, len(frame))
			}
			if what != "random" && n > 1000 && len(frame) > len(content)/10 {
				t.Errorf("%d bytes of %s are not compressed: %d", n, what, len(frame))
			}
			back, err := d.Content([]byte("before"), wire.KindPack, frame)
			if err != nil || !bytes.Equal(back[6:], content) {
				t.Errorf("%d bytes of %s do not read back: %v", n, what, err)
			}
		}
	}
}

// The default level spends its effort where it saves something.
func theDefaultLevelDependsOnTheContent(t *testing.T) {
	size := func(l Level, content []byte) int { return len(NewCompressor(l).Frame(nil, content)) }
	r := rand.New(rand.NewPCG(1, 2))
	dense, text := make([]byte, 1<<20), []byte{}
	for i := range dense {
		dense[i] = byte(r.NormFloat64() * 30)
	}
	words := strings.Fields("the quick brown fox jumps over lazy dogs while nobody in town looks at what happens here or there")
	for len(text) < 1<<20 {
		text = append(append(text, words[r.IntN(len(words))]...), ' ')
	}
	if d, f := size(LevelDefault, dense), size(LevelFastest, dense); d != f {
		t.Errorf("dense content takes %d bytes, at the fastest level %d", d, f)
	}
	if d, f := size(LevelDefault, text), size(LevelFastest, text); d >= f {
		t.Errorf("text takes %d bytes, at the fastest level %d", d, f)
	}
}

func textInWhichNothingRepeatsIsCompressed(t *testing.T) {
	random := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{}).Read(random)
	text := []byte(base64.StdEncoding.EncodeToString(random))
	if n := len(NewCompressor(LevelDefault).Frame(nil, text)); n > len(text)*76/100 {
		t.Errorf("%d bytes of base64 take %d", len(text), n)
	}
}

func framesThatLieAboutTheirLengthAreRefused(t *testing.T) {
	d := NewDecompressor()
	good := NewCompressor(LevelDefault).Frame(nil, bytes.Repeat([]byte("x"), 1000))
	long := append([]byte{methodZstd}, wire.AppendUvarint(nil, 2000)...)
	for name, frame := range map[string][]byte{
		"empty": nil, "method 2": {2, 1, 0}, "longer": append(long, good[3:]...), "shorter": append([]byte{methodZstd, 5}, good[3:]...),
		"stored, longer": {methodStored, 5, 1}, "huge": append([]byte{methodZstd}, wire.AppendUvarint(nil, 1<<40)...), "no zstd": {methodZstd, 3, 1, 2, 3},
	} {
		if _, err := d.Content(nil, wire.KindPack, frame); err == nil {
			t.Errorf("%s: opens", name)
		}
	}
}

// The vector is a pack, with the secrets that open it.
func contentsThatAreLargerThanAnObjectCanBeAreRefused(t *testing.T) {
	frames := func(n int, sealed uint32) []byte {
		return (&Contents{Files: slices.Repeat([]Frame{{SealedLen: sealed, ContentLen: 1}}, n)}).Append(nil)
	}
	if _, err := ParseContents(wire.KindPack, frames(MaxFrames, frameMin)); err != nil {
		t.Error(err)
	}
	ofFiles := (&Contents{Files: []Frame{{SealedLen: frameMin, ContentLen: 1, Chunks: []Chunk{{Len: 1}}}}}).Append(nil)
	if _, err := ParseContents(wire.KindManifest, ofFiles); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("chunks of files in a manifest container: %v", err)
	}
	for name, b := range map[string][]byte{
		"too many frames":             frames(MaxFrames+1, frameMin),
		"a frame that cannot be":      frames(1, frameMin-1),
		"two segments in a frame":     (&Contents{Manifest: []Frame{{SealedLen: frameMin, ContentLen: 2, Chunks: []Chunk{{Len: 1}, {Len: 1}}}}}).Append(nil),
		"a table before a segment":    (&Contents{Manifest: []Frame{{SealedLen: frameMin, ContentLen: 1}, {SealedLen: frameMin, ContentLen: 1, Chunks: []Chunk{{Len: 1}}}}}).Append(nil),
		"frames of 64 MiB of a table": append(binary.AppendUvarint(nil, MaxContents/3), make([]byte, MaxContents)...),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ParseContents(wire.KindPack, b)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, wire.ErrMalformed) || used > 16<<20 {
			t.Errorf("%s: %v, with %d bytes of memory", name, err, used)
		}
	}
}

func thePackOfTheFormatOpens(t *testing.T) {
	const file = "testdata/pack.hex"
	if *update {
		object, _, domain, epoch := build(t, wire.KindPack, nil)
		secret, _ := epoch.Bytes()
		d := domain.Bytes()
		os.MkdirAll("testdata", 0o755)
		os.WriteFile(file, []byte(hex.EncodeToString(secret)+"\n"+hex.EncodeToString(d[:])+"\n"+hex.EncodeToString(object)+"\n"), 0o644)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var parts [][]byte
	for _, line := range strings.Fields(string(text)) {
		b, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, b)
	}
	epoch, err := seal.ParseEpochSecret(parts[0])
	if err != nil {
		t.Fatal(err)
	}
	c, frames, err := contents(wire.KindPack, parts[2], seal.DomainFromBytes([32]byte(parts[1])), epoch)
	if err != nil || len(frames) != 2 || frames[0] != "hello, hello, world" || c.Manifest[0].Chunks[0].ID != [32]byte{3} {
		t.Errorf("opens as %+v %q, %v", c, frames, err)
	}
}

func FuzzContents(f *testing.F) {
	f.Add((&Contents{Files: make([]Frame, MaxFrames/8)}).Append(nil))
	f.Add((&Contents{Files: []Frame{{SealedLen: 22, ContentLen: 4, Chunks: []Chunk{{[32]byte{1}, 4}}}}, Manifest: []Frame{{SealedLen: 22, ContentLen: 4}}, List: ObjectList{Base: Object{Kind: wire.KindManifest, Hash: [32]byte{7}}, Removed: []uint32{0, 3}, Added: []Object{{wire.KindPack, [32]byte{1}, 10, 20}}}}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, kind := range []wire.Kind{wire.KindPack, wire.KindManifest} {
			c, err := ParseContents(kind, b)
			if err != nil {
				continue
			}
			if again := c.Append(nil); !bytes.Equal(again, b) {
				t.Errorf("parses, but encodes to\n%x, not\n%x", again, b)
			}
		}
	})
}

func FuzzTail(f *testing.F) {
	object, _, domain, _ := build(f, wire.KindPack, nil)
	f.Add(object)
	f.Fuzz(func(t *testing.T, b []byte) {
		tail, err := ParseTail(wire.KindPack, b, int64(len(b)))
		if err != nil {
			return
		}
		tail.Contents(wire.KindPack, domain)
	})
}

func FuzzFrame(f *testing.F) {
	f.Add(NewCompressor(LevelDefault).Frame(nil, []byte("hello, hello, world")))
	d := NewDecompressor()
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := d.Content(nil, wire.KindPack, b); err == nil && len(c) > MaxFrameContent {
			t.Errorf("%d bytes of content", len(c))
		}
	})
}

func BenchmarkFrame(b *testing.B) {
	text := bytes.Repeat([]byte("static int frame(struct pack *p, const char *name)\n{\n\treturn 0;\n}\n"), 16000)[:1<<20]
	random := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(random)
	for name, content := range map[string][]byte{"text": text, "random": random} {
		b.Run(name, func(b *testing.B) {
			c := NewCompressor(LevelDefault)
			var out []byte
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				out = c.Frame(out[:0], content)
			}
		})
	}
}

func BenchmarkBuilder(b *testing.B) {
	epoch, err := seal.NewEpochSecret()
	if err != nil {
		b.Fatal(err)
	}
	session, err := seal.NewSession(repo, epoch.Epoch)
	if err != nil {
		b.Fatal(err)
	}
	domain, frame := seal.DomainFromBytes([32]byte{7}), make([]byte, 300<<10)
	buf := make([]byte, 0, 17<<20)
	b.SetBytes(16 << 20)
	for b.Loop() {
		p := NewBuilder(wire.KindPack, repo, domain, session, buf)
		for p.Size() < 16<<20 {
			p.Add(frame, 1<<20, nil)
		}
		p.Finish(ObjectList{})
	}
}
