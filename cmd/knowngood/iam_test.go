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

	"knowngood/cmd/knowngood/exit"
	"knowngood/daemon/report"
	"knowngood/storage/storagetest"
)

func TestIAM(t *testing.T) {
	t.Parallel()
	t.Run("IAM policies allow what they are for and nothing else", testIAMPoliciesAllowWhatTheyAreForAndNothingElse)
	t.Run("a drill host on versitygw", testADrillHostOnVersitygw)
	t.Run("create only policy is refused by servers that do not know it", testCreateOnlyPolicyIsRefusedByServersThatDoNotKnowIt)
}

func testIAMPoliciesAllowWhatTheyAreForAndNothingElse(t *testing.T) {
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
			for _, o := range outcomes {
				if strings.Contains(o.stderr.String(), "warning") {
					t.Errorf("it lacks a right: %s", &o.stderr)
				}
			}
			if shown := outcomes[4].stdout.String(); strings.Contains(shown, "protected   until 20") != (lock != nil) {
				t.Errorf("with locks %v it shows %s", lock, shown)
			}
			if lock != nil {
				t.Run("a host locks again what it uses again", func(t *testing.T) {
					w.forgetLocks(t)
					o := w.web.run(t, "snapshot", "--host", iamHost, "--env", "web", src)
					o.exits(t, exit.Done)
					if strings.Contains(o.stderr.String(), "warning") {
						t.Errorf("%s", &o.stderr)
					}
				})
			}
			t.Run("a host checks what it stored", func(t *testing.T) {
				s := newService(t, w.web, "host: %s\ncheck: {schedule: \"@every 1s\", read_data: all}\n", iamHost)
				s.up(t)
				c := s.until(t, "a check ends", func(r *report.Report) bool { return r.Check != nil && r.Check.Last != nil }).Check
				if c.Last.Result != report.Success || c.Last.ReadBytes == 0 || c.Began.IsZero() || c.Data == nil || c.Data.Oldest.IsZero() {
					t.Errorf("the check: %+v, last %+v", c, c.Last)
				}
				if len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "the keys of the repository were not looked at") {
					t.Errorf("notes: %q", c.Notes)
				}
				status := s.ask(t, "status")
				status.exits(t, exit.Done)
				if !strings.Contains(status.stdout.String(), "Check: found no damage, with 1 note, ") {
					t.Errorf("status:\n%s", &status.stdout)
				}
				s.stop(t)
			})
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
				show := w.hideARoot(t)
				defer show()
				if !w.seesHidden(t) {
					t.Error("a root that is hidden by a delete marker is not reported")
				}
			})
			t.Run("who restores reads everything and writes nothing but damage reports and marks", func(t *testing.T) {
				read := policy(t, "restore-policy.json", bucket)
				m := w.with(t, w.admin.bare(t), read)
				out := filepath.Join(t.TempDir(), "out")
				if list := m.must(t, "list", "--all-hosts"); !strings.Contains(list, "packs@1") || !strings.Contains(list, "web@2") {
					t.Errorf("it lists %s", list)
				}
				m.run(t, "restore", "web-7/web@2:"+src, "--target", out) // and reports that its root was hidden
				want, err := os.ReadFile(filepath.Join(src, "file"))
				if err != nil {
					t.Fatal(err)
				}
				if got, err := os.ReadFile(filepath.Join(out, "file")); err != nil || !bytes.Equal(got, want) {
					t.Errorf("restored %d bytes, %v", len(got), err)
				}
				m.must(t, "restore", "admin/packs@1:"+src, "--target", filepath.Join(t.TempDir(), "out"))
				marks(t, m, "admin/packs@1")
				c := w.client(t, read)
				w.mayNotPut(t, c, "elsewhere", "prod/descriptor", "prod/attestations/web-7/web/x", "prod/attest/x/y", "prod/hosts/web-7/marks/web/x", "prod/hosts/web-7/roots/web/x", "prod/hosts/web-7/packs/x/y", "prod/hosts/web-7/pending/x/y", "prod/hosts/web-7/tombstones/web/x")
				w.mayNotDelete(t, c, func(string) bool { return true })
				w.mayNotConfigure(t, c)
			})
			t.Run("who restores reports what was put over a pack to a host, which finds the pack beneath", func(t *testing.T) { w.reportAndExamine(t, src) })
			t.Run("who drills reads everything and writes nothing but attestations and marks", func(t *testing.T) {
				may := policy(t, "drill-policy.json", bucket)
				drillsAndPutsNothingElse(t, bucket, w.admin.bare(t), w.with(t, w.admin.bare(t), may), w.client(t, may))
				o := w.web.run(t, "attest", "verify", "--host", iamHost, "web@1")
				if o.exits(t, exit.Done); !strings.Contains(o.stdout.String(), "verified    attestations/web-7/web/") {
					t.Errorf("a host reads of its own: %s", &o.stdout)
				}
				w.web.run(t, "attest", "show", "--host", iamHost, "web@1").exits(t, exit.Done)
				c := w.client(t, host)
				w.mayNotPut(t, c, "prod/attestations/web-7/web/x", "prod/attest/x/y", "prod/marks/web-7/web/x")
				for o := range c.ListObjects(t.Context(), bucket, minio.ListObjectsOptions{Prefix: "prod/attestations/admin/", Recursive: true}) {
					if !denied(o.Err) {
						t.Errorf("a host lists %s of another: %v", o.Key, o.Err)
					}
				}
				w.mayNotDelete(t, w.client(t, may), func(string) bool { return true })
				w.mayNotConfigure(t, w.client(t, may))
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

// marks marks a snapshot as bad, and takes that back.
func marks(t *testing.T, m *machine, ref string) {
	t.Helper()
	for _, c := range []struct{ more, says string }{{"", "marked bad: "}, {"--undo", "no longer marked bad: "}} {
		argv := slices.DeleteFunc([]string{"attest", "bad", ref, "--reason", "a test", c.more}, func(s string) bool { return s == "" })
		if said := m.run(t, argv...).says(t, exit.Done); !strings.Contains(said, c.says) || strings.Contains(said, "warning") {
			t.Errorf("%v: %s", argv, said)
		}
	}
}

// drillsAndPutsNothingElse attests web@1 with the rights of a drill host, whose key the
// owner certifies before, marks it, and demands that it can put nothing else.
func drillsAndPutsNothingElse(t *testing.T, bucket string, owner, drill *machine, c *minio.Client) {
	t.Helper()
	request := decode[struct{ Request string }](t, drill.must(t, "attest", "key", "--request", "--json", "--host", "drill-1")).Request
	passed := func() string {
		cmd := drill.command("web-7/web@1")
		cmd.Args[0], cmd.Path = "attest-passed", strings.TrimSuffix(cmd.Path, "knowngood")+"attest-passed"
		out, err := cmd.CombinedOutput()
		return fmt.Sprintf("%v %s", err, out)
	}
	if said := passed(); !strings.Contains(strings.ToLower(said), "denied") { // it cannot certify itself, though it has the identity
		t.Errorf("before its key is certified it says %s", said)
	}
	if said := drill.run(t, "drill", "web-7/web@1").says(t, exit.Incomplete); !strings.Contains(said, "web@1 passed, level restored") || !strings.Contains(said, "run `knowngood attest key --request` here") {
		t.Errorf("a drill before its key is certified says %s", said)
	}
	owner.must(t, "attest", "key", "--certify", request, "--hosts", "web-*")
	if said := passed(); said != "<nil> " {
		t.Errorf("it says %s", said)
	}
	text := drill.must(t, "restore", "web-7/web@known-good", "--target", filepath.Join(t.TempDir(), "out"))
	if !strings.Contains(text, "known-good    web@1: probed") {
		t.Errorf("it prints %s", text)
	}
	marks(t, drill, "web-7/web@1")
	for _, key := range []string{"elsewhere", "prod/descriptor", "prod/attest/x/y", "prod/hosts/web-7/roots/web/x", "prod/hosts/web-7/packs/x/y", "prod/hosts/web-7/marks/web/x", "prod/certs/web-7/x", "prod/keys/x/y"} {
		if _, err := c.PutObject(t.Context(), bucket, key, strings.NewReader("x"), 1, minio.PutObjectOptions{}); !denied(err) {
			t.Errorf("put %s: %v, want it denied", key, err)
		}
	}
}

// versitygw has no policies of users; what a policy allows it can allow a user on a
// bucket.
func testADrillHostOnVersitygw(t *testing.T) {
	server := storagetest.VersityGWWithUsers(t, map[string]string{"drill": "drill-secret", "web": "web-secret"})
	server.Bucket(t, "backups", storagetest.VersionedBucket)
	w := newIAMWorld(t, server, "backups")
	w.web.env, w.web.identity = server.Env(t), ""
	request := filepath.Join(t.TempDir(), "web-7.request")
	w.web.must(t, "init", "--join", "--host", iamHost, "--trust-on-first-use", "--request", request)
	w.admin.must(t, "keys", "grant", "--host", "admin", request)
	w.web.must(t, "init", "--join", "--accept", "--host", iamHost)
	w.web.must(t, "snapshot", "--env", "web", iamSource(t))

	var statements []any
	for user, file := range map[string]string{"drill": "drill-policy.json", "web": "host-policy.json"} {
		var doc struct{ Statement []map[string]any }
		if err := json.Unmarshal([]byte(policy(t, file, "backups")), &doc); err != nil {
			t.Fatal(err)
		}
		for _, s := range doc.Statement {
			delete(s, "Condition") // which it does not know: a host may list more here
			s["Principal"] = user
			statements = append(statements, s)
		}
	}
	b, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
	if err == nil {
		err = server.Client(t).SetBucketPolicy(t.Context(), "backups", string(b))
	}
	if err != nil {
		t.Fatal(err)
	}
	as := func(m *machine, user, secret string) *machine {
		n := *m
		n.env = append(server.Env(t), "AWS_ACCESS_KEY_ID="+user, "AWS_SECRET_ACCESS_KEY="+secret)
		return &n
	}
	c, err := minio.New(strings.TrimPrefix(server.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4("drill", "drill-secret", ""), Region: storagetest.Region})
	if err != nil {
		t.Fatal(err)
	}
	drillsAndPutsNothingElse(t, "backups", w.admin.bare(t), as(w.admin.bare(t), "drill", "drill-secret"), c)
	w.mayNotDelete(t, c, func(string) bool { return true })

	host := as(w.web, "web", "web-secret")
	host.must(t, "attest", "verify", "web@1")
	h, err := minio.New(strings.TrimPrefix(server.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4("web", "web-secret", ""), Region: storagetest.Region})
	if err != nil {
		t.Fatal(err)
	}
	w.mayNotPut(t, h, "prod/attestations/web-7/web/x", "prod/attest/x/y", "prod/marks/web-7/web/x")
}

// amazonAlone are rights that Amazon asks for by its documentation, while MinIO
// grants them together with others, or to everybody.
var amazonAlone = []string{"s3:GetObject", "s3:GetObjectVersion", "s3:ListBucketVersions", "s3:GetBucketLocation", "s3:GetBucketObjectLockConfiguration"}

// Each action is taken out of the policy in turn, and the host must then lack
// something.
func testTheHostPolicyAllowsNothingThatAHostDoesNotNeed(t *testing.T) {
	t.Parallel()
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
					if o.code != exit.Done || strings.Contains(o.stderr.String(), "could not be extended") {
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

// Only Amazon knows the condition of this policy, so that it cannot be tried here:
// the servers at hand refuse it. This holds what the probe then has to find out.
func testCreateOnlyPolicyIsRefusedByServersThatDoNotKnowIt(t *testing.T) {
	t.Parallel()
	text := policy(t, "create-only-bucket-policy.json", "plain")
	if !json.Valid([]byte(text)) {
		t.Fatal("it is no JSON")
	}
	server := storagetest.MinIO(t)
	server.Bucket(t, "plain", storagetest.PlainBucket)
	if err := server.Client(t).SetBucketPolicy(t.Context(), "plain", text); err == nil || !strings.Contains(err.Error(), "invalid condition key") { // it names either of the two
		t.Errorf("MinIO takes it: %v; correct docs/SECURITY.md, and demand that the probe sees it", err)
	}
	m := &machine{repo: server.URL("plain", "prod"), identity: filepath.Join(t.TempDir(), "identity"), state: t.TempDir(), env: server.Env(t)}
	if out := m.must(t, "init", "--identity-type", "x25519"); !strings.Contains(out, "WARNING: an attacker who takes over a host can destroy its history here: the bucket keeps no older versions") {
		t.Errorf("init says %s", out)
	}
}
