package daemon

import (
	"log"
	"testing"

	"go.uber.org/goleak"

	"knowngood/internal/enginetest"
)

func TestMain(m *testing.M) {
	if err := enginetest.InMemory(); err != nil {
		log.Fatal(err)
	}
	goleak.VerifyTestMain(m)
}
