package posix_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"knowngood/internal/posix"
)

func TestWritebackWindow(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		expire, wake string // "" is no such file
		want         time.Duration
	}{
		"the kernel's defaults":                  {"3000\n", "500\n", 40 * time.Second},
		"no such settings":                       {"", "", 40 * time.Second},
		"settings that are no numbers":           {"soon\n", "-1\n", 40 * time.Second},
		"shorter":                                {"100\n", "50\n", 2 * time.Second},
		"longer than is waited for":              {"360000\n", "500\n", 5 * time.Minute},
		"pages that are not written for age":     {"3000\n", "0\n", 5 * time.Minute},
		"a number that is larger than any clock": {"2147483647\n", "2147483647\n", 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range map[string]string{"dirty_expire_centisecs": test.expire, "dirty_writeback_centisecs": test.wake} {
				if content == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := posix.WritebackWindow(dir); got != test.want {
				t.Errorf("%v, not %v", got, test.want)
			}
		})
	}
}
