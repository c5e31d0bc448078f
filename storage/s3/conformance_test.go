package s3_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"knowngood/storage"
	"knowngood/storage/s3"
	"knowngood/storage/storagetest"
)

func TestBucketsKeepTheContract(t *testing.T) {
	for _, c := range []struct {
		name     string
		server   func(testing.TB) *storagetest.Server
		kind     storagetest.BucketKind
		features []storagetest.Feature
	}{
		{"versitygw without versions", storagetest.PlainVersityGW, storagetest.PlainBucket, nil},
		{"versitygw with locks", storagetest.VersityGW, storagetest.LockBucket, []storagetest.Feature{storagetest.Versions, storagetest.Locks}},
		{"minio without versions", storagetest.MinIO, storagetest.PlainBucket, nil},
		{"minio with versions", storagetest.MinIO, storagetest.VersionedBucket, []storagetest.Feature{storagetest.Versions}},
		{"minio with locks", storagetest.MinIO, storagetest.LockBucket, []storagetest.Feature{storagetest.Versions, storagetest.Locks}},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := c.server(t)
			server.Setenv(t)
			server.Bucket(t, "contract", c.kind)
			var n atomic.Int64
			storagetest.Run(t, func(t *testing.T) storage.Store {
				s, err := s3.Open(t.Context(), s3.Config{
					Bucket:   "contract",
					Prefix:   fmt.Sprintf("store/%d", n.Add(1)),
					Endpoint: server.Endpoint,
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(s.Close)
				return s
			}, c.features...)
		})
	}
}
