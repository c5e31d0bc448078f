package dir

import (
	"testing"

	"knowngood/storage"
	"knowngood/storage/storagetest"
)

func TestADirectoryKeepsTheContract(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store {
		s, err := Create(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
