package s3

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/minio/minio-go/v7"

	"knowngood/storage"
)

// Replies of success that no S3 server gives: from a proxy, a login page, a
// server of another kind. The library takes some of them for an empty listing.
var (
	errNoListing = errors.New("the reply to a request for a listing holds no listing")
	errNoObject  = errors.New("the reply to a request for an object is not one of an S3 server")
)

// objectError recognises what the library makes of a reply of success that has
// not the headers of an object.
func objectError(err error) error {
	if r := minio.ToErrorResponse(err); r.Code == "InternalError" && r.StatusCode == 0 {
		return errNoObject // the message is about the first header that is missing
	}
	return err
}

// listingError recognises what the library makes of an empty reply.
func listingError(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it is empty", errNoListing)
	}
	return err
}

// strange reports whether the reply was none of an S3 server.
func strange(err error) bool {
	return errors.Is(err, storage.ErrUnproven) || errors.Is(err, errNoListing) || errors.Is(err, errNoObject)
}

// listed is the element that the reply to a request for a listing begins with;
// "" when the request is for something else.
func listed(req *http.Request) string {
	switch query := req.URL.Query(); {
	case query.Has("list-type"):
		return "ListBucketResult"
	case query.Has("versions"):
		return "ListVersionsResult"
	}
	return ""
}

// listing is the body of a reply to a request for a listing. Its first read
// fails with errNoListing when it holds something else.
type listing struct {
	io.ReadCloser
	element string
	checked bool
	start   bytes.Buffer // what was read to find out
}

func (l *listing) Read(p []byte) (int, error) {
	if !l.checked {
		if err := l.check(); err != nil {
			return 0, err
		}
		l.checked = true
	}
	if l.start.Len() > 0 {
		return l.start.Read(p)
	}
	return l.ReadCloser.Read(p)
}

// check reads up to the first element, which must be that of a listing.
func (l *listing) check() error {
	d := xml.NewDecoder(io.TeeReader(l.ReadCloser, &l.start))
	for {
		token, err := d.RawToken()
		var syntax *xml.SyntaxError
		switch {
		case err == nil:
		case err == io.EOF, errors.As(err, &syntax):
			return fmt.Errorf("%w: %w", errNoListing, err)
		default:
			return err // the transfer broke off
		}
		if e, ok := token.(xml.StartElement); ok {
			if e.Name.Local != l.element {
				return fmt.Errorf("%w: it begins with <%s>", errNoListing, e.Name.Local)
			}
			return nil
		}
	}
}
