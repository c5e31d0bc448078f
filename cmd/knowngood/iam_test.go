package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

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

// assume gets temporary credentials that may do what a policy says.
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
		w.web.run(t, "init", "--join", "--host", iamHost, "--request", request),
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
		o.exits(t, exitDone)
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

func TestIAMPoliciesAllowWhatTheyAreForAndNothingElse(t *testing.T) {
	t.Parallel()
	server := storagetest.MinIO(t)
	for bucket, lock := range map[string][]string{"versions": nil, "locks": {"--lock", "governance", "--lock-keep", "1d"}} {
		t.Run(bucket, func(t *testing.T) {
			t.Parallel()
			kind := storagetest.VersionedBucket
			if lock != nil {
				kind = storagetest.LockBucket
			}
			server.Bucket(t, bucket, kind)
			w := newIAMWorld(t, server, bucket, lock...)
			src := iamSource(t)
			w.admin.must(t, "snapshot", "--host", "admin", "--env", "packs", src)
			host := policy(t, "host-policy.json", bucket)
			allDone(t, w.join(t, host))
			outcomes := w.capture(t, src)
			allDone(t, outcomes)
			if r := decode[snapshotResult](t, outcomes[1].stdout.String()); r.NewBytes != 0 {
				t.Errorf("the second snapshot stored %d bytes anew", r.NewBytes)
			}
			t.Run("a host puts below its own prefix and deletes nothing", func(t *testing.T) {
				c := w.client(t, host)
				w.mayNotPut(t, c, "elsewhere", "prod/descriptor", "prod/epochs/x", "prod/keys/x/y", "prod/certs/web-7/x", "prod/certs/admin/x", "prod/hosts/admin/roots/packs/x")
				w.mayNotDelete(t, c, func(string) bool { return true })
				w.mayNotConfigure(t, c)
				for _, o := range w.everything(t) {
					_, err := c.StatObject(t.Context(), bucket, o.Key, minio.StatObjectOptions{VersionID: o.VersionID})
					others := strings.HasPrefix(o.Key, "prod/hosts/admin/") || strings.HasPrefix(o.Key, "prod/keys/") || strings.HasPrefix(o.Key, "prod/probe/")
					if code := minio.ToErrorResponse(err).StatusCode; others != (code == 403) || !others && err != nil {
						t.Errorf("read %s: %v", o.Key, err)
					}
				}
				for o := range c.ListObjects(t.Context(), bucket, minio.ListObjectsOptions{Prefix: "prod/hosts/admin/", Recursive: true}) {
					if !denied(o.Err) {
						t.Errorf("it lists %s of another host: %v", o.Key, o.Err)
					}
				}
			})
			t.Run("a host sees what was hidden", func(t *testing.T) {
				w.hideARoot(t)
				if !w.seesHidden(t) {
					t.Error("a root that is hidden by a delete marker is not told of")
				}
			})
			t.Run("who restores reads everything and writes nothing", func(t *testing.T) {
				read := policy(t, "restore-policy.json", bucket)
				m := w.with(t, w.admin.bare(t), read)
				out := filepath.Join(t.TempDir(), "out")
				if list := m.must(t, "list", "--all-hosts"); !strings.Contains(list, "packs@1") || !strings.Contains(list, "web@2") {
					t.Errorf("it lists %s", list)
				}
				m.run(t, "restore", "web-7/web@2:"+src, "--target", out) // and says that its root was hidden
				want, err := os.ReadFile(filepath.Join(src, "file"))
				if err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(filepath.Join(out, "file")); err != nil || !bytes.Equal(got, want) {
					t.Errorf("restored %d bytes, %v", len(got), err)
				}
				m.must(t, "restore", "admin/packs@1:"+src, "--target", filepath.Join(t.TempDir(), "out"))
				c := w.client(t, read)
				w.mayNotPut(t, c, "elsewhere", "prod/descriptor", "prod/hosts/web-7/roots/web/x", "prod/hosts/web-7/packs/x/y")
				w.mayNotDelete(t, c, func(string) bool { return true })
				w.mayNotConfigure(t, c)
			})
			t.Run("who prunes announces, deletes packs, and never a root", func(t *testing.T) {
				may := policy(t, "prune-policy.json", bucket)
				m := w.with(t, w.admin.bare(t), may)
				m.must(t, "forget", "web-7/web@1")
				m.must(t, "prune", "--all-hosts", "--dry-run")
				m.must(t, "prune", "--all-hosts")
				c := w.client(t, may)
				w.mayNotPut(t, c, "elsewhere", "prod/descriptor", "prod/keys/x/y", "prod/certs/web-7/x", "prod/hosts/web-7/roots/web/x", "prod/hosts/web-7/roots/packs/x", "prod/hosts/web-7/packs/x/y")
				w.mayNotConfigure(t, c)
				w.mayNotDelete(t, c, func(key string) bool {
					return !strings.Contains(key, "/packs/") && !strings.Contains(key, "/manifests/") && !strings.Contains(key, "/index/") && !strings.Contains(key, "/probe/") ||
						strings.Contains(key, "/roots/")
				})
				for _, o := range w.everything(t) {
					if !strings.HasPrefix(o.Key, "prod/hosts/web-7/packs/") {
						continue
					}
					err := c.RemoveObject(t.Context(), bucket, o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID, GovernanceBypass: true})
					if lock == nil && err != nil || lock != nil && err == nil {
						t.Errorf("delete version of %s: %v; a lock is to hinder it, and nothing else", o.Key, err)
					}
				}
			})
		})
	}
}

