package signs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"image"
	"image/color"
	"image/jpeg"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"

	"knowngood/snapshot/manifest"
	"knowngood/snapshot/signs"
)

// tree is what a machine holds, by path.
type tree map[string][]byte

// load changes a tree as something that machines do from one run to the next.
type load struct {
	name  string
	begin func(*rand.Rand) tree
	step  func(r *rand.Rand, t tree, run int)
}

// loads are the corpus: what a machine does to many files at once, and no encryptor.
var loads = []load{
	{"log rotation with gzip", beginLogs, stepLogs},
	{"database dumps", beginDumps, stepDumps},
	{"photo import", beginPhotos, stepPhotos},
	{"package upgrade", beginPackages, stepPackages},
	{"image build", beginImages, stepImages},
	{"repository checkout", beginCheckout, stepCheckout},
	{"deployment of compressed assets", beginAssets, stepAssets},
}

var words = strings.Fields("the of and to in is that for it as was with be by on not he his but at are this have from or had an they which you were her all she there would their we him been has when who will no more if out so said what up its about into than them can only other new some could time these two may then do first any my now such like our over man me even most made after also did many before must through back years where much your way well down should because each just those people Mr how too little state good very make world still own see men work long get here between both life being under never day same another know while last might us great old year off come since against go came right used take three")

func text(r *rand.Rand, n int) []byte {
	var b bytes.Buffer
	for b.Len() < n {
		if b.WriteString(words[r.IntN(len(words))]); r.IntN(9) == 0 {
			fmt.Fprintf(&b, " %d\n", r.IntN(100000))
		} else {
			b.WriteByte(' ')
		}
	}
	return b.Bytes()
}

func logLines(r *rand.Rand, n int) []byte {
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "2026-11-%02d %02d:%02d:%02d host app[%d]: %s %s %s id=%x\n", 1+r.IntN(30), r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(9999), words[r.IntN(len(words))], words[r.IntN(len(words))], words[r.IntN(len(words))], r.Uint64())
	}
	return b.Bytes()
}

// ciphertext is what every good cipher makes: bytes that look random.
func ciphertext(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		x := r.Uint64()
		for j := i; j < min(n, i+8); j++ {
			b[j], x = byte(x), x>>8
		}
	}
	return b
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func deflated(b []byte) []byte {
	var out bytes.Buffer
	w, err := zlib.NewWriterLevel(&out, zlib.BestSpeed)
	if err != nil {
		panic(err)
	}
	w.Write(b)
	w.Close()
	return out.Bytes()
}

var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return e
})

func zstandard(b []byte) []byte { return zstdEncoder().EncodeAll(b, nil) }

// photo is a picture with noise, as of a camera, with its metadata before it.
func photo(r *rand.Rand) []byte {
	m := image.NewGray(image.Rect(0, 0, 128, 96))
	a, b := r.IntN(7)+1, r.IntN(5)+1
	for i := range m.Pix {
		m.Pix[i] = color.Gray{Y: uint8(i/128*a + i%128*b + r.IntN(24))}.Y
	}
	var out bytes.Buffer
	jpeg.Encode(&out, m, &jpeg.Options{Quality: 60 + r.IntN(35)})
	j := out.Bytes()
	exif := append([]byte("\xff\xe1\x01\x10Exif\x00\x00II*\x00"), text(r, 256)[:256]...)
	return slices.Concat(j[:2], exif, j[2:])
}

// realFiles are files of this machine, by extension: programs, libraries, documents,
// translations, as packages bring them, and sources of Go.
var realFiles = sync.OnceValue(func() map[string][][]byte {
	out := map[string][][]byte{}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		panic(err)
	}
	sdk := strings.TrimSpace(string(goroot))
	for _, root := range []string{"/usr/bin", "/usr/lib", "/usr/share", filepath.Join(sdk, "src"), filepath.Join(sdk, "pkg")} {
		seen := map[string]int{}
		filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil
			}
			ext := filepath.Ext(p)
			if seen[ext] >= 60 {
				return nil
			}
			info, err := d.Info()
			if err != nil || info.Size() == 0 || info.Size() > 64<<10 {
				return nil
			}
			if b, err := os.ReadFile(p); err == nil {
				seen[ext]++
				out[ext] = append(out[ext], b)
			}
			return nil
		})
	}
	maps.DeleteFunc(out, func(_ string, l [][]byte) bool { return len(l) < 8 })
	return out
})

