package s3

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/minio/minio-go/v7/pkg/s3utils"

	"knowngood/storage"
)

// redirectBytes is how much of the body of a redirect is read.
const redirectBytes = 64 << 10

// redirected is a reply that sends the client elsewhere. It is not followed:
// what is signed for one address is refused at another, and every request
// would go both ways. Its fields come from the server.
type redirected struct {
	said     string // code or status
	region   string
	endpoint string // host, or URL
}

func (r *redirected) Error() string {
	switch {
	case r.endpoint != "":
		return fmt.Sprintf("the server answered %s: to %q", r.said, r.endpoint)
	case r.region != "":
		return fmt.Sprintf("the server answered %s: to region %q", r.said, r.region)
	}
	return fmt.Sprintf("the server answered %s, and not to where", r.said)
}

// redirect returns a *redirected when a reply is a redirect. The body is used
// up then.
func redirect(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil
	}
	defer resp.Body.Close()
	var body struct {
		XMLName                xml.Name `xml:"Error"`
		Code, Region, Endpoint string
	}
	// Replies to HEAD have none, and proxies send others.
	_ = xml.NewDecoder(io.LimitReader(resp.Body, redirectBytes)).Decode(&body)

	r := &redirected{
		said:     resp.Status,
		region:   cmp.Or(strings.TrimSpace(body.Region), resp.Header.Get("X-Amz-Bucket-Region")),
		endpoint: strings.TrimSpace(body.Endpoint),
	}
	if body.Code != "" {
		r.said += " " + body.Code
	}
	if to, err := resp.Location(); err == nil && r.endpoint == "" { // relative ones count from the request
		r.endpoint = to.Scheme + "://" + to.Host
	}
	return r
}

// elsewhere returns what to write into the URL of the repository when the server
// answers that the bucket is in another region, or at another endpoint.
func (b *bucket) elsewhere(region, endpoint string) (hint string) {
	var write []string
	to := b.parseElsewhere(endpoint)
	if region == "" && to != nil {
		region = s3utils.GetRegionFromURL(*to)
	}
	if validRegion.MatchString(region) && region != b.options.Region {
		write = append(write, "region="+region)
	}
	// At Amazon's own endpoint the region is enough.
	if to != nil && to.String() != b.endpoint.String() && !(len(write) > 0 && b.endpoint.String() == defaultEndpoint && s3utils.IsAmazonEndpoint(*to)) {
		write = append(write, "endpoint="+to.String())
	}
	if len(write) == 0 {
		return "the bucket is in another region, or something on the way answers in the store's place: check region= and endpoint= in the URL of the repository"
	}
	return fmt.Sprintf("the bucket is elsewhere: write %s into the URL of the repository", strings.Join(write, " and "))
}

// validRegion is what may be a region: it is shown as a part of a command.
var validRegion = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// parseElsewhere makes an endpoint of what a server calls one: a host, with the
// bucket before it or not, or a URL. It returns nil for what is none.
func (b *bucket) parseElsewhere(text string) *url.URL {
	if text == "" {
		return nil
	}
	if !strings.Contains(text, "://") {
		text = b.endpoint.Scheme + "://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil
	}
	to := &url.URL{Scheme: u.Scheme, Host: strings.TrimPrefix(u.Host, b.name+".")}
	if _, err := parseEndpoint(to.String()); err != nil {
		return nil
	}
	return to
}

// expecting finds the region in the words of a server that names it nowhere
// else.
var expecting = regexp.MustCompile(`expecting ['"‘]([A-Za-z0-9_-]+)['"’]`)

// regionIn is the region that the message of a reply names; "" for none.
func regionIn(message string) string {
	if m := expecting.FindStringSubmatch(message); m != nil {
		return m[1]
	}
	return ""
}

// explainRedirect gives a redirect its meaning.
func (b *bucket) explainRedirect(r *redirected) (hint string, err error) {
	return b.elsewhere(r.region, r.endpoint), fmt.Errorf("%w: %w", storage.ErrNoStore, r)
}

// regionOf is the region that a redirect names; "" for none.
func regionOf(err error) string {
	if r, ok := errors.AsType[*redirected](err); ok && validRegion.MatchString(r.region) {
		return r.region
	}
	return ""
}