// hideARoot puts a delete marker on the newest root of host web-7.
func (w *iamWorld) hideARoot(t *testing.T) {
	t.Helper()
	for _, o := range w.everything(t) {
		if !strings.HasPrefix(o.Key, "prod/hosts/web-7/roots/web/") {
			continue
		}
		if err := w.server.Client(t).RemoveObject(t.Context(), w.bucket, o.Key, minio.RemoveObjectOptions{}); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("there is no root to hide")
}

// seesHidden tells whether host web-7 says that something was hidden, and uses it all the same.
func (w *iamWorld) seesHidden(t *testing.T) bool {
	t.Helper()
	o := w.web.run(t, "list", "--host", iamHost)
	return strings.Contains(o.stderr.String(), "hidden by a delete marker") && strings.Contains(o.stdout.String(), "web@2")
}

// amazonAlone are rights that Amazon asks for by its documentation, while MinIO
// grants them together with others, or to everybody.
var amazonAlone = []string{"s3:GetObject", "s3:GetObjectVersion", "s3:ListBucketVersions", "s3:GetBucketLocation", "s3:GetBucketObjectLockConfiguration"}

// TestHostPolicyAllowsNothingThatAHostDoesNotNeed takes each action out of the
// policy in turn, and demands that the host then lacks something.
func TestHostPolicyAllowsNothingThatAHostDoesNotNeed(t *testing.T) {
	t.Parallel()
	if !slow() {
		t.Skip("a repository for each action takes a while: KNOWNGOOD_SLOW=1")
	}
	server := storagetest.MinIO(t)
	whole := policy(t, "host-policy.json", "BUCKET")
	var doc struct {
		Version   string
		Statement []map[string]any
	}
	if err := json.Unmarshal([]byte(whole), &doc); err != nil {
		t.Fatal(err)
	}
	for i, statement := range doc.Statement {
		actions, ok := statement["Action"].([]any)
		if !ok {
			actions = []any{statement["Action"]}
		}
		for j, action := range actions {
			t.Run(statement["Sid"].(string)+" "+action.(string), func(t *testing.T) {
				if slices.Contains(amazonAlone, action.(string)) {
					t.Skip("MinIO cannot tell")
				}
				less := doc
				less.Statement = slices.Clone(doc.Statement)
				less.Statement[i] = maps.Clone(statement)
				less.Statement[i]["Action"] = slices.Delete(slices.Clone(actions), j, j+1)
				if len(actions) == 1 {
					less.Statement = slices.Delete(less.Statement, i, i+1)
				}
				b, err := json.Marshal(less)
				if err != nil {
					t.Fatal(err)
				}
				bucket := fmt.Sprintf("bucket-%d-%d", i, j)
				server.Bucket(t, bucket, storagetest.LockBucket)
				w := newIAMWorld(t, server, bucket, "--lock", "governance", "--lock-keep", "1d")
				w.admin.must(t, "snapshot", "--host", "admin", "--env", "web", iamSource(t))
				for _, o := range slices.Concat(w.join(t, strings.ReplaceAll(string(b), "BUCKET", bucket)), w.capture(t, iamSource(t))) {
					if o.code != exitDone {
						t.Logf("without it: %s", &o.stderr)
						return
					}
				}
				w.hideARoot(t)
				if w.seesHidden(t) {
					t.Error("the host lacks nothing without it")
				}
			})
		}
	}
}
