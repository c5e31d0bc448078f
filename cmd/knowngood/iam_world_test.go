package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"knowngood/cmd/knowngood/exit"
	"knowngood/storage/storagetest"
)

// iamWorld is a bucket with a repository of two hosts, one of them with the
// policy of a host that may only write.
type iamWorld struct {
	server *storagetest.Server
	bucket string
	admin  *machine // of host admin, with the identity
	web    *machine // of host web-7, without
}

const iamHost = "web-7"

// policy reads a policy of configs/iam as an operator does: with the names put in.
func policy(t *testing.T, name, bucket string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "configs", "iam", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer("BUCKET", bucket, "PREFIX", "prod", "HOST", iamHost).Replace(string(b))
}

// assume gets temporary credentials that may do what a policy allows.
func (w *iamWorld) assume(t *testing.T, policy string) credentials.Value {
	t.Helper()
	c, err := credentials.NewSTSAssumeRole(w.server.Endpoint, credentials.STSAssumeRoleOptions{
		AccessKey: w.server.AccessKey, SecretKey: w.server.SecretKey, Location: storagetest.Region, Policy: policy, DurationSeconds: 3600})
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.GetWithContext(nil)
	if err != nil {
		t.Fatalf("credentials for a policy: %v\n%s", err, policy)
	}
	return v
}

// with is a machine as m is, with the rights of a policy.
func (w *iamWorld) with(t *testing.T, m *machine, policy string) *machine {
	t.Helper()
	v := w.assume(t, policy)
	n := *m
	n.env = append(w.server.Env(t), "AWS_ACCESS_KEY_ID="+v.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+v.SecretAccessKey, "AWS_SESSION_TOKEN="+v.SessionToken)
	return &n
}

// client of the server with the rights of a policy, for what the program never does.
func (w *iamWorld) client(t *testing.T, policy string) *minio.Client {
	t.Helper()
	v := w.assume(t, policy)
	c, err := minio.New(strings.TrimPrefix(w.server.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(v.AccessKeyID, v.SecretAccessKey, v.SessionToken), Region: storagetest.Region})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newIAMWorld makes a repository whose second host is not joined yet.
func newIAMWorld(t *testing.T, server *storagetest.Server, bucket string, initFlags ...string) *iamWorld {
	t.Helper()
	dir := t.TempDir()
	// Without a region in the URL it is asked for, which is a right of its own.
	url := strings.ReplaceAll(server.URL(bucket, "prod"), "&region="+storagetest.Region, "")
	w := &iamWorld{server: server, bucket: bucket}
	w.admin = &machine{repo: url, identity: filepath.Join(dir, "identity"), state: filepath.Join(dir, "admin"), env: server.Env(t)}
	w.web = &machine{repo: url, state: filepath.Join(dir, "web")}
	w.admin.must(t, append([]string{"init", "--host", "admin", "--identity-type", "x25519"}, initFlags...)...)
	return w
}

// everything lists all objects and versions of the bucket.
func (w *iamWorld) everything(t *testing.T) (all []minio.ObjectInfo) {
	t.Helper()
	for o := range w.server.Client(t).ListObjects(t.Context(), w.bucket, minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		all = append(all, o)
	}
	return all
}

func denied(err error) bool { return minio.ToErrorResponse(err).Code == "AccessDenied" }

// mayNotPut demands that nothing can be put at keys of the repository.
func (w *iamWorld) mayNotPut(t *testing.T, c *minio.Client, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if _, err := c.PutObject(t.Context(), w.bucket, key, strings.NewReader("x"), 1, minio.PutObjectOptions{}); !denied(err) {
			t.Errorf("put %s: %v, want it denied", key, err)
		}
	}
}

// mayNotDelete demands that no object or version goes away, nor its lock.
func (w *iamWorld) mayNotDelete(t *testing.T, c *minio.Client, which func(key string) bool) {
	t.Helper()
	tried := 0
	for _, o := range w.everything(t) {
		if !which(o.Key) {
			continue
		}
		tried++
		for _, opts := range []minio.RemoveObjectOptions{{}, {VersionID: o.VersionID}, {VersionID: o.VersionID, GovernanceBypass: true}} {
			if err := c.RemoveObject(t.Context(), w.bucket, o.Key, opts); !denied(err) {
				t.Errorf("delete %s %+v: %v, want it denied", o.Key, opts, err)
			}
		}
	}
	if tried == 0 {
		t.Error("there was nothing to try to delete")
	}
}

// mayNotConfigure demands that the bucket stays as it is.
func (w *iamWorld) mayNotConfigure(t *testing.T, c *minio.Client) {
	t.Helper()
	mode, validity, unit := minio.Governance, uint(1), minio.Days
	for what, err := range map[string]error{
		"suspend versions":   c.SuspendVersioning(t.Context(), w.bucket),
		"set a default lock": c.SetObjectLockConfig(t.Context(), w.bucket, &mode, &validity, &unit),
		"set a policy":       c.SetBucketPolicy(t.Context(), w.bucket, ""),
		"remove the bucket":  c.RemoveBucketWithOptions(t.Context(), w.bucket, minio.RemoveBucketOptions{ForceDelete: true}),
	} {
		if !denied(err) {
			t.Errorf("%s: %v, want it denied", what, err)
		}
	}
}

