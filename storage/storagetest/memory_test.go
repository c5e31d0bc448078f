package storagetest_test

import (
	"testing"

	"knowngood/storage"
	"knowngood/storage/storagetest"
)

func TestMemoryKeepsTheContract(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return storagetest.NewMemory() }, storagetest.Versions, storagetest.Locks, storagetest.Checksums)
}

func TestPlainMemoryKeepsTheContract(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return storagetest.NewPlainMemory() }, storagetest.Checksums)
}
