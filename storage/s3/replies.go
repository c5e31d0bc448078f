package s3

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"github.com/minio/minio-go/v7"

	"knowngood/storage"
)

// Replies of success that no S3 server gives: from a proxy, a login page, a
// server of another kind. The library takes some of them for an empty listing.
var (
	errNoListing = errors.New("the reply to a request for a listing holds no listing")
	errNoObject  = errors.New("the reply to a request for an object is not one of an S3 server")
	errOrder     = errors.New("the server lists keys out of order, twice, or without an end")
	errNotAsked  = errors.New("the server lists keys that were not asked for")
	errTooShort  = errors.New("the server sends fewer bytes than it announces")
)

// errBreaksOff is a document that ends before its end. A server that is asked
// too much, or is stopped, may send such.
var errBreaksOff = errors.New("the server answered 200 OK")

// objectError recognises what the library makes of a reply of success that has
// not the headers of an object.
func objectError(err error) error {
	if r := minio.ToErrorResponse(err); r.Code == "InternalError" && r.StatusCode == 0 {
		return errNoObject // the message is about the first header that is missing
	}
	return err
}

// strange reports whether the reply was none of an S3 server.
func strange(err error) bool {
	return slices.ContainsFunc([]error{storage.ErrUnproven, errNoListing, errNoObject, errOrder, errNotAsked, errTooShort}, func(target error) bool { return errors.Is(err, target) })
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

// document wraps the body of a reply of success to a request that is answered
// in XML.
func document(req *http.Request, body io.ReadCloser) io.ReadCloser {
	query := req.URL.Query()
	element := listed(req)
	if element == "" && !(req.Method == http.MethodGet && (query.Has("location") || query.Has("retention") || query.Has("object-lock"))) {
		return body
	}
	return &reply{ReadCloser: body, element: element, prefix: query.Get("prefix")}
}

// reply is the body of a reply in XML. Its end is an error: whoever reads it
// stops at the end of its first element. When that should be one of a name and
// is not, the first read fails with errNoListing.
type reply struct {
	io.ReadCloser
	element string // "" for any
	prefix  string // of a listing, that was asked for
	checked bool
	start   bytes.Buffer // what was read to find out
	n       int          // bytes read
}

func (r *reply) Read(p []byte) (int, error) {
	if !r.checked && r.element != "" {
		if err := r.check(); err != nil {
			return 0, err
		}
	}
	r.checked = true
	if r.start.Len() > 0 {
		return r.start.Read(p)
	}
	n, err := r.ReadCloser.Read(p)
	r.n += n
	if err == io.EOF {
		if err = nil; n == 0 {
			err = r.breaksOff()
		}
	}
	return n, err
}

func (r *reply) breaksOff() error {
	if r.n == 0 {
		return fmt.Errorf("%w with an empty body", errBreaksOff)
	}
	return fmt.Errorf("%w with a body that breaks off after %d bytes", errBreaksOff, r.n)
}

// check reads up to the first element, which must be that of a listing.
func (r *reply) check() error {
	d := xml.NewDecoder(io.TeeReader(r.ReadCloser, &r.start))
	for {
		token, err := d.RawToken()
		r.n = r.start.Len()
		var syntax *xml.SyntaxError
		switch {
		case err == nil:
		case err == io.EOF && len(bytes.TrimSpace(r.start.Bytes())) == 0, bytes.HasPrefix(r.start.Bytes(), []byte("<?xml")) && unfinished(err):
			return r.breaksOff()
		case err == io.EOF, errors.As(err, &syntax):
			return fmt.Errorf("%w: %w", errNoListing, err)
		default:
			return err // the transfer broke off
		}
		if e, ok := token.(xml.StartElement); ok {
			if e.Name.Local != r.element {
				return fmt.Errorf("%w: it begins with <%s>", errNoListing, e.Name.Local)
			}
			return r.checkPrefix(d)
		}
	}
}

// checkPrefix compares the prefix that a listing names before its entries with the one
// that was asked for: an empty listing of another prefix is no reply to it.
func (r *reply) checkPrefix(d *xml.Decoder) error {
	for depth := 0; depth >= 0; {
		token, err := d.RawToken()
		if r.n = r.start.Len(); err != nil {
			return nil // whoever reads on meets it
		}
		switch e := token.(type) {
		case xml.EndElement:
			depth--
		case xml.StartElement:
			if depth++; depth > 1 {
				continue
			}
			switch e.Name.Local {
			case "Contents", "Version", "DeleteMarker", "CommonPrefixes":
				return nil
			case "Prefix":
				token, _ := d.RawToken()
				named, _ := token.(xml.CharData)
				plain, _ := url.QueryUnescape(string(named))
				if len(named) > 0 && string(named) != r.prefix && plain != r.prefix {
					return fmt.Errorf("%w: a listing of %q was asked for, and it is one of %q", errNotAsked, r.prefix, named)
				}
				return nil
			}
		}
	}
	return nil
}

// unfinished reports whether an XML decoder met the end too early.
func unfinished(err error) bool {
	var syntax *xml.SyntaxError
	return err == io.EOF || errors.As(err, &syntax) && syntax.Msg == "unexpected EOF"
}
