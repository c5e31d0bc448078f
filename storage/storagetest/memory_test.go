package storagetest_test

import (
	"testing"

	"knowngood/storage"
	"knowngood/storage/storagetest"
)

func TestMemory(t *testing.T) {
	t.Run("keeps the contract", testMemoryKeepsTheContract)
	t.Run("keeps the contract without versions and locks", testPlainMemoryKeepsTheContract)
}

func testMemoryKeepsTheContract(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return storagetest.NewMemory() }, storagetest.Versions, storagetest.Locks, storagetest.Checksums)
}

func testPlainMemoryKeepsTheContract(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return storagetest.NewPlainMemory() }, storagetest.Checksums)
}
