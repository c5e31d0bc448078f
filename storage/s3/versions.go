package s3

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/minio/minio-go/v7"

	"knowngood/storage"
)

// Versions implements storage.Versioner. A bucket without versions has one
// version of each object, with an ID that only this store can use.
func (s *Store) Versions(ctx context.Context, key string) iter.Seq2[storage.Version, error] {
	return func(yield func(storage.Version, error) bool) {
		err := begin(ctx, key)
		stopped, last := false, ""
		if err == nil {
			err = s.retry.do(ctx, func() error {
				return s.versions(ctx, key, last, func(v storage.Version) bool {
					last = v.ID
					stopped = !yield(v, nil)
					return !stopped
				})
			})
		}
		if err != nil && !stopped {
			yield(storage.Version{}, s.bucket.fail(ctx, "versions", key, err))
		}
	}
}

// versions yields those of key after the one with the ID last, or all.
func (s *Store) versions(ctx context.Context, key, last string, yield func(storage.Version) bool) error {
	full := s.bucket.prefix + key
	seen := last == ""
	for info := range s.client.ListObjectsIter(ctx, s.bucket.name, minio.ListObjectsOptions{Prefix: full, Recursive: true, WithVersions: true}) {
		switch {
		case info.Err != nil:
			return info.Err
		case info.Key != full:
			return nil // the key itself comes before those it is a prefix of
		case !seen:
			seen = info.VersionID == last
			continue
		}
		v := storage.Version{ID: info.VersionID, Modified: info.LastModified, Marker: info.IsDeleteMarker}
		if !v.Marker {
			v.Size = info.Size
		}
		if !yield(v) {
			return nil
		}
	}
	return ctx.Err() // the iteration ends without an error when ctx does
}

// DeleteVersion implements storage.Purger.
func (s *Store) DeleteVersion(ctx context.Context, key, version string) error {
	err := begin(ctx, key)
	if err == nil {
		err = s.retry.do(ctx, func() error {
			return s.client.RemoveObject(ctx, s.bucket.name, s.bucket.prefix+key, minio.RemoveObjectOptions{VersionID: version})
		})
	}
	switch minio.ToErrorResponse(err).Code {
	case "NoSuchKey", "NoSuchVersion":
		return nil
	}
	return s.bucket.fail(ctx, "delete", key, err)
}

// Retention implements storage.Retainer.
func (s *Store) Retention(ctx context.Context, key, version string) (storage.Retention, error) {
	var r storage.Retention
	err := begin(ctx, key)
	if err == nil {
		r, err = s.retention(ctx, key, version)
	}
	return r, s.bucket.fail(ctx, "retention", key, err)
}

func (s *Store) retention(ctx context.Context, key, version string) (r storage.Retention, err error) {
	err = s.retry.do(ctx, func() error {
		mode, until, err := s.client.GetObjectRetention(ctx, s.bucket.name, s.bucket.prefix+key, version)
		if err == nil && *mode != "" && until != nil {
			r = storage.Retention{Mode: storage.RetentionMode(*mode), Until: *until}
		}
		return err
	})
	var misnamed xml.UnmarshalError
	switch {
	case minio.ToErrorResponse(err).Code == "NoSuchObjectLockConfiguration":
		return storage.Retention{}, nil // an object without a lock
	case errors.As(err, &misnamed):
		// versitygw sends an element of another name, which the library
		// cannot read.
		return s.retentionFromHeaders(ctx, key, version)
	}
	return r, err
}

// retentionFromHeaders is the second choice: a server leaves the headers out
// for those who may not see locks.
func (s *Store) retentionFromHeaders(ctx context.Context, key, version string) (storage.Retention, error) {
	var info minio.ObjectInfo
	err := s.retry.do(ctx, func() (err error) {
		info, err = s.client.StatObject(ctx, s.bucket.name, s.bucket.prefix+key, minio.StatObjectOptions{VersionID: version})
		return err
	})
	mode := info.Metadata.Get("X-Amz-Object-Lock-Mode")
	if err != nil || mode == "" {
		return storage.Retention{}, err
	}
	until, err := time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if err != nil {
		return storage.Retention{}, fmt.Errorf("the time that the lock ends: %w", err)
	}
	return storage.Retention{Mode: storage.RetentionMode(mode), Until: until}, nil
}

// checkLocks returns storage.ErrUnsupported for a bucket without Object Lock.
// There are servers that take a locked put into such a bucket, and lock
// nothing.
func (s *Store) checkLocks(ctx context.Context) error {
	if s.locks.Load() {
		return nil
	}
	err := s.retry.do(ctx, func() error {
		_, _, _, _, err := s.client.GetObjectLockConfig(ctx, s.bucket.name)
		return err
	})
	switch minio.ToErrorResponse(err).Code {
	case "":
		if err != nil {
			return err
		}
	case "ObjectLockConfigurationNotFoundError", "NoSuchBucket":
		return err
	}
	// Those who may not see the configuration may still put locked objects:
	// then the reply of the server has to suffice.
	s.locks.Store(true)
	return nil
}

// Retain implements storage.Retainer. It reads the present lock first, because
// there are servers that allow some accounts to shorten it.
func (s *Store) Retain(ctx context.Context, key, version string, r storage.Retention) error {
	err := begin(ctx, key)
	var now storage.Retention
	if err == nil {
		now, err = s.retention(ctx, key, version)
	}
	if err == nil {
		r.Until = wholeSeconds(r.Until)
		if r = now.Join(r); r.Mode != now.Mode || !r.Until.Equal(now.Until) {
			err = s.setRetention(ctx, key, version, r)
		}
	}
	return s.bucket.fail(ctx, "retain", key, err)
}

func (s *Store) setRetention(ctx context.Context, key, version string, r storage.Retention) error {
	mode := minio.RetentionMode(r.Mode)
	return s.retry.do(ctx, func() error {
		return s.client.PutObjectRetention(ctx, s.bucket.name, s.bucket.prefix+key, minio.PutObjectRetentionOptions{
			Mode:            &mode,
			RetainUntilDate: &r.Until,
			VersionID:       version,
		})
	})
}
