package signs_test

import (
	"flag"
	"math/rand/v2"
	"testing"

	"knowngood/internal/enginetest"
	"knowngood/snapshot/signs"
)

var (
	signsRuns     = flag.Int("signs.runs", 20, "how many runs of each load TestSlow simulates")
	signsCaptures = flag.Int("signs.captures", 3, "how many real captures of each load TestSlow compares with the simulation")
)

func TestLoads(t *testing.T) {
	t.Parallel()

	t.Run("none looks like an encryptor", func(t *testing.T) {
		t.Parallel()
		testLoads(t, 10)
	})
}

// What docs/SECURITY.md has of false alarms, and of how soon encryptors are seen, came of
// -signs.runs 1000 -signs.captures 15. With 7,000 runs and no alarm there are fewer than 1
// in 2,300, with a confidence of 95 %.
func TestSlow(t *testing.T) {
	if !enginetest.Slow() {
		t.Skip("KNOWNGOOD_SLOW=1 runs it")
	}
	t.Run("no load looks like an encryptor", func(t *testing.T) { testLoads(t, *signsRuns) })
	t.Run("encryptors are seen", func(t *testing.T) { testEncryptors(t, uint64(min(10, *signsRuns/20)), 1000, 100, 20, 10, 5, 2) })
	t.Run("captures see what the simulation sees", func(t *testing.T) { testCaptures(t, *signsCaptures) })
}

// testLoads runs each load so many times, in lives of at most 60 runs.
func testLoads(t *testing.T, runs int) {
	for i, l := range loads {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			n, alarms, most := 0, 0, 0
			var sum signs.Counts
			for life := 0; n < runs; life++ {
				r := rand.New(rand.NewPCG(uint64(i), uint64(life)))
				files, m := l.begin(r), &machine{}
				m.run(files)
				for run := range min(60, runs-n) {
					l.step(r, files, run)
					c, suspect := m.run(files)
					n++
					sum.Changed, sum.Encrypted = sum.Changed+c.Changed, sum.Encrypted+c.Encrypted
					sum.New, sum.NewRandom, sum.Gone = sum.New+c.New, sum.NewRandom+c.NewRandom, sum.Gone+c.Gone
					most = max(most, c.Encrypted)
					if suspect {
						alarms++
						t.Logf("life %d, run %d: %+v, %+v", life, run, c, m.state)
						m.state = signs.State{}
					}
				}
			}
			t.Logf("%d runs, %d alarms; of %d changed files %d look encrypted, at most %d in a run; %d and %d new (random), %d gone", n, alarms, sum.Changed, sum.Encrypted, most, sum.New, sum.NewRandom, sum.Gone)
			if sum.Changed+sum.New < 10*n {
				t.Errorf("only %d files changed in %d runs", sum.Changed+sum.New, n)
			}
			if alarms > 0 {
				t.Errorf("%d alarms in %d runs", alarms, n)
			}
		})
	}
}
