package index

import (
	"bytes"
	"errors"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"knowngood/internal/userdir"
	"knowngood/storage/pack"
)

func openCache(t testing.TB) *Cache {
	t.Helper()
	c, err := OpenCache(userdir.At(t.TempDir()).In("index"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func adopt(t testing.TB, c *Cache, info Info, x *Body) *File {
	t.Helper()
	f, err := c.Adopt(info, x)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// bodyFrom reads a file back into a body.
func bodyFrom(f *File) *Body {
	x := &Body{Len: f.len(), Gone: f.info.Gone}
	for i := range f.packs.count {
		x.Packs = append(x.Packs, f.pack(i))
	}
	for i := range f.frames.count {
		x.Frames = append(x.Frames, f.frame(i))
	}
	x.Entries = func(yield func(Entry) bool) {
		for i := range f.len() {
			if !yield(f.entry(i)) {
				return
			}
		}
	}
	return x
}

func TestCache(t *testing.T) {
	t.Run("a run stays in the cache", aRunStaysInTheCache)
	t.Run("a run of another user's is read, and not mapped", aRunOfAnotherUsersIsNotMapped)
	t.Run("keep removes the other runs", keepRemovesTheOtherRuns)
	t.Run("a damaged file does not open, or holds nothing", aDamagedFileDoesNotOpenOrHoldsNothing)
	t.Run("opening a run reads little of it", openingARunReadsLittleOfIt)
	t.Run("what dead processes left is removed", whatDeadProcessesLeftIsRemoved)
	t.Run("what is in the place of its files stops nothing", whatIsInThePlaceOfItsFilesStopsNothing)
	t.Run("a failed write leaves nothing", aFailedWriteLeavesNothing)
	t.Run("a full disk is named with the way out", aFullDiskIsNamedWithTheWayOut)
	t.Run("a cache that cannot be is an error", aCacheThatCannotBeIsAnError)
	t.Run("seek finds the place however the IDs are spread", seekFindsThePlaceHoweverTheIDsAreSpread)
}

func aRunStaysInTheCache(t *testing.T) {
	c := openCache(t)
	info := Info{Hash: [32]byte{7}, Generation: 9, Size: 77, Replaces: [][32]byte{{1}, {2}}, Entries: 4, Gone: 1}
	f := adopt(t, c, info, sampleBody())
	f.Close()
	again, err := OpenCache(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	f, err = again.Open(info.Hash)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !reflect.DeepEqual(f.Info(), info) || !sameBody(bodyFrom(f), sampleBody()) {
		t.Fatalf("it holds something else: %+v", f.Info())
	}
	if runs, err := c.Runs(); err != nil || !slices.Equal(runs, [][32]byte{info.Hash}) {
		t.Fatalf("runs %x, %v", runs, err)
	}
	st, err := os.Stat(c.dir.Path(runName(info.Hash)))
	if err != nil || st.Mode() != 0o600 {
		t.Fatalf("mode %v, %v", st.Mode(), err)
	}
	if err := c.Remove(info.Hash); err != nil {
		t.Fatal(err)
	}
	if _, ok := f.find(ptr(idOf(1))); !ok {
		t.Fatal("a removed run is lost to those who have it open")
	}
	if _, err := c.Open(info.Hash); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("error %v", err)
	}
	if err := c.Remove(info.Hash); err != nil {
		t.Fatalf("removing what is not there: %v", err)
	}
}

func ptr(id [32]byte) *[32]byte { return &id }

func aRunOfAnotherUsersIsNotMapped(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving files away takes root")
	}
	c := openCache(t)
	f := adopt(t, c, Info{Hash: [32]byte{7}}, sampleBody())
	f.Close()
	names, err := c.dir.Names()
	if err != nil || len(names) != 1 {
		t.Fatalf("%v, %v", names, err)
	}
	path := c.dir.Path(names[0])
	file, err := os.Open(path)
	if err == nil {
		err = os.Chown(path, 65534, 65534)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f, err = mapFile(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := f.find(ptr(idOf(5))); !ok {
		t.Fatal("its chunks are not found")
	}
	x, err := mapFile(file)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := os.Truncate(path, 0); err != nil { // to read a mapping would end the process
		t.Fatal(err)
	}
	if !f.Whole() {
		t.Error("what was read before is damaged since")
	}
}

func keepRemovesTheOtherRuns(t *testing.T) {
	c := openCache(t)
	for i := range byte(4) {
		adopt(t, c, Info{Hash: [32]byte{i}}, sampleBody()).Close()
	}
	if err := c.Keep([]Info{{Hash: [32]byte{1}}, {Hash: [32]byte{3}}, {Hash: [32]byte{9}}}); err != nil {
		t.Fatal(err)
	}
	runs, err := c.Runs()
	slices.SortFunc(runs, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	if err != nil || !slices.Equal(runs, [][32]byte{{1}, {3}}) {
		t.Fatalf("runs %x, %v", runs, err)
	}
}

func aDamagedFileDoesNotOpenOrHoldsNothing(t *testing.T) {
	c := openCache(t)
	hash := [32]byte{7}
	adopt(t, c, Info{Hash: hash, Generation: 1}, sampleBody()).Close()
	path := c.dir.Path(runName(hash))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if f, err := c.Open(hash); !errors.Is(err, ErrDamaged) {
			t.Fatalf("%s: opened: %v, error %v", what, f != nil, err)
		}
	}
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 0x10
		refused("a flipped bit", b)
		refused("a cut", whole[:i])
		refused("zeros from somewhere on", append(bytes.Clone(whole[:i]), make([]byte, len(whole)-i)...))
	}
	refused("more bytes", append(bytes.Clone(whole), 0))

	// Files with right checksums whose numbers lead astray.
	written := func(change func([]byte)) []byte {
		b := bytes.Clone(whole[:len(whole)-4-footerLen])
		change(b)
		var out bytes.Buffer
		w := newBlockWriter(&out)
		w.write(b)
		if err := w.finish(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	refused("too many packs", written(func(b []byte) { b[60] = 3 }))
	refused("more of everything than memory", written(func(b []byte) { copy(b[56:76], bytes.Repeat([]byte{0xff}, 20)) }))
	frames := headerLen + 2*packLen
	for what, change := range map[string]func([]byte){
		"a frame in no pack":  func(b []byte) { b[frames] = 2 },
		"a chunk in no frame": func(b []byte) { b[frames+3*frameLen+2*entryLen+32] = 9 },
	} {
		if err := os.WriteFile(path, written(change), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := c.Open(hash)
		if err != nil {
			t.Fatal(err)
		}
		table := tableOf(c, f)
		if loc, ok := table.Lookup(idOf(1 << 60)); ok || f.Whole() {
			t.Errorf("%s: found %v at %+v", what, ok, loc)
		}
		table.Close()
	}

	if err := os.WriteFile(c.dir.Path(runName([32]byte{8})), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Open([32]byte{8}); !errors.Is(err, ErrDamaged) {
		t.Fatalf("another run's file: error %v", err)
	}
}

// used is how many bytes of a file were read.
func (b *blocks) used() (n int) {
	for i := range b.verified {
		n += bits.OnesCount64(b.verified[i].Load()) * blockLen
	}
	return n + len(b.sums) + footerLen
}

// openLarge opens a run of n chunks that is in the cache.
func openLarge(t testing.TB, c *Cache, n int) (*File, [][32]byte) {
	t.Helper()
	table := NewTable(c)
	defer table.Close()
	ids := fill(t, table, n)
	u, err := table.Unsaved()
	if err != nil {
		t.Fatal(err)
	}
	hash := [32]byte{9}
	for x := range Merge(u.layers, MaxEntries, MergeOptions{}) {
		adopt(t, c, Info{Hash: hash}, x).Close()
	}
	f, err := c.Open(hash)
	if err != nil {
		t.Fatal(err)
	}
	return f, ids
}

func openingARunReadsLittleOfIt(t *testing.T) {
	f, ids := openLarge(t, openCache(t), 100_000)
	defer f.Close()
	if n := f.used(); n > 20<<10 {
		t.Errorf("opening a run of %d bytes read %d", len(f.data), n)
	}
	for i, id := range ids[:10] {
		before := f.used()
		if _, ok := f.find(&id); !ok {
			t.Fatal("not found")
		}
		if n := f.used() - before; n > 4*blockLen && i > 0 {
			t.Errorf("a lookup read %d bytes", n)
		}
	}
}

func whatDeadProcessesLeftIsRemoved(t *testing.T) {
	c := openCache(t)
	living, err := c.temp()
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	dead := c.dir.Path(tempPrefix + "123")
	if err := os.WriteFile(dead, []byte("half a run"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCache(c.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dead process's file: %v", err)
	}
	if _, err := os.Stat(living.Name()); err != nil {
		t.Errorf("the living process's file: %v", err)
	}
}

func whatIsInThePlaceOfItsFilesStopsNothing(t *testing.T) {
	hash := [32]byte{9}
	for what, put := range map[string]func(path string) error{
		"a directory":            func(path string) error { return os.Mkdir(path, 0o700) },
		"a directory with files": func(path string) error { return os.MkdirAll(filepath.Join(path, "theirs"), 0o700) },
		"a link to nowhere":      func(path string) error { return os.Symlink("/nowhere", path) },
		"a link elsewhere":       func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a pipe":                 func(path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		t.Run(what, func(t *testing.T) {
			c := openCache(t)
			for _, name := range []string{tempPrefix + "1", "1" + finderSuffix, "1" + newSuffix, runName(hash), "1"} {
				if err := put(c.dir.Path(name)); err != nil {
					t.Fatal(err)
				}
			}
			c, err := OpenCache(c.dir)
			if err != nil {
				t.Fatal(err)
			}
			notes := 0
			c.Note = func(error) { notes++ }
			if all, err := c.finders(); len(all) > 0 || err != nil {
				t.Fatalf("%v, %v", all, err)
			}
			if all, err := c.held(func(string) bool { return false }); len(all) > 0 || err != nil {
				t.Fatalf("%v, %v", all, err)
			}
			if _, err := c.Open(hash); err == nil {
				t.Fatal("it opens as a run")
			}
			if err := c.Remove(hash); err != nil {
				t.Fatal(err)
			}
			adopt(t, c, Info{Hash: hash}, sampleBody()).Close()

			kept, err := filepath.Glob(c.dir.Path("*.moved-*", "theirs"))
			if err != nil || len(kept) != notes || (notes == 3) != (what == "a directory with files") {
				t.Errorf("%d notes, %v is kept, %v", notes, kept, err)
			}
		})
	}
}

func aFailedWriteLeavesNothing(t *testing.T) {
	c := openCache(t)
	bad := bodyOf(nil, nil)
	bad.Len = 1
	if _, err := c.Adopt(Info{}, bad); err == nil {
		t.Fatal("a body with fewer chunks than it says was stored")
	}
	if names, err := c.names(); err != nil || len(names) > 0 {
		t.Fatalf("left behind: %v, %v", names, err)
	}
}

func aFullDiskIsNamedWithTheWayOut(t *testing.T) {
	c := openCache(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	err = c.fail(writeFile(full, Info{}, sampleBody()))
	if !errors.Is(err, ErrCache) || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), filepath.Dir(c.dir.String())) || !strings.Contains(err.Error(), "free some space there, or choose another with --state-dir") {
		t.Fatalf("error %v", err)
	}
}

func aCacheThatCannotBeIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCache(userdir.At(file).In("index")); err == nil || !strings.Contains(err.Error(), file) {
		t.Fatalf("error %v", err)
	}
}

func seekFindsThePlaceHoweverTheIDsAreSpread(t *testing.T) {
	c := openCache(t)
	rapid.Check(t, func(t *rapid.T) {
		shift := rapid.SampledFrom([]uint{0, 8, 32, 56}).Draw(t, "shift") // all IDs in a corner
		numbers := rapid.SliceOfDistinct(rapid.Custom(func(t *rapid.T) uint64 {
			v := rapid.Uint64().Draw(t, "id")
			if rapid.Bool().Draw(t, "clustered") {
				v = v%64 + 1<<40
			}
			return v >> shift
		}), func(v uint64) uint64 { return v }).Draw(t, "ids")
		slices.Sort(numbers)
		x := &Body{Packs: []pack.Ref{packOf(1)}, Frames: []Frame{{0, 8, 100, 300}}, Len: len(numbers)}
		x.Entries = func(yield func(Entry) bool) {
			for _, n := range numbers {
				if !yield(Entry{ID: idOf(n), Len: 1}) {
					return
				}
			}
		}
		f, err := c.spill(x)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, k := range append(rapid.SliceOf(rapid.Uint64()).Draw(t, "others"), append(numbers, 0, 1<<64-1)...) {
			for _, after := range []byte{0, 1} {
				id := idOf(k)
				id[31] = after
				want := sort.Search(len(numbers), func(i int) bool { return bytes.Compare(ptr(idOf(numbers[i]))[:], id[:]) >= 0 })
				if got := f.seek(&id); got != want {
					t.Fatalf("%x at %d, want %d", id, got, want)
				}
				_, found := f.find(&id)
				if there := slices.Contains(numbers, k) && after == 0; found != there {
					t.Fatalf("%x found: %v", id, found)
				}
			}
		}
	})
}
