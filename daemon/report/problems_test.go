package report

import (
	"encoding/json"
	"testing"
)

func TestProblems(t *testing.T) {
	t.Run("a problem keeps the path that JSON cannot hold", func(t *testing.T) {
		for _, path := range []string{"", "srv/web", "srv/n\xff"} {
			b, err := json.Marshal(MakeProblem(path, "why"))
			if err != nil {
				t.Fatal(err)
			}
			var p Problem
			if err := json.Unmarshal(b, &p); err != nil || p.InManifest() != path || p.Error != "why" {
				t.Errorf("%q became %q (%s, %v)", path, p.InManifest(), b, err)
			}
		}
	})
}
