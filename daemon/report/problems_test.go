package report

import (
	"encoding/json"
	"testing"
)

func TestAProblemKeepsThePathThatJSONCannotHold(t *testing.T) {
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
}
