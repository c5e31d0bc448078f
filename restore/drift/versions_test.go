package drift

import (
	"os/exec"
	"testing"
)

// versions are in the order of deb-version(7).
var versions = []string{"~~", "~~a", "~", "", "0.9~rc2-1", "0.9", "1.0~", "1.0", "1.0-0.1", "1.0-1", "1.0-1+b1", "1.0-1.1", "1.0-10", "1.0a", "1.0+dfsg", "1.9", "1.10", "1.10-2", "1.10.1-1", "2", "10", "1:0", "1:0.1", "10:0"}

func TestVersions(t *testing.T) {
	t.Parallel()

	t.Run("are ordered as dpkg orders them", func(t *testing.T) {
		t.Parallel()
		for i, a := range versions {
			for k, b := range versions {
				if got := compareVersions(a, b); got < 0 != (i < k) || got > 0 != (i > k) {
					t.Errorf("%q and %q: %d", a, b, got)
				}
			}
		}
		dpkg, err := exec.LookPath("dpkg")
		if err != nil {
			t.Skip("no dpkg to compare with")
		}
		for i := 4; i+1 < len(versions); i++ { // those that dpkg takes
			if err := exec.Command(dpkg, "--compare-versions", versions[i], "lt", versions[i+1]).Run(); err != nil {
				t.Errorf("dpkg does not have %q before %q", versions[i], versions[i+1])
			}
		}
	})
}
