package s3_test

import (
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"knowngood/storage"
	"knowngood/storage/s3"
	"knowngood/storage/storagetest"
)

// noCredentials makes an environment in which there are none to find.
func noCredentials(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
		"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_EC2_METADATA_SERVICE_ENDPOINT",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "config"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "credentials"))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

func TestOpen(t *testing.T) {
	t.Run("without credentials nothing is asked", testWithoutCredentialsNothingIsAsked)
	t.Run("an address that swallows packets does not hold up", testAnAddressThatSwallowsPacketsDoesNotHoldUp)
	t.Run("credentials come from the AWS chain", testCredentialsComeFromTheAWSChain)
	t.Run("what is wrong is reported", testWhatIsWrongIsSaid)
	t.Run("the region is found", testTheRegionIsFound)
	t.Run("a certificate can be trusted by file", testACertificateCanBeTrustedByFile)
	t.Run("requests are counted", testRequestsAreCounted)
}

func testWithoutCredentialsNothingIsAsked(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer server.Close()
	for name, prepare := range map[string]func(t *testing.T){
		"none at all":          func(*testing.T) {},
		"a key without secret": func(t *testing.T) { t.Setenv("AWS_ACCESS_KEY_ID", "id") },
		"a secret without key": func(t *testing.T) { t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2") },
		"an empty file": func(t *testing.T) {
			write(t, os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), "[default]\n")
		},
		"a role that nobody gives out": func(t *testing.T) {
			t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/creds")
		},
	} {
		t.Run(name, func(t *testing.T) {
			noCredentials(t)
			prepare(t)
			_, err := s3.Open(t.Context(), s3.Config{Bucket: "bucket", Endpoint: server.URL})
			if !errors.Is(err, storage.ErrCredentials) || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
				t.Errorf("open: %v, want ErrCredentials with a hint", err)
			}
			if strings.Contains(fmt.Sprint(err), "hunter2") {
				t.Errorf("the error tells the secret: %v", err)
			}
		})
	}
	if asked.Load() != 0 {
		t.Errorf("the server was asked %d times", asked.Load())
	}
}

func testAnAddressThatSwallowsPacketsDoesNotHoldUp(t *testing.T) {
	noCredentials(t)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://"+silent.Addr().String())
	begin := time.Now()
	_, err = s3.Open(t.Context(), s3.Config{Bucket: "bucket", Endpoint: "http://127.0.0.1:1"})
	if !errors.Is(err, storage.ErrCredentials) || time.Since(begin) > 4*time.Second {
		t.Errorf("open: %v after %v, want ErrCredentials after 2 s", err, time.Since(begin))
	}
}

func testCredentialsComeFromTheAWSChain(t *testing.T) {
	server := storagetest.PlainVersityGW(t)
	server.Bucket(t, "bucket", storagetest.PlainBucket)
	expiry := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	issued := fmt.Sprintf(`{"Code":"Success","AccessKeyId":%q,"SecretAccessKey":%q,"Token":"","Expiration":%q}`, server.AccessKey, server.SecretKey, expiry)
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/token"):
			fmt.Fprint(w, "token")
		case strings.HasSuffix(r.URL.Path, "/security-credentials/"):
			fmt.Fprint(w, "role\n")
		default:
			fmt.Fprint(w, issued)
		}
	}))
	defer issuer.Close()
	profile := func(name string) string {
		return fmt.Sprintf("[default]\naws_access_key_id = wrong\naws_secret_access_key = wrong\n[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n", name, server.AccessKey, server.SecretKey)
	}
	for name, prepare := range map[string]func(t *testing.T, c *s3.Config){
		"environment": func(t *testing.T, _ *s3.Config) {
			t.Setenv("AWS_ACCESS_KEY_ID", server.AccessKey)
			t.Setenv("AWS_SECRET_ACCESS_KEY", server.SecretKey)
		},
		"a profile of the credentials file, named in the environment": func(t *testing.T, _ *s3.Config) {
			write(t, os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), profile("backup"))
			t.Setenv("AWS_PROFILE", "backup")
		},
		"a profile of the config file, named in the URL": func(t *testing.T, c *s3.Config) {
			t.Setenv("AWS_ACCESS_KEY_ID", "wrong") // a profile that is asked for comes first
			t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
			write(t, os.Getenv("AWS_CONFIG_FILE"), profile("profile backup"))
			c.Profile = "backup"
		},
		"container": func(t *testing.T, _ *s3.Config) {
			t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", issuer.URL+"/container")
		},
		"instance metadata": func(t *testing.T, _ *s3.Config) {
			t.Setenv("AWS_EC2_METADATA_DISABLED", "")
			t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", issuer.URL)
		},
	} {
		t.Run(name, func(t *testing.T) {
			noCredentials(t)
			c := s3.Config{Bucket: "bucket", Endpoint: server.Endpoint}
			prepare(t, &c)
			s := open(t, c)
			if err := s.Delete(t.Context(), "k"); err != nil {
				t.Errorf("the credentials do not work: %v", err)
			}
			http.DefaultTransport.(*http.Transport).CloseIdleConnections() // of the look for credentials
		})
	}
	t.Run("a profile that does not exist", func(t *testing.T) {
		noCredentials(t)
		t.Setenv("AWS_ACCESS_KEY_ID", server.AccessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", server.SecretKey)
		_, err := s3.Open(t.Context(), s3.Config{Bucket: "bucket", Endpoint: server.Endpoint, Profile: "absent"})
		if !errors.Is(err, storage.ErrCredentials) || !strings.Contains(err.Error(), `"absent"`) {
			t.Errorf("open: %v, want ErrCredentials that names the profile", err)
		}
	})
}

