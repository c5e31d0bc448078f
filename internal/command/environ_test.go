package command

import (
	"slices"
	"strings"
	"testing"
)

func TestEnviron(t *testing.T) {
	t.Run("a program inherits no credentials", func(t *testing.T) {
		secret := []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
			"KNOWNGOOD_PIN", "KNOWNGOOD_IDENTITY", "KNOWNGOOD_REPO", "KNOWNGOOD_MAIL_PASSWORD"}
		for _, name := range secret {
			t.Setenv(name, "hunter2")
		}
		t.Setenv("OF_THE_HOOK", "kept")
		t.Setenv("KNOWNGOOD_RESULT", "stale")

		c, said := sh("env")
		c.Env = []string{"KNOWNGOOD_RESULT=success"}
		if err := run(t, c); err != nil {
			t.Fatal(err)
		}
		for _, line := range *said {
			name, value, _ := strings.Cut(strings.TrimPrefix(line, "stdout: "), "=")
			if slices.Contains(secret, name) || strings.Contains(value, "hunter2") {
				t.Errorf("the program gets %s", line)
			}
		}
		for _, want := range []string{"OF_THE_HOOK=kept", "KNOWNGOOD_RESULT=success"} {
			if !slices.Contains(*said, "stdout: "+want) {
				t.Errorf("the program does not get %s", want)
			}
		}
		if slices.Contains(*said, "stdout: KNOWNGOOD_RESULT=stale") {
			t.Error("the program gets the result of another run")
		}
	})
}