var realExtensions = sync.OnceValue(func() []string { return slices.Sorted(maps.Keys(realFiles())) })

// anyReal is a file of this machine with an extension.
func anyReal(r *rand.Rand, ext string) []byte {
	l := realFiles()[ext]
	return l[r.IntN(len(l))]
}

func oneExtension(r *rand.Rand) string {
	l := realExtensions()
	return l[r.IntN(len(l))]
}

// edited is a file with a line put somewhere.
func edited(r *rand.Rand, b []byte) []byte {
	at := r.IntN(len(b) + 1)
	return slices.Concat(b[:at], text(r, 20+r.IntN(100)), b[at:])
}

// some are about a part of the paths of a tree, sorted.
func some(r *rand.Rand, t tree, part float64, pick func(string) bool) (out []string) {
	for _, p := range slices.Sorted(maps.Keys(t)) {
		if (pick == nil || pick(p)) && r.Float64() < part {
			out = append(out, p)
		}
	}
	return out
}

func below(dir string) func(string) bool {
	return func(p string) bool { return strings.HasPrefix(p, dir) }
}

func beginLogs(r *rand.Rand) tree {
	t := tree{}
	for i := range 80 {
		t[fmt.Sprintf("log/app%02d.log", i)] = logLines(r, 1000+r.IntN(6000))
		t[fmt.Sprintf("old/job%02d.log", i)] = logLines(r, 1000+r.IntN(3000))
	}
	return t
}

// Rotation shifts app.log.1 to app.log.2.gz and so on, or moves to names with dates,
// of which those of yesterday are compressed with gzip or zstd.
func stepLogs(r *rand.Rand, t tree, run int) {
	rotate := run%3 == 2
	for i := range 80 {
		p := fmt.Sprintf("log/app%02d.log", i)
		if !rotate {
			t[p] = append(slices.Clip(t[p]), logLines(r, r.IntN(2000))...)
			continue
		}
		for n := 6; n >= 2; n-- {
			if b, ok := t[fmt.Sprintf("%s.%d.gz", p, n)]; ok {
				t[fmt.Sprintf("%s.%d.gz", p, n+1)] = b
			}
		}
		if b, ok := t[p+".1"]; ok {
			t[p+".2.gz"] = gzipped(b)
		}
		t[p+".1"], t[p] = t[p], logLines(r, 200+r.IntN(2000))
		delete(t, p+".7.gz")

		q := fmt.Sprintf("old/job%02d.log", i)
		before, today := fmt.Sprintf("%s-%05d", q, run-3), fmt.Sprintf("%s-%05d", q, run)
		if b, ok := t[before]; ok {
			delete(t, before)
			if i%2 == 0 {
				t[before+".gz"] = gzipped(b)
			} else {
				t[before+".zst"] = zstandard(b)
			}
		}
		t[today] = t[q]
		delete(t, q)
		if r.IntN(5) > 0 { // some services write nothing for a while
			t[q] = logLines(r, 100+r.IntN(2000))
		}
		for _, ext := range []string{".gz", ".zst"} {
			delete(t, fmt.Sprintf("%s-%05d%s", q, run-15, ext))
		}
		if _, ok := t[q]; !ok {
			t[q] = nil
		}
	}
}

func beginDumps(r *rand.Rand) tree {
	t := tree{}
	for i := range 40 {
		t[fmt.Sprintf("cluster/base/%d", 16384+i)] = page(r)
	}
	return t
}

// page is of a database: a header, then rows.
func page(r *rand.Rand) []byte {
	b := make([]byte, 24, 8192)
	b[r.IntN(8)] = byte(r.IntN(256))
	b = append(b, make([]byte, 2000)...)
	for len(b) < 8192 {
		b = append(append(b, byte(r.IntN(4)), 0, 0, byte(r.IntN(256))), text(r, 24)[:24]...)
	}
	return b
}

