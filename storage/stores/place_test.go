package stores_test

import (
	"testing"

	"knowngood/storage/stores"
)

func TestPlace(t *testing.T) {
	t.Parallel()
	t.Run("is one for all spellings of a URL", testSpellingsOfAURLNameOnePlace)
}

func testSpellingsOfAURLNameOnePlace(t *testing.T) {
	t.Parallel()
	groups := [][]string{
		{"/srv/a", "/srv/a/", "/srv//b/../a", "file:///srv/a", "file://localhost/srv/a", "file:///srv/%61/"},
		{"/srv/b"},
		{"s3://bucket/p", "s3://bucket/p/", "s3://bucket/p?region=us-east-1", "s3://bucket/p?region=eu-1&profile=x", "s3://bucket/p?endpoint=https://s3.eu-1.amazonaws.com"},
		{"s3://bucket/q"},
		{"s3://bucket2/p"},
		{"s3://bucket/p?endpoint=https://Example.com", "s3://bucket/p?endpoint=https://example.com:443/&region=us-east-1", "s3://bucket/p?path_style=true&ca=/file&endpoint=https%3A%2F%2Fexample.com"},
		{"s3://bucket/p?endpoint=http://example.com", "s3://bucket/p?endpoint=http://example.com:80"},
		{"s3://bucket/p?endpoint=http://example.com:9000"},
	}
	at := map[string]int{}
	for i, group := range groups {
		for _, u := range group {
			place := stores.Place(u)
			if place != stores.Place(group[0]) {
				t.Errorf("%s is at %s, and %s at %s", u, place, group[0], stores.Place(group[0]))
			}
			if redacted := stores.Place(stores.Redact(u)); redacted != place {
				t.Errorf("%s is at %s, and redacted at %s", u, place, redacted)
			}
			if j, ok := at[place]; ok && j != i {
				t.Errorf("%s and %s are at one place", u, groups[j][0])
			}
			at[place] = i
		}
	}
	if place := stores.Place("s3://key:hunter2@bucket/p?token=hunter2"); place != stores.Redact("s3://key:hunter2@bucket/p?token=hunter2") {
		t.Errorf("a URL that cannot be used is at %s", place)
	}
}
