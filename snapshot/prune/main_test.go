package prune_test

import (
	"log"
	"testing"

	"knowngood/internal/enginetest"
)

func TestMain(m *testing.M) {
	if err := enginetest.InMemory(); err != nil {
		log.Fatal(err)
	}
	m.Run()
}