// join lets host web-7 join by request, with the rights of the host's policy.
func (w *iamWorld) join(t *testing.T, policy string) []*outcome {
	t.Helper()
	w.web = w.with(t, w.web, policy)
	request := filepath.Join(t.TempDir(), "web-7.request")
	return []*outcome{
		w.web.run(t, "init", "--join", "--host", iamHost, "--trust-on-first-use", "--request", request),
		w.admin.run(t, "keys", "grant", "--host", "admin", request),
		w.web.run(t, "init", "--join", "--accept", "--host", iamHost),
	}
}

// capture takes snapshots by host web-7, and looks at them.
func (w *iamWorld) capture(t *testing.T, src string) []*outcome {
	t.Helper()
	run := func(args ...string) *outcome { return w.web.run(t, append(args, "--host", iamHost)...) }
	return []*outcome{
		run("snapshot", "--json", "--env", "web", src),
		run("snapshot", "--json", "--env", "web", src),
		run("list"), run("status"), run("show", "web@1"),
		run("forget", "web@1"), run("forget", "--undo", "web@1"),
	}
}

func allDone(t *testing.T, outcomes []*outcome) {
	t.Helper()
	for _, o := range outcomes {
		o.exits(t, exit.Done)
	}
}

// forgetLocks lets host web-7 forget which locks it has seen.
func (w *iamWorld) forgetLocks(t *testing.T) {
	t.Helper()
	for _, pattern := range []string{"repos/*/env", "repos/*/stores/*/locks"} {
		found, err := filepath.Glob(filepath.Join(w.web.state, pattern))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		if err := os.RemoveAll(found[0]); err != nil {
			t.Fatal(err)
		}
	}
}

// iamSource is a directory with a file.
func iamSource(t *testing.T) string {
	t.Helper()
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "file"), bytes.Repeat([]byte("content "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	return src
}

// hideARoot puts a delete marker on the newest root of host web-7.
func (w *iamWorld) hideARoot(t *testing.T) (show func()) {
	t.Helper()
	for _, o := range w.everything(t) {
		if !strings.HasPrefix(o.Key, "prod/hosts/web-7/roots/web/") {
			continue
		}
		if err := w.server.Client(t).RemoveObject(t.Context(), w.bucket, o.Key, minio.RemoveObjectOptions{}); err != nil {
			t.Fatal(err)
		}
		return func() {
			for _, marker := range w.everything(t) {
				if marker.Key != o.Key || !marker.IsDeleteMarker {
					continue
				}
				if err := w.server.Client(t).RemoveObject(t.Context(), w.bucket, o.Key, minio.RemoveObjectOptions{VersionID: marker.VersionID}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	t.Fatal("there is no root to hide")
	return nil
}

// seesHidden reports whether host web-7 names something that was hidden, and uses it all the same.
func (w *iamWorld) seesHidden(t *testing.T) bool {
	t.Helper()
	o := w.web.run(t, "list", "--host", iamHost)
	return strings.Contains(o.stderr.String(), "hidden by a delete marker") && strings.Contains(o.stdout.String(), "web@2")
}

// flipAPack changes a bit of the newest pack of host web-7, in a version on top,
// and returns what takes that away again.
func (w *iamWorld) flipAPack(t *testing.T) (undo func()) {
	t.Helper()
	c := w.server.Client(t)
	var key string
	var newest time.Time
	for _, o := range w.everything(t) {
		if strings.HasPrefix(o.Key, "prod/hosts/web-7/packs/") && o.IsLatest && o.LastModified.After(newest) {
			key, newest = o.Key, o.LastModified
		}
	}
	r, err := c.GetObject(t.Context(), w.bucket, key, minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	made, err := c.PutObject(t.Context(), w.bucket, key, bytes.NewReader(b), int64(len(b)), minio.PutObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := c.RemoveObject(t.Context(), w.bucket, key, minio.RemoveObjectOptions{VersionID: made.VersionID}); err != nil {
			t.Fatal(err)
		}
	}
}

// reportAndExamine lets who restores find a pack that was put over, and report it to
// host web-7, which finds the version beneath and stores nothing again.
func (w *iamWorld) reportAndExamine(t *testing.T, src string) {
	t.Helper()
	with := policy(t, "restore-policy.json", w.bucket)
	without := strings.ReplaceAll(with, "/damage/*", "/nothing/*")
	defer w.flipAPack(t)()

	o := w.with(t, w.admin.bare(t), without).run(t, "check", "--read-data")
	o.exits(t, exit.Damage)
	if says := o.stderr.String(); !strings.Contains(says, "the host cannot be notified (") || !strings.Contains(says, "Run on it: knowngood snapshot web --verify=data") {
		t.Errorf("it may not tell the host, and says %s", says)
	}
	o = w.with(t, w.admin.bare(t), with).run(t, "check", "--read-data")
	o.exits(t, exit.Damage)
	if says := o.stderr.String(); !strings.Contains(says, "1 object of host web-7 is missing or damaged: the host stores again what it still has") {
		t.Errorf("it tells the host, and says %s", says)
	}

	o = w.web.run(t, "snapshot", "--json", "--host", iamHost, "--env", "web", "--verify", src)
	o.exits(t, exit.Damage)
	if r := decode[snapshotResult](t, o.stdout.String()); r.HealedPacks != 0 || r.Status != "complete" || !strings.Contains(o.stderr.String(), "an older version of it verifies and is used") {
		t.Errorf("the host stores %+v: %s", r, &o.stderr)
	}
	reports := 0
	for _, o := range w.everything(t) {
		if strings.HasPrefix(o.Key, "prod/hosts/web-7/damage/") {
			reports++
		}
	}
	if reports != 1 {
		t.Errorf("there are %d damage reports", reports)
	}
}
