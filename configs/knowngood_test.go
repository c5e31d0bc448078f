package configs

import "testing"

func TestKnownGood(t *testing.T) {
	t.Run("the level that is required is read", func(t *testing.T) {
		for text, want := range map[string]string{
			"{sources: [{path: /a}]}":                                   "restored",
			"{sources: [{path: /a}], drill: {schedule: '@daily'}}":      "restored",
			"{sources: [{path: /a}], known_good: {require: probed}}":    "probed",
			"{sources: [{path: /a}], known_good: {not_older_than: 1d}}": "restored",
		} {
			c, err := Parse("f", []byte("environments: {a: "+text+"}"), LoadOptions{})
			if err != nil {
				t.Errorf("%s: %v", text, err)
				continue
			}
			if got := c.Environments["a"].Required(); got != want {
				t.Errorf("%s: %s, want %s", text, got, want)
			}
		}
		probes := &Environment{Drill: &Drill{Probes: make([]Probe, 1)}}
		if got := probes.Required(); got != "probed" {
			t.Errorf("with probes: %s", got)
		}
		for sample, want := range map[Percent]string{99: "restored", 100: "probed"} {
			probes.Drill.Sample = &sample
			if got := probes.Required(); got != want {
				t.Errorf("with probes, and a sample of %d %%: %s", sample, got)
			}
		}
		probes.KnownGood = &KnownGood{Require: "restored"}
		if got := probes.Required(); got != "restored" {
			t.Errorf("with probes, and restored is enough: %s", got)
		}
	})
}