// Dumps of each night: as text, with gzip, of pg_dump's custom format and directory,
// some encrypted with a key, those of a week ago removed; and the cluster beside them.
func stepDumps(r *rand.Rand, t tree, run int) {
	day, old := fmt.Sprintf("%05d", run), fmt.Sprintf("%05d", run-7)
	var removed []string
	for p := range t {
		if strings.Contains(p, "-"+old) {
			removed = append(removed, p)
		}
	}
	for _, p := range removed {
		delete(t, p)
	}
	for i := range 6 {
		sql := text(r, 4000+r.IntN(20000))
		t[fmt.Sprintf("dump/db%d-%s.sql", i, day)] = sql
		t[fmt.Sprintf("dump/db%d-%s.sql.gz", i, day)] = gzipped(sql)
		t[fmt.Sprintf("dump/db%d-%s.sql.aes", i, day)] = ciphertext(r, len(sql))
		t[fmt.Sprintf("dump/db%d-%s.dump", i, day)] = slices.Concat([]byte("PGDMP\x01\x0e\x00\x04\x08\x01"), text(r, 300), deflated(sql))
		t[fmt.Sprintf("latest/db%d.sql.gz", i)] = gzipped(sql)
	}
	for i := range 60 { // pg_dump -Fd into the same directory
		t[fmt.Sprintf("latest/dir/%d.dat.gz", 3000+i)] = gzipped(text(r, 500+r.IntN(4000)))
	}
	t["latest/dir/toc.dat"] = slices.Concat([]byte("PGDMP"), text(r, 3000))
	for _, p := range some(r, t, 0.4, below("cluster/")) {
		t[p] = page(r)
	}
	for i := range 8 { // write-ahead log: files change their names, and keep their content until then
		delete(t, fmt.Sprintf("cluster/wal/%016X", run*8+i-24))
		t[fmt.Sprintf("cluster/wal/%016X", run*8+i)] = slices.Concat([]byte("\x10\xd1\x07\x00"), page(r), make([]byte, 4096))
	}
}

func beginPhotos(r *rand.Rand) tree {
	t := tree{}
	for i := range 60 {
		t[fmt.Sprintf("photos/2025/IMG_%04d.JPG", i)] = photo(r)
		t[fmt.Sprintf("photos/2025/IMG_%04d.xmp", i)] = text(r, 900)
	}
	return t
}

// Photos, raw ones and videos come into a folder and move from there to that of their day;
// ratings, thumbnails and a catalogue change; some are renamed, edited or removed.
func stepPhotos(r *rand.Rand, t tree, run int) {
	for _, p := range some(r, t, 1, below("import/")) {
		t[fmt.Sprintf("photos/day%05d/%s", run, strings.TrimPrefix(p, "import/"))] = t[p]
		delete(t, p)
	}
	for i := range 20 + r.IntN(60) {
		name := fmt.Sprintf("import/%05d_%03d", run, i)
		switch r.IntN(6) {
		case 0: // raw: a header of TIFF, then sensor data, packed and without any magic of its own
			t[name+".CR2"] = slices.Concat([]byte("II*\x00\x10\x00\x00\x00CR\x02\x00"), text(r, 300), ciphertext(r, 20000))
		case 1:
			t[name+".MP4"] = slices.Concat([]byte("\x00\x00\x00\x20ftypisom"), ciphertext(r, 30000))
		case 2: // a voice memo without a header
			t[name+".raw"] = pcm(r, 8000)
		default:
			t[name+".JPG"] = photo(r)
		}
	}
	for _, p := range some(r, t, 0.2, below("photos/")) {
		switch ext := path.Ext(p); {
		case ext == ".xmp":
			t[p] = edited(r, t[p])
		case ext == ".JPG" && r.IntN(3) == 0: // edited, or of another size
			t[p] = photo(r)
		case ext == ".JPG" && r.IntN(3) == 0: // to another format, and the old one removed
			t[strings.TrimSuffix(p, ".JPG")+".webp"] = slices.Concat([]byte("RIFF\x10\x20\x00\x00WEBPVP8 "), ciphertext(r, 5000))
			delete(t, p)
		case ext == ".JPG":
			t["thumbs/"+strings.ReplaceAll(p, "/", "-")] = photo(r)
		}
	}
	if all := some(r, t, 1, below("photos/day")); len(all) > 600 {
		for _, p := range all[:len(all)-500] {
			delete(t, p)
		}
	}
	for _, p := range some(r, t, 0.3, below("thumbs/")) {
		delete(t, p)
	}
	t["catalog.db"] = slices.Concat([]byte("SQLite format 3\x00"), page(r), page(r))
}

// pcm is sound: 16 bits a sample, noise and a tone.
func pcm(r *rand.Rand, n int) []byte {
	b := make([]byte, 0, n)
	v := 0
	for len(b) < n {
		v = v*15/16 + r.IntN(2001) - 1000
		b = append(b, byte(v), byte(v>>8))
	}
	return b
}

func beginPackages(r *rand.Rand) tree {
	t := tree{}
	for i := range 30 {
		install(r, t, i, 0)
	}
	return t
}

