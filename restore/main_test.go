package restore_test

import (
	"flag"
	"log"
	"os"
	"testing"

	"knowngood/internal/enginetest"
)

func TestMain(m *testing.M) {
	if err := enginetest.InMemory(); err != nil {
		log.Fatal(err)
	}
	if !enginetest.Slow() && os.Getenv("RAPID_CHECKS") == "" {
		if err := flag.Set("rapid.checks", "25"); err != nil {
			log.Fatal(err)
		}
	}
	m.Run()
}
