package s3_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/minio/minio-go/v7"

	"knowngood/storage"
	"knowngood/storage/s3"
	"knowngood/storage/storagetest"
)

func TestContract(t *testing.T) {
	t.Run("buckets keep the contract", testBucketsKeepTheContract)
}

func testBucketsKeepTheContract(t *testing.T) {
	locks := []storagetest.Feature{storagetest.Versions, storagetest.Locks}
	t.Run("versitygw without versions", func(t *testing.T) {
		testBucket(t, storagetest.PlainVersityGW(t), storagetest.PlainBucket)
	})
	t.Run("versitygw with locks", func(t *testing.T) {
		testBucket(t, storagetest.VersityGW(t), storagetest.LockBucket, locks...)
	})
	other := storagetest.MinIO(t)
	t.Run("minio without versions", func(t *testing.T) {
		testBucket(t, other, storagetest.PlainBucket)
	})
	t.Run("minio with locks", func(t *testing.T) {
		testBucket(t, other, storagetest.LockBucket, locks...)
	})
}

func testBucket(t *testing.T, server *storagetest.Server, kind storagetest.BucketKind, features ...storagetest.Feature) {
	server.Setenv(t)
	bucket := fmt.Sprintf("contract-%d", kind)
	server.Bucket(t, bucket, kind)
	var n atomic.Int64
	storagetest.Run(t, func(t *testing.T) storage.Store {
		return open(t, s3.Config{Bucket: bucket, Prefix: fmt.Sprintf("store/%d", n.Add(1)), Endpoint: server.Endpoint})
	}, features...)
	client := server.Client(t)
	storagetest.RunForeign(t, func(t *testing.T) (storage.Store, storagetest.Foreign) {
		prefix := fmt.Sprintf("store/%d", n.Add(1))
		s := open(t, s3.Config{Bucket: bucket, Prefix: prefix, Endpoint: server.Endpoint})
		return s, storagetest.Foreign{Name: func(name string) error {
			_, err := client.PutObject(t.Context(), bucket, prefix+"/"+name, strings.NewReader("x"), 1, minio.PutObjectOptions{})
			return err
		}}
	})
}