// install puts a version of a package, whose files are those of this machine.
func install(r *rand.Rand, t tree, pkg, version int) {
	dir := fmt.Sprintf("usr/lib/pkg%02d/", pkg)
	for i := range 12 + pkg%20 {
		ext := oneExtension(rand.New(rand.NewPCG(uint64(pkg), uint64(i)))) // of a file, in all versions
		name := fmt.Sprintf("%sf%02d%s", dir, i, ext)
		if i%4 == 3 { // libraries and modules have versions in their names
			delete(t, fmt.Sprintf("%sf%02d-%d%s", dir, i, version-1, ext))
			name = fmt.Sprintf("%sf%02d-%d%s", dir, i, version, ext)
		}
		t[name] = anyReal(r, ext)
	}
	t[fmt.Sprintf("usr/share/doc/pkg%02d/changelog.gz", pkg)] = gzipped(text(r, 3000))
	t[fmt.Sprintf("usr/lib/pkg%02d/cache.bin", pkg)] = slices.Concat(text(r, 40), ciphertext(r, 200), text(r, 2000))
}

func stepPackages(r *rand.Rand, t tree, run int) {
	for range 1 + r.IntN(8) {
		install(r, t, r.IntN(30), run+1)
	}
	for i := range 3 { // packages that were fetched
		delete(t, fmt.Sprintf("var/cache/p%d-%d.deb", i, run-1))
		t[fmt.Sprintf("var/cache/p%d-%d.deb", i, run)] = slices.Concat([]byte("!<arch>\ndebian-binary   "), ciphertext(r, 9000))
	}
	t["var/lib/status"] = text(r, 20000)
}

func beginImages(r *rand.Rand) tree {
	t := tree{}
	for range 10 {
		layer(r, t)
	}
	return t
}

