package authentic

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	"knowngood/storage"
	"knowngood/storage/storagetest"
)

// good verifies what begins with the word. Like a signature, it fits several contents.
func good(object []byte) error {
	if !strings.HasPrefix(string(object), "good") {
		return errors.New("not good")
	}
	return nil
}

// versions puts bodies one over the other at key k; "-" is a delete marker.
func versions(t *testing.T, bodies ...string) *storagetest.Memory {
	t.Helper()
	m := storagetest.NewMemory()
	for i, b := range bodies {
		var err error
		switch {
		case b == "-":
			err = m.Delete(t.Context(), "k")
		case i == 0:
			err = m.Put(t.Context(), "k", []byte(b), storage.PutOptions{})
		default:
			m.Overwrite("k", []byte(b))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestListed(t *testing.T) {
	for name, c := range map[string]struct {
		versions []string
		want     string // "" for damage
		report   string // part of it; "" for none
	}{
		"the only version":                              {[]string{"good"}, "good", ""},
		"the earliest of two that verify":               {[]string{"good 1", "good 2"}, "good 1", "other bytes in its place since"},
		"the one below rubbish":                         {[]string{"good 1", "rubbish"}, "good 1", "other bytes in its place since"},
		"the one that a delete marker hides":            {[]string{"good 1", "-"}, "good 1", "hidden by a delete marker since"},
		"the earliest that verifies, above rubbish":     {[]string{"rubbish", "good 1"}, "good 1", ""},
		"the same bytes put twice are no finding":       {[]string{"good 1", "good 1"}, "good 1", ""},
		"what is longer than the limit is passed over":  {[]string{"good" + strings.Repeat(".", 100), "good 1"}, "good 1", ""},
		"rubbish alone is damage":                       {[]string{"rubbish"}, "", ""},
		"rubbish over rubbish is damage":                {[]string{"rubbish", "more"}, "", ""},
		"rubbish below a delete marker is damage":       {[]string{"rubbish", "-"}, "", ""},
		"what is longer than the limit alone is damage": {[]string{"good" + strings.Repeat(".", 100)}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var found []error
			r := NewReader(versions(t, c.versions...), func(f Finding) { found = append(found, f.Err) })
			object, err := r.Get(t.Context(), "k", Want{What: "statement", Limit: 50, Verify: good})
			if string(object.Bytes) != c.want {
				t.Errorf("read %q, want %q", object.Bytes, c.want)
			}
			if damaged := Unverified(err); damaged != (c.want == "") || err != nil && !damaged {
				t.Errorf("error %v", err)
			}
			if (len(found) == 1) != (c.report != "") || len(found) == 1 && !strings.Contains(found[0].Error(), c.report) {
				t.Errorf("reported %v, want %q", found, c.report)
			}
			if err == nil && object.Stored.IsZero() {
				t.Error("it is not said when the store took it")
			}
		})
	}
	t.Run("a missing object is damage that says so", func(t *testing.T) {
		_, err := NewReader(versions(t), nil).Get(t.Context(), "k", Want{What: "statement", Limit: 50, Verify: good})
		if !Damaged(err) || !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a store without versions has the current view alone", func(t *testing.T) {
		m := storagetest.NewPlainMemory()
		if err := m.Put(t.Context(), "k", []byte("good"), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		object, err := NewReader(m, nil).Get(t.Context(), "k", Want{What: "statement", Limit: 50, Verify: good})
		if err != nil || string(object.Bytes) != "good" {
			t.Errorf("read %q, %v", object.Bytes, err)
		}
	})
}

// refusing is a store that does not give out the current view of key k.
func refusing(t *testing.T, as error, bodies ...string) *storagetest.Faulty {
	return storagetest.NewFaulty(versions(t, bodies...), storagetest.Rule{Op: storagetest.Get, Prefix: "k", Fault: storagetest.FailBefore(as)})
}

func TestWithheld(t *testing.T) {
	want := Want{What: "statement", Limit: 50, Verify: good}
	body := "good 1"
	sum := sha256.Sum256([]byte(body))
	reads := map[string]func(r *Reader) ([]byte, error){
		"listed": func(r *Reader) ([]byte, error) {
			object, err := r.Get(t.Context(), "k", want)
			return object.Bytes, err
		},
		"exact":   func(r *Reader) ([]byte, error) { return r.Exact(t.Context(), "k", want) },
		"a range": func(r *Reader) ([]byte, error) { return r.Hashed("pack", 50).Range(t.Context(), nil, "k", sum, 0, 6) },
		"whole":   func(r *Reader) ([]byte, error) { return r.Hashed("pack", 50).Whole(t.Context(), nil, "k", sum, -1) },
		"compared": func(r *Reader) ([]byte, error) {
			return []byte(body), r.Hashed("pack", 50).Compare(t.Context(), "k", sum, -1, nil)
		},
	}
	for name, read := range reads {
		for _, as := range []error{storage.ErrWithheld, storage.ErrDenied} {
			if name == "exact" && as == storage.ErrDenied {
				continue
			}
			t.Run(fmt.Sprintf("%s: when the current version is refused with %v, the older one is read", name, as), func(t *testing.T) {
				var found []error
				b, err := read(NewReader(refusing(t, as, body, "x"), func(f Finding) { found = append(found, f.Err) }))
				if err != nil || string(b) != body {
					t.Errorf("read %q, %v", b, err)
				}
				if len(found) != 1 || !Tampered(found[0]) {
					t.Errorf("reported %v", found)
				}
			})
		}
		t.Run(name+": an only version that is withheld is damage that names the key", func(t *testing.T) {
			_, err := read(NewReader(refusing(t, storage.ErrWithheld, "x"), nil))
			if !Unverified(err) || FindingOf(err).Key != "k" || !errors.Is(err, storage.ErrWithheld) {
				t.Errorf("error %v", err)
			}
		})
		t.Run(name+": versions that are withheld are passed over", func(t *testing.T) {
			s := refusing(t, storage.ErrWithheld, "x", body, "y")
			s.Add(storagetest.Rule{Op: storagetest.GetVersion, Prefix: "k", Nth: 1, Fault: storagetest.FailBefore(storage.ErrWithheld)})
			if b, err := read(NewReader(s, nil)); err != nil || string(b) != body {
				t.Errorf("read %q, %v", b, err)
			}
		})
		t.Run(name+": credentials that may not read it are no damage", func(t *testing.T) {
			for _, bodies := range [][]string{{body}, {body, "x"}} {
				s := refusing(t, storage.ErrDenied, bodies...)
				s.Add(storagetest.Rule{Op: storagetest.GetVersion, Prefix: "k", Fault: storagetest.FailBefore(storage.ErrDenied)})
				if _, err := read(NewReader(s, nil)); !errors.Is(err, storage.ErrDenied) || Damaged(err) {
					t.Errorf("%d versions: error %v", len(bodies), err)
				}
			}
		})
		t.Run(name+": a store that is unavailable is no damage", func(t *testing.T) {
			if _, err := read(NewReader(refusing(t, storage.ErrUnavailable, body, "x"), nil)); !errors.Is(err, storage.ErrUnavailable) || Damaged(err) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestOneVersion(t *testing.T) {
	t.Run("the store is not asked for others", func(t *testing.T) {
		m := versions(t, "good")
		m.Overwrite("other", []byte("x"))
		s := storagetest.NewFaulty(m)
		s.Add(storagetest.Rule{Op: storagetest.ListOfKey, Fault: storagetest.FailBefore(errors.New("asked for versions"))})
		if _, err := NewReader(s, nil).Get(t.Context(), "k", Want{What: "statement", Limit: 50, Verify: good}); err != nil {
			t.Error(err)
		}
		if _, err := NewReader(s, nil).Exact(t.Context(), "k", Want{What: "statement", Limit: 50, Verify: good}); err != nil {
			t.Error(err)
		}
	})
}

func TestHashed(t *testing.T) {
	body := "0123456789"
	sum := sha256.Sum256([]byte(body))
	for name, over := range map[string]string{"rubbish": "rubbish", "a delete marker": "-"} {
		t.Run("ranges from below "+name, func(t *testing.T) {
			var found []error
			h := NewReader(versions(t, body, over), func(f Finding) { found = append(found, f.Err) }).Hashed("pack", 1000)
			if v, err := h.uncover(t.Context(), "k", sum); err != nil || v.ID == "" {
				t.Fatal(v, err)
			}
			for _, c := range []struct {
				offset, length int64
				want           string
			}{{0, -1, body}, {3, 4, "3456"}, {8, -1, "89"}, {20, -1, ""}, {0, 10, body}} {
				b, err := h.Range(t.Context(), nil, "k", sum, c.offset, c.length)
				if string(b) != c.want || err != nil {
					t.Errorf("%d+%d: %q, %v", c.offset, c.length, b, err)
				}
			}
			if b, err := h.Whole(t.Context(), nil, "k", sum, -1); err != nil || string(b) != body {
				t.Errorf("whole: %q, %v", b, err)
			}
			if len(found) != 1 || !Tampered(found[0]) {
				t.Errorf("reported %v", found)
			}
		})
	}
	t.Run("complete, without a range before", func(t *testing.T) {
		h := NewReader(versions(t, body, "rubbish"), func(Finding) {}).Hashed("pack", 1000)
		if b, err := h.Whole(t.Context(), nil, "k", sum, -1); err != nil || string(b) != body {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("rubbish that was read while another reader found the object below it is read again", func(t *testing.T) {
		store := storagetest.NewFaulty(versions(t, body, "rubbish"))
		h := NewReader(store, func(Finding) {}).Hashed("pack", 1000)
		store.Add(storagetest.Rule{Op: storagetest.Get, Nth: 1, Fault: storagetest.Meanwhile(func() {
			if found, err := h.uncover(t.Context(), "k", sum); err != nil || found.ID == "" {
				t.Error(found, err)
			}
		})})
		if b, err := h.Whole(t.Context(), nil, "k", sum, -1); err != nil || string(b) != body {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("a range that the object does not have is damage", func(t *testing.T) {
		h := NewReader(versions(t, body, "rubbish"), func(Finding) {}).Hashed("pack", 1000)
		if _, err := h.uncover(t.Context(), "k", sum); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Range(t.Context(), nil, "k", sum, 8, 4); !Damaged(err) {
			t.Errorf("error %v", err)
		}
	})
	for name, m := range map[string]storage.Store{"no version has the hash": versions(t, "rubbish", "more"), "no versions": func() storage.Store {
		m := storagetest.NewPlainMemory()
		if err := m.Put(t.Context(), "k", []byte("rubbish"), storage.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		return m
	}()} {
		t.Run(name, func(t *testing.T) {
			h := NewReader(m, func(f Finding) { t.Error(f.Err) }).Hashed("pack", 1000)
			if _, err := h.Whole(t.Context(), nil, "k", sum, -1); !Damaged(err) || !strings.Contains(fmt.Sprint(err), "not those of its name") {
				t.Errorf("error %v", err)
			}
		})
	}
}
