package stores_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"knowngood/storage"
	"knowngood/storage/s3"
	"knowngood/storage/storagetest"
	"knowngood/storage/stores"
	"knowngood/storage/throttle"
)

func TestURL(t *testing.T) {
	t.Run("opens a directory, as a path does", testADirectoryIsOpenedByPathOrURL)
	t.Run("opens a bucket", testABucketIsOpenedByURL)
	t.Run("is refused when it cannot be meant", testWhatCannotBeMeantIsRefused)
	t.Run("that can be opened passes the check without any connection", testWhatCanBeOpenedPassesTheCheckWithoutAnyConnection)
	t.Run("a redacted URL shows no secrets", testRedactedURLsTellNoSecrets)
}

func testADirectoryIsOpenedByPathOrURL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b", "ü%41", "repo")
	for _, u := range []string{path, "file://" + path[:strings.Index(path, "a b")] + "a%20b/ü%2541/repo"} {
		if _, err := stores.Open(t.Context(), u, stores.Options{}); !errors.Is(err, storage.ErrNoStore) {
			t.Fatalf("open %s before it was created: %v, want ErrNoStore", u, err)
		}
	}
	s, err := stores.Create(t.Context(), path, stores.Options{Limits: throttle.Limits{Upload: throttle.Rate(1 << 30)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "k", []byte("x"), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(path, "k")); err != nil || string(b) != "x" {
		t.Errorf("the file has %q, %v", b, err)
	}
	for _, u := range []string{path + "/", "file://" + path[:strings.Index(path, "a b")] + "a%20b/%C3%BC%2541/repo"} {
		s, err := stores.Open(t.Context(), u, stores.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := storage.Append(t.Context(), nil, s, "k", 0, -1); err != nil || string(b) != "x" {
			t.Errorf("%s: read %q, %v", u, b, err)
		}
	}
}

func testABucketIsOpenedByURL(t *testing.T) {
	server := storagetest.VersityGW(t)
	server.Setenv(t)
	server.Bucket(t, "bucket", storagetest.PlainBucket)
	for _, u := range []string{server.URL("bucket", "deep/prefix"), server.URL("bucket", "deep/prefix/") + "&path_style=true"} {
		s, err := stores.Create(t.Context(), u, stores.Options{Limits: throttle.Limits{Download: throttle.Rate(1 << 30)}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), "k", []byte("x"), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, ok := storage.Capability[storage.Counter](s); !ok {
			t.Error("the decorated store lost its counter")
		}
	}
	_, err := stores.Create(t.Context(), server.URL("missing", ""), stores.Options{})
	if err != nil {
		t.Fatalf("opening asks nothing when the region is given: %v", err)
	}
	withoutRegion, _, _ := strings.Cut(server.URL("missing", ""), "&region")
	_, err = stores.Create(t.Context(), withoutRegion, stores.Options{})
	if !errors.Is(err, storage.ErrNoStore) || !strings.Contains(err.Error(), "create the bucket") {
		t.Errorf("a missing bucket: %v, want ErrNoStore with a hint", err)
	}
}

func testWhatCannotBeMeantIsRefused(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"", "scheme"},
		{"relative/path", "absolute"},
		{"./path", "absolute"},
		{"ftp://host/path", `scheme is "ftp"`},
		{"https://s3.example.com/bucket", `scheme is "https"`},
		{"file://host/path", "three slashes"},
		{"file:path", "absolute"},
		{"file:///path?x=1", "no parameters"},
		{"file:///path#x", "fragment"},
		{"s3:///prefix", "bucket is missing"},
		{"s3:bucket", "bucket is missing"},
		{"s3://host:9000/bucket", "bucket is missing"},
		{"s3://key:hunter2@bucket/prefix", "credentials in it"},
		{"s3://key@bucket", "credentials in it"},
		{"s3://bucket?endpoint=https://key:hunter2@host", "credentials in it"},
		{"s3://bucket?access_key=hunter2", `unknown parameter "access_key"`},
		{"s3://bucket?Region=eu", `unknown parameter "Region"`},
		{"s3://bucket?region=", "needs one value"},
		{"s3://bucket?region=a&region=b", "needs one value"},
		{"s3://bucket?path_style=maybe", "true or false"},
		{"s3://bucket?region=%zz", "do not parse"},
		{"s3://bucket?endpoint=host:9000", "want https://host"},
		{"s3://bucket?endpoint=https://host/path", "want https://host"},
		{"s3://B/x", "bucket name"},
		{"s3://bucket/a//b", "invalid object key"},
		{"s3://bucket/../b", "invalid object key"},
		{"s3://bucket?ca=/no/such/file", "/no/such/file"},
		{"s3://bucket:hunter2@/%zz", "does not parse"},
		{"s3://bucket?endpoint=https://host:99999", "from 1 to 65535"},
		{"s3://bucket?endpoint=https://:9000", "want https://host"},
		{"/path\x00x", "NUL"},
		{"s3://Bad_Bucket", ""}, // some servers have such
		{"s3://buck_et/p", ""},
	} {
		checked := errors.Join(stores.Check(c.url)...)
		if c.want == "" {
			if !errors.Is(checked, s3.ErrBucketName) || !strings.Contains(checked.Error(), "lower-case letters") {
				t.Errorf("%q is checked with %v", c.url, checked)
			}
			continue
		}
		_, err := stores.Open(t.Context(), c.url, stores.Options{})
		switch {
		case checked == nil || !strings.Contains(checked.Error(), c.want) || strings.Contains(checked.Error(), "hunter2"):
			t.Errorf("%q is checked with %v, want something with %q", c.url, checked, c.want)
		case err == nil:
			t.Errorf("%q was opened", c.url)
		case !strings.Contains(err.Error(), c.want):
			t.Errorf("%q: %v, want something with %q", c.url, err, c.want)
		case strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%q: the error tells the secret: %v", c.url, err)
		}
	}
}

func testWhatCanBeOpenedPassesTheCheckWithoutAnyConnection(t *testing.T) {
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	for _, u := range []string{"/srv/repo", "file:///srv/a%20b", "s3://bucket", "s3://bucket/deep/prefix/", "s3://my.bucket-1/p?region=eu-central-1",
		"s3://bucket/p?endpoint=http://127.0.0.1:1&region=us-east-1&path_style=true&profile=other", "s3://bucket?endpoint=https://[::1]:9000/&path_style=0"} {
		if err := stores.Check(u); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func testRedactedURLsTellNoSecrets(t *testing.T) {
	for url, want := range map[string]string{
		"/srv/repo":             "/srv/repo",
		"file:///srv/repo":      "file:///srv/repo",
		"s3://bucket/prefix":    "s3://bucket/prefix",
		"s3://k:hunter2@b/p":    "s3://…@b/p",
		"s3://b?secret=hunter2": "s3://b?secret=…",
		"s3://b/p?region=r&endpoint=https://k:hunter2@h:9": "s3://b/p?endpoint=https://…@h:9&region=r",
		"s3:hunter2":           "s3:…",
		"s3://b/%zz?x=hunter2": "s3:…",
		"hunter2\x00":          "?:…",
	} {
		if have := stores.Redact(url); have != want {
			t.Errorf("%q is shown as %q, want %q", url, have, want)
		}
	}
}