// layer is one of an image: its files, unpacked, and the blob, below names that are
// random.
func layer(r *rand.Rand, t tree) {
	id := fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64())
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for i := range 5 + r.IntN(30) {
		ext := oneExtension(r)
		b := anyReal(r, ext)
		name := fmt.Sprintf("usr/f%d%s", i, ext)
		t["overlay2/"+id+"/diff/"+name] = b
		if w.WriteHeader(&tar.Header{Name: name, Size: int64(len(b))}) == nil {
			w.Write(b)
		}
	}
	w.Close()
	switch r.IntN(3) {
	case 0:
		t["blobs/sha256/"+id] = gzipped(archive.Bytes()[:min(archive.Len(), 100<<10)])
	case 1:
		t["blobs/sha256/"+id] = zstandard(archive.Bytes())
	default:
		t["blobs/sha256/"+id] = archive.Bytes()
	}
	t["imagedb/"+id] = []byte(fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"created":"2026-11-30T10:00:00Z","history":[{"created_by":"RUN %s"}]}`, id, text(r, 60)))
}

func stepImages(r *rand.Rand, t tree, run int) {
	for range 1 + r.IntN(4) {
		layer(r, t)
	}
	for _, id := range some(r, t, 0.1, below("imagedb/")) { // prune
		id = strings.TrimPrefix(id, "imagedb/")
		for _, p := range some(r, t, 1, func(p string) bool { return strings.Contains(p, id) }) {
			delete(t, p)
		}
	}
	disk := make([]byte, 64<<10)
	copy(disk[r.IntN(60<<10):], text(r, 3000)[:3000])
	t["vm/disk.raw"] = disk
}

func beginCheckout(r *rand.Rand) tree {
	t := tree{}
	for i := range 250 {
		ext := []string{".go", ".go", ".s", ".txt", ".md"}[i%5]
		if len(realFiles()[ext]) == 0 {
			ext = ".go"
		}
		t[fmt.Sprintf("repo/dir%02d/f%03d%s", i%17, i, ext)] = anyReal(r, ext)
	}
	return t
}

// Another branch is checked out: files change, come, go, and are renamed to another
// extension. Each commit leaves loose objects, which gc puts into a pack.
func stepCheckout(r *rand.Rand, t tree, run int) {
	object := func(b []byte) {
		t[fmt.Sprintf("repo/.git/objects/%02x/%036x", r.IntN(256), r.Uint64())] = deflated(b)
	}
	rename := r.IntN(10) == 0
	for _, p := range some(r, t, 0.05+0.5*r.Float64(), below("repo/dir")) {
		b := edited(r, t[p])
		switch {
		case len(b) > 60<<10:
			b = anyReal(r, ".go")
		case rename:
			delete(t, p)
			p = strings.TrimSuffix(p, path.Ext(p)) + []string{".js", ".ts", ".tsx"}[r.IntN(3)]
		case r.IntN(20) == 0:
			delete(t, p)
			p = fmt.Sprintf("repo/dir%02d/n%05d.go", r.IntN(17), r.IntN(99999))
		}
		t[p] = b
		object(b)
	}
	if run%4 == 3 {
		for _, p := range some(r, t, 1, below("repo/.git/objects/")) {
			delete(t, p)
		}
		pack := fmt.Sprintf("repo/.git/objects/pack/pack-%016x", r.Uint64())
		t[pack+".pack"] = slices.Concat([]byte("PACK\x00\x00\x00\x02\x00\x00\x01\x10"), ciphertext(r, 60000))
		index := []byte("\xfftOc\x00\x00\x00\x02")
		for i := range 256 {
			index = append(index, 0, 0, byte(i*3>>8), byte(i*3))
		}
		t[pack+".idx"] = append(index, ciphertext(r, 12000)...)
		t[pack+".rev"] = slices.Concat([]byte("RIDX\x00\x00\x00\x01\x00\x00\x00\x01"), ciphertext(r, 3000))
	}
}

func beginAssets(r *rand.Rand) tree {
	t := tree{}
	stepAssets(r, t, 0)
	return t
}

// A site is built again: assets have their hashes in their names, and lie beside
// themselves as gzip and as brotli, which has no magic bytes.
func stepAssets(r *rand.Rand, t tree, run int) {
	for i := range 60 {
		old := some(r, t, 1, below(fmt.Sprintf("www/app%02d.", i)))
		if len(old) > 0 && r.IntN(3) == 0 {
			continue
		}
		for _, p := range old {
			delete(t, p)
		}
		js := text(r, 3000+r.IntN(9000))
		name := fmt.Sprintf("www/app%02d.%08x.js", i, r.Uint32())
		t[name], t[name+".gz"], t[name+".br"] = js, gzipped(js), ciphertext(r, len(js)/3)
	}
	t["www/index.html"] = text(r, 4000)
}

// machine remembers of a tree what a capture does.
type machine struct {
	entries map[string]*manifest.Entry // with one chunk, named by a hash of the content
	ever    map[manifest.ChunkID]bool  // content that the repository has
	state   signs.State
}

// chunkBytes is the length of the chunks here; those of a capture depend on content.
const chunkBytes = 64 << 10

var seed = maphash.MakeSeed()

func (m *machine) run(t tree) (counts signs.Counts, suspect bool) {
	before, stored := m.entries, map[string]bool{}
	if before == nil {
		m.ever = map[manifest.ChunkID]bool{}
	}
	m.entries = map[string]*manifest.Entry{}
	for p, b := range t {
		var id manifest.ChunkID
		binary.LittleEndian.PutUint64(id[:], maphash.Bytes(seed, b))
		if old := before[p]; old != nil && old.Chunks[0].ID == id {
			m.entries[p] = old
			continue
		}
		var s signs.Sampler
		for chunk := range slices.Chunk(b, chunkBytes) {
			s.Add(chunk)
		}
		m.entries[p] = &manifest.Entry{Path: p, Type: manifest.File, Chunks: []manifest.Chunk{{ID: id}}, Stat: &manifest.Stat{Mark: uint64(s.Mark())}}
		stored[p] = !m.ever[id]
		m.ever[id] = true
	}
	if before == nil {
		return counts, false
	}

	// As a capture does, in the order of a manifest.
	var l signs.Losses
	old := slices.SortedFunc(maps.Keys(before), manifest.Compare)
	for _, p := range slices.SortedFunc(maps.Keys(m.entries), manifest.Compare) {
		for ; len(old) > 0 && manifest.Compare(old[0], p) < 0; old = old[1:] {
			l.Add(before[old[0]])
		}
		var next *manifest.Entry
		if len(old) > 0 {
			next = before[old[0]]
		}
		if was := before[p]; was != nil {
			old = old[1:]
			counts.File(m.entries[p], was, stored[p])
		} else {
			counts.File(m.entries[p], l.Predecessor(p, next), stored[p])
		}
	}
	for _, p := range old {
		l.Add(before[p])
	}
	counts.Done(&l)
	m.state = m.state.After(&counts)
	return counts, m.state.Suspect()
}
