package posix

import (
	"slices"
	"testing"
)

func TestMounts(t *testing.T) {
	t.Run("those of a root are all of them", func(t *testing.T) {
		of := func(at string) []Mount {
			m, err := Mounts(at)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		proc := func(m Mount) bool { return m.Path == "/proc" && m.Type == "proc" && m.Root == "/" && m.Device != "" }
		if !slices.ContainsFunc(of("/proc"), proc) || !slices.ContainsFunc(of("/"), proc) {
			t.Errorf("below / are %v, and below /proc %v", of("/"), of("/proc"))
		}
		if m := of("/pro"); len(m) != 0 {
			t.Errorf("below /pro are %v", m)
		}
	})
}
