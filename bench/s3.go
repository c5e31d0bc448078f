package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"knowngood/internal/treetest"
	"knowngood/storage/storagetest"
)

const (
	addedDelay = 50 * time.Millisecond // to every request
	bucket     = "bench"
)

// remote compares the sides on an S3 server that is far away.
type remote struct {
	*bench
	tree  *tree
	proxy *proxy
	env   []string
	want  treetest.Tree
	file  string // that is restored by itself
	sides []*side
	work  string
}

func (b *bench) s3(ctx context.Context, t *tree) error {
	server := storagetest.PlainVersityGW(b.stage)
	server.Bucket(b.stage, bucket, storagetest.PlainBucket)
	p, err := startProxy(server.Endpoint, addedDelay)
	if err != nil {
		return err
	}
	defer p.close()
	r := &remote{bench: b, tree: t, proxy: p, env: server.Env(b.stage), work: filepath.Join(b.dir, "work")}
	defer b.remove(r.work)
	r.sides = append(r.sides, &side{name: nameOurs})
	if slices.Contains(b.peers, nameRestic) {
		r.sides = append(r.sides, &side{name: nameRestic})
	}
	if r.file, err = middleFile(ctx, t.path); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context, *side, int) (Sample, error)
	}{{stepFirst, r.first}, {stepRestore, r.restore}, {stepFile, r.restoreFile}} {
		measured := wants(b.steps, step.name)
		if !measured && step.name != stepFirst {
			continue
		}
		runs := b.runs
		if !measured {
			runs = 1 // for the others to restore from
		}
		for run := range runs {
			for _, s := range r.sides {
				sample, err := step.do(ctx, s, run)
				if err != nil {
					return fmt.Errorf("S3, %s: %s: %w", step.name, s.name, err)
				}
				if measured {
					b.report.add(b.current, step.name, s.name, run, sample)
				}
			}
		}
	}
	return nil
}

// middleFile is a file in the midst of a tree.
func middleFile(ctx context.Context, dir string) (string, error) {
	var files []string
	err := eachFile(ctx, dir, func(path string, info fs.FileInfo) error {
		if info.Size() > 0 {
			files = append(files, path)
		}
		return nil
	})
	if err != nil || len(files) == 0 {
		return "", errors.Join(err, fmt.Errorf("%s holds no file", dir))
	}
	return files[len(files)/2], nil
}

// first captures into a new repository.
func (r *remote) first(ctx context.Context, s *side, run int) (Sample, error) {
	dir, err := r.coldStart(s)
	if err != nil {
		return Sample{}, err
	}
	prefix := fmt.Sprintf("%s-%d", s.name, run)
	s.place = place{repo: "s3:" + r.proxy.URL + "/" + bucket + "/" + prefix, keys: filepath.Join(r.work, "keys", prefix), home: dir, env: r.env}
	if s.name == nameOurs {
		s.place.repo = "s3://" + bucket + "/" + prefix + "?endpoint=" + r.proxy.URL + "&region=" + storagetest.Region
	}
	if err := os.MkdirAll(s.place.keys, 0o700); err != nil {
		return Sample{}, err
	}
	s.contender = r.contender(s.name, s.place)
	if err := runQuietly(ctx, s.Init()); err != nil {
		return Sample{}, err
	}
	if _, _, err := readAll(ctx, r.tree.path); err != nil {
		return Sample{}, err
	}
	sample, err := r.measure(ctx, s.Capture(r.tree.path), false)
	sample.Stored = sample.Uploaded
	return sample, err
}

// coldStart gives a side an empty directory for caches and state, and an empty
// target.
func (r *remote) coldStart(s *side) (home string, err error) {
	home, s.target = filepath.Join(r.work, s.name, "home"), filepath.Join(r.work, s.name, "target")
	return home, errors.Join(r.renew(home), r.renew(s.target))
}

func (r *remote) measure(ctx context.Context, c command, durable bool) (Sample, error) {
	r.proxy.take()
	sample, err := measure(ctx, c, durable)
	t := r.proxy.take()
	sample.Requests, sample.Methods, sample.Uploaded = t.requests, t.methods, t.uploaded
	return sample, err
}

func (r *remote) restore(ctx context.Context, s *side, _ int) (Sample, error) {
	if _, err := r.coldStart(s); err != nil {
		return Sample{}, err
	}
	r.settle(ctx)
	sample, err := r.measure(ctx, s.Restore(s.target), true)
	if err != nil {
		return sample, err
	}
	if r.want == nil {
		r.want = treetest.Snapshot(r.stage, r.tree.path)
	}
	return sample, equal(r.stage, r.want, s.target+r.tree.path)
}

func (r *remote) restoreFile(ctx context.Context, s *side, _ int) (Sample, error) {
	if _, err := r.coldStart(s); err != nil {
		return Sample{}, err
	}
	sample, err := r.measure(ctx, s.RestoreFile(r.file, s.target), true)
	if err != nil {
		return sample, err
	}
	want, err := os.ReadFile(r.file)
	if err != nil {
		return sample, err
	}
	return sample, holds(ctx, s.target, filepath.Base(r.file), want)
}

// holds demands one file of the name and content, somewhere below a directory.
func holds(ctx context.Context, dir, name string, want []byte) error {
	found := 0
	err := eachFile(ctx, dir, func(path string, _ fs.FileInfo) error {
		got, err := os.ReadFile(path)
		if err == nil && (filepath.Base(path) != name || string(got) != string(want)) {
			err = fmt.Errorf("%s is not the file that was asked for", path)
		}
		found++
		return err
	})
	if err == nil && found != 1 {
		err = fmt.Errorf("%s holds %d files, want 1", dir, found)
	}
	return err
}
