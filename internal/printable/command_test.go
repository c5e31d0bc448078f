package printable

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCommandLines(t *testing.T) {
	t.Parallel()
	for want, argv := range map[string][]string{
		"pg_restore --clean -d web":           {"pg_restore", "--clean", "-d", "web"},
		"sh -c 'cat >\"$1\"' sh '' --db=x":    {"sh", "-c", `cat >"$1"`, "sh", "", "--db=x"},
		`echo 'it'\''s'`:                      {"echo", "it's"},
		`echo $'a\033[2J\012\302\205b\'c\\d'`: {"echo", "a\x1b[2J\n\u0085b'c\\d"},
		`echo $'\3771' $'\342\200\256x' grün`: {"echo", "\xff1", "\u202ex", "grün"},
		`'A=b' c=d`:                           {"A=b", "c=d"},
		"$'�\\377' � 'a b' '~' '{a}'":         {"�\xff", "�", "a b", "~", "{a}"},
	} {
		if got := Command(argv); got != want {
			t.Errorf("%q is %s, want %s", argv, got, want)
		}
	}
	t.Run("are one printable line that bash takes for the same words", func(t *testing.T) {
		t.Parallel()
		if _, err := exec.LookPath("bash"); err != nil {
			t.Skip("there is no bash")
		}
		word := rapid.Custom(func(t *rapid.T) string {
			return strings.ReplaceAll(string(rapid.SliceOfN(rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte("'\"\\$`\n\x1b 1=!"))), 0, 12).Draw(t, "bytes")), "\x00", "")
		})
		rapid.Check(t, func(t *rapid.T) {
			argv := rapid.SliceOfN(word, 1, 5).Draw(t, "argv")
			line := Command(argv)
			for _, r := range line {
				if !strconv.IsPrint(r) {
					t.Fatalf("%q has %q in it", line, r)
				}
			}
			out, err := exec.Command("bash", "-c", "printf '%s\\0' "+line).Output()
			if err != nil || string(out) != strings.Join(argv, "\x00")+"\x00" {
				t.Fatalf("bash takes %s for %q, want %q (%v)", line, out, argv, err)
			}
		})
	})
}
