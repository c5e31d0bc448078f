package repository

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"knowngood/storage"
	"knowngood/storage/statement"
	"knowngood/storage/storagetest"
)

func TestAFullDiskIsSaidToBeFullAndTheFlagIsNamed(t *testing.T) {
	l := local{stateDir: "/var/lib/knowngood"}
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		err := l.wrap(&os.PathError{Op: "write", Path: "x", Err: full})
		if !errors.Is(err, full) || !strings.Contains(err.Error(), "free space") || !strings.Contains(err.Error(), "--state-dir") || !strings.Contains(err.Error(), l.stateDir) {
			t.Errorf("error %v", err)
		}
	}
}

func TestRememberedHeadsOnlyGrowAndDamageIsNamed(t *testing.T) {
	l := local{stateDir: t.TempDir()}
	for _, n := range []uint64{2, 1, 3, 2} {
		if err := l.rememberHead("h", statement.Head{Environment: "web", Number: n, Hash: [32]byte{byte(n)}}); err != nil {
			t.Fatal(err)
		}
	}
	if h, err := l.head("h", "web"); err != nil || h.Number != 3 || h.Hash != [32]byte{3} {
		t.Errorf("remembered %+v, %v", h, err)
	}
	for _, content := range []string{"", "x", "3", "3 zz", "0 " + strings.Repeat("00", 32), "3 " + strings.Repeat("00", 31)} {
		if err := os.WriteFile(l.dir().Path(headFile("h", "web")), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := l.head("h", "web"); err == nil || !strings.Contains(err.Error(), "heads/h/web") {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestAContentNamedObjectIsReadFromBeneathTheCurrentView(t *testing.T) {
	store := storagetest.NewMemory()
	r := &Repository{store: store}
	body := []byte("0123456789")
	sum := sha256.Sum256(body)
	if err := store.Put(t.Context(), "k", body, storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	store.Overwrite("k", []byte("rubbish"))
	for _, c := range []struct {
		offset, length int64
		want           string
		err            error
	}{{0, -1, "0123456789", nil}, {3, 4, "3456", nil}, {8, -1, "89", nil}, {20, -1, "", nil}, {8, 4, "", io.ErrUnexpectedEOF}} {
		b, err := r.readHidden(t.Context(), "k", sum, c.offset, c.length, storage.ErrNotFound)
		if string(b) != c.want || !errors.Is(err, c.err) {
			t.Errorf("%d+%d: %q, %v", c.offset, c.length, b, err)
		}
	}
	if len(r.Warnings()) != 1 || r.Warnings() != nil {
		t.Error("the warning is not given once")
	}
	var d *DamageError
	if _, err := r.readHidden(t.Context(), "k", [32]byte{}, 0, -1, storage.ErrNotFound); !errors.As(err, &d) || !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("no such version: %v", err)
	}
	if _, err := (&Repository{store: storagetest.NewPlainMemory()}).readHidden(t.Context(), "k", sum, 0, -1, storage.ErrNotFound); !errors.As(err, &d) {
		t.Errorf("a store without versions: %v", err)
	}
}
