package trust

import (
	"fmt"
	"knowngood/storage/layout"
	"strings"
	"testing"
)

func TestFindRecipient(t *testing.T) {
	t.Run("a recipient is found by the beginning of its fingerprint", testARecipientIsFoundByTheBeginOfItsFingerprint)
}

func testARecipientIsFoundByTheBeginOfItsFingerprint(t *testing.T) {
	// Two whose fingerprints begin alike, and one that begins otherwise.
	var list []string
	seen := map[string]string{}
	for i := 0; len(list) < 2; i++ {
		text := fmt.Sprintf("age1key%d", i)
		begin := layout.RecipientFingerprint(text)[:leastPrefix]
		if other, ok := seen[begin]; ok {
			list = []string{other, text}
		}
		seen[begin] = text
	}
	list = append(list, "age1another")
	a, b, c := layout.RecipientFingerprint(list[0]), layout.RecipientFingerprint(list[1]), layout.RecipientFingerprint(list[2])
	differ := leastPrefix
	for a[differ] == b[differ] {
		differ++
	}

	for name, want := range map[string]int{
		list[1]: 1, a: 0, a[:differ+1]: 0, b[:differ+1]: 1, c[:leastPrefix]: 2, strings.ToUpper(c[:8]): 2,
		"": -1, c[:leastPrefix-1]: -1, c[1:9]: -1, c + "0": -1,
	} {
		if got, err := findRecipient(list, name); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", name, got, err, want)
		}
	}
	if _, err := findRecipient(list, a[:differ]); err == nil || !strings.Contains(err.Error(), a) || !strings.Contains(err.Error(), b) {
		t.Errorf("%q, which two begin with: %v", a[:differ], err)
	}
}