func testWhatIsWrongIsSaid(t *testing.T) {
	for _, server := range []*storagetest.Server{storagetest.PlainVersityGW(t), storagetest.MinIO(t)} {
		server.Bucket(t, "bucket", storagetest.PlainBucket)
		fake := func(h hook) string {
			f := httptest.NewServer(handler(t, server, h))
			t.Cleanup(f.Close)
			return f.URL
		}
		for _, c := range []struct {
			name    string
			bucket  string
			url     string
			env     map[string]string
			want    error
			mention string
		}{
			{"wrong secret", "bucket", server.Endpoint, map[string]string{"AWS_SECRET_ACCESS_KEY": "wrong-secret-key"}, storage.ErrDenied, "secret key"},
			{"wrong key", "bucket", server.Endpoint, map[string]string{"AWS_ACCESS_KEY_ID": "nobody-knows-me"}, storage.ErrDenied, "access key ID"},
			{"missing bucket", "absent", server.Endpoint, nil, storage.ErrNoStore, "create the bucket"},
			{"unreachable", "bucket", "http://127.0.0.1:1", nil, storage.ErrUnreachable, "check the endpoint"},
			{"unknown host", "bucket", "http://host.invalid", nil, storage.ErrUnreachable, "check the endpoint"},
			{"wrong clock", "bucket", fake(answer(http.StatusForbidden, "RequestTimeTooSkewed")), nil, storage.ErrDenied, "clock"},
			{"policy", "bucket", fake(answer(http.StatusForbidden, "AccessDenied")), nil, storage.ErrDenied, "policy"},
			{"quota", "bucket", fake(answer(http.StatusForbidden, "QuotaExceeded")), nil, storage.ErrFull, "quota"},
			{"full", "bucket", fake(answer(http.StatusInsufficientStorage, "XMinioStorageFull")), nil, storage.ErrFull, "room"},
			{"no conditional puts", "bucket", fake(answer(http.StatusNotImplemented, "NotImplemented")), nil, storage.ErrUnsupported, "lacks"},
			{"another region", "bucket", fake(answer(http.StatusMovedPermanently, "PermanentRedirect")), nil, storage.ErrNoStore, "region"},
			{"no S3 server", "bucket", fake(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				http.Error(w, "I am a teapot", http.StatusTeapot)
			}), nil, nil, "teapot"},
		} {
			t.Run(c.name, func(t *testing.T) {
				server.Setenv(t)
				for name, value := range c.env {
					t.Setenv(name, value)
				}
				s := open(t, s3.Config{Bucket: c.bucket, Endpoint: c.url, Region: storagetest.Region})
				begin := time.Now()
				err := s.Put(t.Context(), "k", []byte("x"), storage.PutOptions{})
				if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.mention) {
					t.Errorf("put: %v; want %v that mentions %q", err, c.want, c.mention)
				}
				if time.Since(begin) > 4*time.Second {
					t.Errorf("it took %v", time.Since(begin))
				}
				if err != nil && strings.Contains(err.Error(), server.SecretKey) {
					t.Errorf("the error tells the secret: %v", err)
				}
			})
		}
	}
}

