package s3

import (
	"errors"
	"io"
	"strings"
	"testing"
)

func TestPrefix(t *testing.T) {
	t.Parallel()

	t.Run("a listing of another is refused", func(t *testing.T) {
		t.Parallel()
		for body, ok := range map[string]bool{
			`<?xml version="1.0"?><ListBucketResult><Name>b</Name><Prefix>hosts/h/</Prefix></ListBucketResult>`:                     true,
			`<ListBucketResult><Prefix>hosts%2Fh%2F</Prefix><EncodingType>url</EncodingType></ListBucketResult>`:                    true,
			`<ListBucketResult><Prefix></Prefix><KeyCount>0</KeyCount></ListBucketResult>`:                                          true,
			`<ListBucketResult><Contents><Key>hosts/h/x</Key></Contents><Prefix>other/</Prefix></ListBucketResult>`:                 true, // keys are compared one by one
			`<ListBucketResult><CommonPrefixes><Prefix>hosts/h/a/</Prefix></CommonPrefixes></ListBucketResult>`:                     true,
			`<ListBucketResult><Name>b</Name><Prefix>hosts/</Prefix><KeyCount>0</KeyCount></ListBucketResult>`:                      false,
			`<ListBucketResult><Owner><Prefix>x</Prefix></Owner><Prefix>hosts/g/</Prefix><KeyCount>0</KeyCount></ListBucketResult>`: false,
		} {
			r := &reply{ReadCloser: io.NopCloser(strings.NewReader(body)), element: "ListBucketResult", prefix: "hosts/h/"}
			read := make([]byte, len(body))
			n, err := io.ReadFull(r, read)
			if ok && (err != nil || string(read[:n]) != body) || !ok && !errors.Is(err, errNotAsked) {
				t.Errorf("%s: %q, %v", body, read[:n], err)
			}
		}
	})
}
