package storagetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Server is a real S3 server in a process of its own, with its data in a
// temporary directory. It ends with the test that started it.
type Server struct {
	Endpoint  string // URL
	AccessKey string
	SecretKey string

	process *os.Process
}

// Region that the servers are in.
const Region = "us-east-1"

// BucketKind is what a new bucket keeps.
type BucketKind int

// A bucket that keeps no versions, one that does, one with Object Lock too.
const (
	PlainBucket BucketKind = iota
	VersionedBucket
	LockBucket
)

const (
	versityGW = "github.com/versity/versitygw/cmd/versitygw"
	minIO     = "github.com/minio/minio"
	startTime = 60 * time.Second // of a server on a busy machine
)

// VersityGW starts a versitygw that can keep versions. The file system of
// temporary directories needs extended attributes.
func VersityGW(t testing.TB) *Server {
	t.Helper()
	return startVersityGW(t, nil, "--versioning-dir", t.TempDir())
}

// PlainVersityGW starts a versitygw that cannot keep versions.
func PlainVersityGW(t testing.TB) *Server {
	t.Helper()
	return startVersityGW(t, nil)
}

func startVersityGW(t testing.TB, server []string, posix ...string) *Server {
	t.Helper()
	file, data := binary(t, versityGW), t.TempDir()
	return start(t, "/health", func(address string, s *Server) *exec.Cmd {
		args := append([]string{"--port", address, "--region", Region, "--quiet"}, server...)
		args = append(append(args, "posix"), posix...)
		cmd := exec.Command(file, append(args, data)...)
		cmd.Env = append(os.Environ(),
			"ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey,
			"VGW_HEALTH=/health", "VGW_KEEP_ALIVE=true")
		return cmd
	})
}

// VersityGWWithUsers starts a versitygw that can keep versions and has users, by the
// name that is their access key, with their secret keys. They may do what policies of
// buckets allow them.
func VersityGWWithUsers(t testing.TB, users map[string]string) *Server {
	t.Helper()
	accounts := map[string]any{}
	for name, secret := range users {
		accounts[name] = map[string]any{"access": name, "secret": secret, "role": "user"}
	}
	dir := t.TempDir()
	b, err := json.Marshal(map[string]any{"accessAccounts": accounts})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "users.json"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return startVersityGW(t, []string{"--iam-dir", dir}, "--versioning-dir", t.TempDir())
}

// MinIO starts a MinIO server.
func MinIO(t testing.TB) *Server {
	t.Helper()
	file, data := binary(t, minIO), t.TempDir()
	home := t.TempDir()
	return start(t, "/minio/health/ready", func(address string, s *Server) *exec.Cmd {
		cmd := exec.Command(file, "server", "--address", address, "--quiet", data)
		cmd.Env = append(os.Environ(), "HOME="+home,
			"MINIO_ROOT_USER="+s.AccessKey, "MINIO_ROOT_PASSWORD="+s.SecretKey, "MINIO_REGION="+Region,
			"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CI_CD=on")
		return cmd
	})
}

// start runs the command on a free port until the server is healthy. Another
// process may take the port first, so it tries more than once.
func start(t testing.TB, health string, command func(address string, s *Server) *exec.Cmd) *Server {
	t.Helper()
	var err error
	for range 3 {
		address := freeAddress(t)
		s := &Server{Endpoint: "http://" + address, AccessKey: "knowngood-test", SecretKey: "knowngood-test-secret"}
		if err = s.run(t, command(address, s), health); err == nil {
			return s
		}
	}
	t.Fatalf("start an S3 server: %v", err)
	return nil
}

func (s *Server) run(t testing.TB, cmd *exec.Cmd, health string) error {
	log := filepath.Join(t.TempDir(), "server.log")
	out, err := os.Create(log)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// It dies with this process, even when that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		// The signal above comes when the starting thread ends, so that
		// thread has to last.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // a server that is killed exits with an error
		}
		close(ended)
	}()
	if err := <-started; err != nil {
		return err
	}
	s.process = cmd.Process
	stop := func() {
		_ = s.process.Kill() // it may have ended before
		<-ended
	}
	if err := s.wait(health, ended); err != nil {
		stop()
		tail, _ := os.ReadFile(log) // for the message below, as far as there is one
		return fmt.Errorf("%s: %w\n%s", cmd.Path, err, tail[max(0, len(tail)-2000):])
	}
	t.Cleanup(stop)
	return nil
}

// wait returns when the server reports that it is ready.
func (s *Server) wait(health string, ended <-chan struct{}) error {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(startTime); time.Now().Before(deadline); {
		select {
		case <-ended:
			return errors.New("it ended at once")
		case <-time.After(20 * time.Millisecond):
		}
		resp, err := client.Get(s.Endpoint + health)
		if err != nil {
			continue // not listening yet
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
	return fmt.Errorf("not ready after %v", startTime)
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Setenv gives the test the server's credentials in its environment, and no
// others. As with t.Setenv, the test cannot be parallel; its subtests can.
func (s *Server) Setenv(t *testing.T) {
	t.Helper()
	for _, entry := range s.Env(t) {
		name, value, _ := strings.Cut(entry, "=")
		t.Setenv(name, value)
	}
}

// Env is the environment of a process that shall use the server, to be added
// to its own.
func (s *Server) Env(t testing.TB) []string {
	none := filepath.Join(t.TempDir(), "none")
	return []string{
		"AWS_ACCESS_KEY_ID=" + s.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s.SecretKey, "AWS_SESSION_TOKEN=",
		"AWS_REGION=", "AWS_DEFAULT_REGION=", "AWS_PROFILE=",
		"AWS_CONFIG_FILE=" + none, "AWS_SHARED_CREDENTIALS_FILE=" + none,
		"AWS_EC2_METADATA_DISABLED=true",
	}
}

// Bucket makes a bucket.
func (s *Server) Bucket(t testing.TB, name string, kind BucketKind) {
	t.Helper()
	client := s.Client(t)
	err := client.MakeBucket(context.Background(), name, minio.MakeBucketOptions{Region: Region, ObjectLocking: kind == LockBucket})
	if err == nil && kind == VersionedBucket {
		err = client.EnableVersioning(context.Background(), name)
	}
	if err != nil {
		t.Fatalf("make bucket %s: %v", name, err)
	}
}

// Client of the server's root account, to set up and to do harm.
func (s *Server) Client(t testing.TB) *minio.Client {
	t.Helper()
	client, err := minio.New(strings.TrimPrefix(s.Endpoint, "http://"), &minio.Options{
		Creds:  credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""),
		Region: Region,
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// URL of a repository in a bucket, under a prefix that may be empty.
func (s *Server) URL(bucket, prefix string) string {
	u := url.URL{Scheme: "s3", Host: bucket, Path: "/" + prefix}
	u.RawQuery = url.Values{"endpoint": {s.Endpoint}, "region": {Region}}.Encode()
	return u.String()
}

// Signal sends a signal to the server: SIGSTOP and SIGCONT pause it, SIGKILL
// ends it.
func (s *Server) Signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := s.process.Signal(signal); err != nil {
		t.Fatalf("%v to the server: %v", signal, err)
	}
}