func testTheRegionIsFound(t *testing.T) {
	server := storagetest.MinIO(t)
	server.Setenv(t)
	server.Bucket(t, "bucket", storagetest.PlainBucket)
	for name, prepare := range map[string]func(t *testing.T){
		"at the server":         func(*testing.T) {},
		"in AWS_REGION":         func(t *testing.T) { t.Setenv("AWS_REGION", storagetest.Region) },
		"in AWS_DEFAULT_REGION": func(t *testing.T) { t.Setenv("AWS_DEFAULT_REGION", storagetest.Region) },
		"in AWS_REGION before another's": func(t *testing.T) {
			t.Setenv("AWS_REGION", storagetest.Region)
			t.Setenv("AWS_DEFAULT_REGION", "mars-1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			prepare(t)
			if err := open(t, s3.Config{Bucket: "bucket", Endpoint: server.Endpoint}).Delete(t.Context(), "k"); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("or told to be wrong", func(t *testing.T) {
		t.Setenv("AWS_REGION", "mars-1")
		err := open(t, s3.Config{Bucket: "bucket", Endpoint: server.Endpoint}).Delete(t.Context(), "k")
		if !errors.Is(err, storage.ErrNoStore) || !strings.Contains(err.Error(), "region") {
			t.Errorf("delete in another region: %v", err)
		}
	})
}

func testACertificateCanBeTrustedByFile(t *testing.T) {
	server := storagetest.PlainVersityGW(t)
	server.Setenv(t)
	server.Bucket(t, "bucket", storagetest.PlainBucket)
	secure := httptest.NewUnstartedServer(handler(t, server, pass))
	secure.Config.ErrorLog = discard()
	secure.StartTLS()
	defer secure.Close()
	c := s3.Config{Bucket: "bucket", Endpoint: secure.URL, Region: storagetest.Region}
	begin := time.Now()
	err := open(t, c).Put(t.Context(), "k", []byte("x"), storage.PutOptions{})
	if !errors.Is(err, storage.ErrUnreachable) || !strings.Contains(err.Error(), "ca=") || time.Since(begin) > time.Second {
		t.Errorf("put to a server nobody knows: %v, want ErrUnreachable with a hint, at once", err)
	}
	c.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	write(t, c.CAFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})))
	s := open(t, c)
	if err := s.Put(t.Context(), "k", []byte("x"), storage.PutOptions{}); err != nil {
		t.Errorf("put: %v", err)
	}
	if b, err := storage.Append(t.Context(), nil, s, "k", 0, -1); err != nil || string(b) != "x" {
		t.Errorf("get: %q, %v", b, err)
	}

	const bundle = "AWS_CA_BUNDLE"
	good, bad := c.CAFile, filepath.Join(t.TempDir(), "bad.pem")
	write(t, bad, "no certificate")
	t.Setenv(bundle, good)
	c.CAFile = ""
	if b, err := storage.Append(t.Context(), nil, open(t, c), "k", 0, -1); err != nil || string(b) != "x" {
		t.Errorf("get with the certificate in %s: %q, %v", bundle, b, err)
	}
	for _, file := range []string{bad, filepath.Join(t.TempDir(), "missing.pem")} {
		t.Setenv(bundle, file)
		if _, err := s3.Open(t.Context(), c); !errors.Is(err, s3.ErrConfig) || !strings.Contains(err.Error(), bundle) || !strings.Contains(err.Error(), file) {
			t.Errorf("open with %s=%s: %v", bundle, file, err)
		}
	}
	c.CAFile = good
	if b, err := storage.Append(t.Context(), nil, open(t, c), "k", 0, -1); err != nil || string(b) != "x" {
		t.Errorf("get with ca=, and a bundle that is missing: %q, %v", b, err)
	}
	c.CAFile = bad
	t.Setenv(bundle, good)
	if _, err := s3.Open(t.Context(), c); !errors.Is(err, s3.ErrConfig) || !strings.Contains(err.Error(), bad) {
		t.Errorf("open with a file that has no certificate: %v", err)
	}
}

func testRequestsAreCounted(t *testing.T) {
	server := storagetest.VersityGW(t)
	server.Setenv(t)
	server.Bucket(t, "bucket", storagetest.VersionedBucket)
	s := open(t, s3.Config{Bucket: "bucket", Endpoint: server.Endpoint, Region: storagetest.Region})
	if err := s.Put(t.Context(), "k", make([]byte, 1000), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := storage.Append(t.Context(), nil, s, "k", 100, 300); err != nil {
		t.Fatal(err)
	}
	lists := s.Stats()
	for range s.List(t.Context(), storage.ListOptions{}) {
	}
	lists.Lists, lists.Fetched = lists.Lists+1, s.Stats().Fetched
	if s.Stats() != lists {
		t.Errorf("a listing counts as %+v", s.Stats())
	}
	for range s.Versions(t.Context(), "k") {
	}
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	have := s.Stats()
	have.Fetched = lists.Fetched
	if want := (storage.Stats{Puts: 1, Gets: 1, Lists: 2, Deletes: 1, Sent: 1000, Fetched: lists.Fetched}); have != want {
		t.Errorf("counted %+v, want %+v", have, want)
	}
	if lists.Fetched <= 300 {
		t.Errorf("fetched %d bytes, want 300 and a listing", lists.Fetched)
	}
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
