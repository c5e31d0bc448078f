package statement

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"knowngood/internal/wire"
)

func sampleBody() *RootBody {
	return &RootBody{
		Started: at, Finished: at.Add(time.Minute), Status: Partial,
		Manifest: ManifestRef{Kind: wire.KindManifest, Hash: [32]byte{1}, Size: 5000, Offset: 8, Length: 400},
		Content:  [32]byte{7}, Sources: []SourceCounts{{[8]byte{10}, 7, 3, 1 << 40}, {Tag: [8]byte{11}}}, ProtectedUntil: at.Add(time.Hour),
		Counts:    Counts{Entries: 10, Files: 7, Directories: 3, ContentBytes: 1 << 40, NewContentBytes: 99, StoredBytes: 50, Problems: 1},
		Witnesses: []Head{{"db", 3, [32]byte{6}}}, Version: "v1.2.3", Tags: []string{"before upgrade", "x"},
		Unknown: []wire.Field{{Tag: 903, Value: []byte("later")}},
	}
}

// suspectBody is the body of a suspect snapshot.
func suspectBody() *RootBody {
	x := sampleBody()
	x.Suspect = []Suspicion{{0, Shrank}, {1, Empty}, {1, NotMounted}}
	return x
}

func TestRootBody(t *testing.T) {
	t.Run("a root body is the vector and reads back", testARootBodyIsTheVectorAndReadsBack)
	t.Run("a root body is refused with", testARootBodyIsRefusedWith)
}

func testARootBodyIsTheVectorAndReadsBack(t *testing.T) {
	for name, x := range map[string]*RootBody{"root-body": sampleBody(), "suspect-root-body": suspectBody()} {
		b, err := x.AppendRecord([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		b, ok := bytes.CutPrefix(b, []byte("before"))
		if !ok {
			t.Fatal("the bytes before it are gone")
		}
		vector(t, name, b)
		got, err := ParseRootBody(b)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, x) {
			t.Fatalf("it reads back as %+v", got)
		}
	}
}

func testARootBodyIsRefusedWith(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*RootBody)
		want   error
	}{
		"no start":                            {func(x *RootBody) { x.Started = time.Time{} }, wire.ErrMalformed},
		"no end":                              {func(x *RootBody) { x.Finished = time.Time{} }, wire.ErrMalformed},
		"more sources than there may be":      {func(x *RootBody) { x.Sources = make([]SourceCounts, maxSources+1) }, wire.ErrMalformed},
		"no status":                           {func(x *RootBody) { x.Status = 0 }, wire.ErrMalformed},
		"a status of a newer version":         {func(x *RootBody) { x.Status = 3 }, wire.ErrVersion},
		"an empty container":                  {func(x *RootBody) { x.Manifest.Size = 0 }, wire.ErrMalformed},
		"a container over the limit":          {func(x *RootBody) { x.Manifest.Size = 256<<20 + 1 }, wire.ErrMalformed},
		"a table within the prelude":          {func(x *RootBody) { x.Manifest.Offset = 7 }, wire.ErrMalformed},
		"a table after its container":         {func(x *RootBody) { x.Manifest.Offset = 5001 }, wire.ErrMalformed},
		"a table that ends after it":          {func(x *RootBody) { x.Manifest.Length = 4993 }, wire.ErrMalformed},
		"a table of an overflowing length":    {func(x *RootBody) { x.Manifest.Length = 1<<64 - 8 }, wire.ErrMalformed},
		"a suspect source that is not there":  {func(x *RootBody) { x.Suspect = []Suspicion{{2, Shrank}} }, wire.ErrMalformed},
		"a suspect source without a reason":   {func(x *RootBody) { x.Suspect = []Suspicion{{1, 0}} }, wire.ErrMalformed},
		"suspect sources out of order":        {func(x *RootBody) { x.Suspect = []Suspicion{{1, Shrank}, {0, Shrank}} }, wire.ErrMalformed},
		"a reason given twice":                {func(x *RootBody) { x.Suspect = []Suspicion{{1, Shrank}, {1, Shrank}} }, wire.ErrMalformed},
		"an empty list of reasons":            {func(x *RootBody) { x.Unknown = []wire.Field{{Tag: 48, Value: []byte{0}}, x.Unknown[0]} }, wire.ErrMalformed},
		"witnesses out of order":              {func(x *RootBody) { x.Witnesses = []Head{{"web", 1, [32]byte{}}, {"db", 1, [32]byte{}}} }, wire.ErrMalformed},
		"a version that is no text":           {func(x *RootBody) { x.Version = "\xff" }, wire.ErrMalformed},
		"more tags than allowed":              {func(x *RootBody) { x.Tags = make([]string, maxTags+1) }, wire.ErrMalformed},
		"an unknown field that must be known": {func(x *RootBody) { x.Unknown[0].Tag = 904 }, wire.ErrVersion},
	} {
		t.Run(name, func(t *testing.T) {
			x := sampleBody()
			c.change(x)
			if _, err := x.AppendRecord(nil); !errors.Is(err, c.want) {
				t.Fatalf("error %v", err)
			}
		})
	}
}

func FuzzRootBody(f *testing.F) {
	for _, x := range []*RootBody{sampleBody(), suspectBody()} {
		b, err := x.AppendRecord(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		x, err := ParseRootBody(in)
		if err != nil {
			return
		}
		out, err := x.AppendRecord(nil)
		if err != nil || !bytes.Equal(in, out) {
			t.Fatalf("%x became %x, %v", in, out, err)
		}
	})
}
