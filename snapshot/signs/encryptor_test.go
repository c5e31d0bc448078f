package signs_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
)

// encryptor is how ransomware treats a file. It returns the new name.
type encryptor struct {
	name   string
	random bool // names
	file   func(r *rand.Rand, name string, content []byte) (string, []byte)
}

var encryptors = []encryptor{
	{"in place, the whole file", false, func(r *rand.Rand, name string, b []byte) (string, []byte) { return name, ciphertext(r, len(b)) }},
	{"in place, 4 KiB of each MiB", false, func(r *rand.Rand, name string, b []byte) (string, []byte) { return name, parts(r, b, 4<<10, 1<<20) }},
	{"a new file, and the old one removed", false, func(r *rand.Rand, name string, b []byte) (string, []byte) {
		return name + ".locked", append(ciphertext(r, len(b)), "key=0123"...)
	}},
	{"renamed, and the first half", false, func(r *rand.Rand, name string, b []byte) (string, []byte) {
		return strings.TrimSuffix(name, path.Ext(name)) + ".crypt", parts(r, b, len(b)/2, len(b)+1)
	}},
	{"a new file under a random name", true, func(r *rand.Rand, name string, b []byte) (string, []byte) {
		return fmt.Sprintf("%s/%016x", path.Dir(name), r.Uint64()), ciphertext(r, len(b))
	}},
}

// parts encrypts some bytes of each stretch.
func parts(r *rand.Rand, b []byte, n, of int) []byte {
	out := slices.Clone(b)
	for at := 0; at < len(out); at += of {
		end := min(len(out), at+n)
		copy(out[at:end], ciphertext(r, end-at))
	}
	return out
}

// office is a share with documents, pictures, tables, archives and a few large files.
func office(r *rand.Rand) tree {
	t := tree{}
	for i := range 1000 {
		name := fmt.Sprintf("share/team%02d/file%04d", i%23, i)
		switch i % 8 {
		case 0:
			t[name+".jpg"] = photo(r)
		case 1, 2:
			t[name+".docx"] = slices.Concat([]byte("PK\x03\x04\x14\x00\x06\x00\x08\x00"), deflated(text(r, 20000)))
		case 3:
			t[name+".csv"] = logLines(r, 9000)
		case 4:
			t[name+".pdf"] = slices.Concat([]byte("%PDF-1.5\n"), text(r, 700), deflated(text(r, 30000)))
		case 5:
			ext := oneExtension(r)
			t[name+ext] = anyReal(r, ext)
		default:
			t[name+".txt"] = text(r, 300+r.IntN(9000))
		}
	}
	for i := range 2 {
		t[fmt.Sprintf("share/base%d.db", i)] = slices.Concat([]byte("SQLite format 3\x00"), text(r, 3<<20))
	}
	return t
}

// work is what people do meanwhile.
func work(r *rand.Rand, t tree, run int) {
	names := slices.Sorted(maps.Keys(t))
	for i := range 20 {
		p := names[r.IntN(len(names))]
		switch b, ok := t[p]; {
		case !ok || len(b) > 1<<20:
		case i == 0:
			delete(t, p)
		case path.Ext(p) == ".txt":
			t[p] = edited(r, b)
		case path.Ext(p) == ".docx":
			t[p] = slices.Concat([]byte("PK\x03\x04\x14\x00\x06\x00\x08\x00"), deflated(text(r, 20000)))
		case path.Ext(p) == ".jpg":
			t[p] = photo(r)
		}
		t[fmt.Sprintf("share/new/%05d-%d.txt", run, i)] = text(r, 2000)
	}
}

// attack lets an encryptor treat so many files in each run, in the order of their names,
// beside the work of people, and returns in which run it is seen and how many files were
// encrypted then; 0 when it is through before.
func attack(e encryptor, perRun int, seed uint64) (run, files int) {
	r := rand.New(rand.NewPCG(seed, uint64(perRun)))
	t, m := office(r), &machine{}
	m.run(t)
	for run := range 5 { // what was before
		work(r, t, run)
		if _, suspect := m.run(t); suspect {
			return -1, 0
		}
	}
	todo := slices.Sorted(maps.Keys(t))
	for run := 1; len(todo) > 0; run++ {
		work(r, t, run+5)
		for n := 0; n < perRun && len(todo) > 0; todo = todo[1:] {
			b, ok := t[todo[0]]
			if !ok || len(b) < 256 {
				continue
			}
			delete(t, todo[0])
			name, content := e.file(r, todo[0], b)
			t[name] = content
			n, files = n+1, files+1
		}
		if _, suspect := m.run(t); suspect {
			return run, files
		}
	}
	return 0, files
}

// seen is in how many runs each speed, in files a run, must have been seen; 0 when it
// cannot be.
var seen = map[int]int{1000: 1, 100: 1, 20: 1, 10: 5, 5: 11, 2: 40}

// seenUnder is that of random names. There only the balance of files that come and go
// shows anything, of which people make some, too.
var seenUnder = map[int]int{1000: 1, 100: 1, 20: 0, 10: 0, 5: 0, 2: 0}

func TestEncryptors(t *testing.T) {
	t.Parallel()

	t.Run("are seen", func(t *testing.T) {
		t.Parallel()
		testEncryptors(t, 1, 100)
	})
}

func testEncryptors(t *testing.T, lives uint64, speeds ...int) {
	for _, e := range encryptors {
		seen := seen
		if e.random {
			seen = seenUnder
		}
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			for _, speed := range speeds {
				var runs, files []int
				for life := range lives {
					run, n := attack(e, speed, life)
					if run < 0 || run > seen[speed] || run == 0 && seen[speed] > 0 {
						t.Errorf("%d files a run: seen in run %d after %d files, of seed %d", speed, run, n, life)
					}
					runs, files = append(runs, run), append(files, n)
				}
				t.Logf("%4d files a run: seen in run %d to %d, after %d to %d files", speed, slices.Min(runs), slices.Max(runs), slices.Min(files), slices.Max(files))
			}
		})
	}
}
