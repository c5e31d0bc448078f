package statement

import (
	"crypto/ed25519"
	"errors"
	"testing"

	"knowngood/storage/seal"
)

func TestTrust(t *testing.T) {
	t.Run("check root certificate", testCheckRootCertificate)
	t.Run("a tombstone or acceptance counts only under the newest certificate", testATombstoneOrAcceptanceCountsOnlyUnderTheNewestCertificate)
}

func testCheckRootCertificate(t *testing.T) {
	newKey := keyOf(4)
	first := mustParse(t, ParseCertificate, certificate(1, hostKey), ownerKey)
	root := mustParse(t, ParseRoot, sampleRoot(first), hostKey) // web@42 under certificate 1
	later := func(serial uint64, heads ...Head) *Certificate {
		return mustParse(t, ParseCertificate, certificate(serial, newKey, heads...), ownerKey)
	}
	named := Head{"web", 42, root.Hash()}
	forged := mustParse(t, ParseCertificate, certificate(2, newKey), strange)
	otherHost := mustParse(t, ParseCertificate, &Certificate{Repository: repo, Host: "web-8", Serial: 2, HostKey: public(newKey), Issued: at}, ownerKey)
	otherRepository := mustParse(t, ParseCertificate, &Certificate{Repository: seal.RepositoryID{9}, Host: "web-7", Serial: 2, HostKey: public(newKey), Issued: at}, ownerKey)
	second := later(2, named)
	underSecond := mustParse(t, ParseRoot, sampleRoot(second), newKey)

	for name, c := range map[string]struct {
		root  *Root
		certs []*Certificate
		want  error
	}{
		"counts with no other certificate known":                 {root, nil, nil},
		"counts beside its own certificate":                      {root, []*Certificate{first}, nil},
		"counts when a later certificate names it":               {root, []*Certificate{second, first}, nil},
		"counts when a later certificate names a later one":      {root, []*Certificate{later(2, Head{"web", 43, [32]byte{1}})}, nil},
		"counts under the latest independent of the older ones":  {underSecond, []*Certificate{first, second}, nil},
		"counts when all later certificates name it":             {root, []*Certificate{later(3, Head{"web", 50, [32]byte{1}}), second}, nil},
		"ends after the head that was named":                     {root, []*Certificate{later(2, Head{"web", 41, [32]byte{1}})}, ErrEnded},
		"ends when another root was named at its number":         {root, []*Certificate{later(2, Head{"web", 42, [32]byte{1}})}, ErrEnded},
		"ends when its environment was not named":                {root, []*Certificate{later(2, Head{"db", 99, [32]byte{1}})}, ErrEnded},
		"ends when no heads were named":                          {root, []*Certificate{later(2)}, ErrEnded},
		"ends by any of the later certificates":                  {root, []*Certificate{later(3, Head{"web", 50, [32]byte{1}}), later(2, Head{"web", 41, [32]byte{1}})}, ErrEnded},
		"ends when the repository has another one of the serial": {root, []*Certificate{later(1)}, ErrEnded},
		"counts beside one that the owner did not sign":          {root, []*Certificate{forged}, nil},
		"counts beside one of another host":                      {root, []*Certificate{otherHost}, nil},
		"counts beside one of another repository":                {root, []*Certificate{otherRepository}, nil},
		"signed by another key than the certified":               {mustParse(t, ParseRoot, sampleRoot(first), newKey), nil, ErrSignature},
		"with a certificate that the owner did not sign":         {mustParse(t, ParseRoot, sampleRoot(forged), newKey), nil, ErrSignature},
	} {
		t.Run(name, func(t *testing.T) {
			if err := CheckRootCertificate(c.root, c.certs, public(ownerKey), repo); !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
		})
	}
}

func testATombstoneOrAcceptanceCountsOnlyUnderTheNewestCertificate(t *testing.T) {
	first := mustParse(t, ParseCertificate, certificate(1, hostKey), ownerKey)
	second := mustParse(t, ParseCertificate, certificate(2, strange), ownerKey)
	forged := mustParse(t, ParseCertificate, certificate(3, strange), strange)
	for name, c := range map[string]struct {
		of    *Certificate
		key   ed25519.PrivateKey
		certs []*Certificate
		want  error
	}{
		"of the only certificate":             {first, hostKey, []*Certificate{first}, nil},
		"of the newest certificate":           {second, strange, []*Certificate{second, first}, nil},
		"of one that ended":                   {first, hostKey, []*Certificate{second, first}, ErrEnded},
		"beside one that the owner never saw": {first, hostKey, []*Certificate{forged, first}, nil},
		"of the owner, with any certificates": {nil, ownerKey, []*Certificate{second, first}, nil},
		"of a stranger":                       {nil, strange, nil, ErrSignature},
	} {
		t.Run(name, func(t *testing.T) {
			x := mustParse(t, ParseTombstone, &Tombstone{Repository: repo, Host: "web-7", Environment: "web", Serial: 1, Made: at, Certificate: c.of}, c.key)
			if err := CheckTombstoneCertificate(x, c.certs, public(ownerKey), repo); !errors.Is(err, c.want) {
				t.Errorf("tombstone: error %v, want %v", err, c.want)
			}
			y := mustParse(t, ParseAcceptance, &Acceptance{Repository: repo, Host: "web-7", Environment: "web", Serial: 1, Accepted: []Accepted{{1, [32]byte{1}}}, Made: at, Certificate: c.of}, c.key)
			if err := CheckAcceptanceCertificate(y, c.certs, public(ownerKey), repo); !errors.Is(err, c.want) {
				t.Errorf("acceptance: error %v, want %v", err, c.want)
			}
		})
	}
}
