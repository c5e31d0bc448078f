package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"knowngood/storage"
)

const (
	metadataTimeout = 2 * time.Second  // an address that is no cloud's may swallow packets
	tokenTimeout    = 15 * time.Second // a token service that is configured is there
)

// source is one place where credentials may be found.
type source struct {
	name     string
	provider credentials.Provider
	timeout  time.Duration // of the first look; 0 is none
}

// findCredentials returns the credentials of the first source of the AWS chain
// that has any, and renews them from there. It never falls back to anonymous requests.
func findCredentials(ctx context.Context, profile string) (*credentials.Credentials, error) {
	var reasons []string
	for _, src := range sources(profile) {
		c := credentials.New(strict{src.provider})
		if err := probe(ctx, c, src.timeout); err != nil {
			reasons = append(reasons, fmt.Sprintf("%s: %v", src.name, err))
			continue
		}
		return c, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %s", storage.ErrCredentials, strings.Join(reasons, "; "))
}

func probe(ctx context.Context, c *credentials.Credentials, timeout time.Duration) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	_, err := c.GetWithContext(&credentials.CredContext{Context: ctx, Client: &http.Client{}})
	return err
}

// sources lists the AWS chain in its order; a profile that was asked for is
// the only one.
func sources(profile string) []source {
	files := source{name: "credential files", provider: &credentials.FileAWSCredentials{Profile: profile}}
	if profile != "" {
		files.name = fmt.Sprintf("profile %q of the credential files", profile)
		return []source{files}
	}
	chain := []source{{name: "environment", provider: &credentials.EnvAWS{}}, files}
	role := source{name: "instance metadata", timeout: metadataTimeout}
	if roleConfigured() {
		role = source{name: "container or web identity role", timeout: tokenTimeout}
	} else if strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true") {
		return chain
	}
	iam := &credentials.IAM{Client: &http.Client{Timeout: role.timeout}}
	if !roleConfigured() {
		iam.Endpoint = strings.TrimSuffix(os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"), "/")
	}
	role.provider = iam
	return append(chain, role)
}

// roleConfigured reports whether the environment names a service that issues
// credentials for a role.
func roleConfigured() bool {
	return cmp.Or(os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE"), os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")) != ""
}

// strict is a provider that returns an error for partial or empty credentials,
// which would make requests anonymous.
type strict struct{ credentials.Provider }

func (p strict) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	v, err := p.Provider.RetrieveWithCredContext(cc)
	switch {
	case err != nil:
		return credentials.Value{}, credentialsError{err}
	case v.AccessKeyID == "" && v.SecretAccessKey == "":
		return credentials.Value{}, credentialsError{errors.New("none set")}
	case v.AccessKeyID == "":
		return credentials.Value{}, credentialsError{errors.New("a secret key without an access key ID")}
	case v.SecretAccessKey == "":
		return credentials.Value{}, credentialsError{errors.New("an access key ID without a secret key")}
	}
	return v, nil
}

// credentialsError is a storage.ErrCredentials whose text is only the reason.
type credentialsError struct{ reason error }

func (e credentialsError) Error() string { return e.reason.Error() }

func (e credentialsError) Unwrap() []error { return []error{storage.ErrCredentials, e.reason} }
