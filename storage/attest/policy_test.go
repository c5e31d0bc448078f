package attest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"knowngood/storage/statement"
)

// hour is the store's time in the table: hours since now.
func hour(n int) time.Time { return now.Add(time.Duration(n) * time.Hour) }

func idOf(number uint64) [32]byte { return [32]byte{byte(number), 0xee} }

// attested reads results as "42 probed 3": of snapshot 42, taken in hour 3. Words after
// these are: self, failed, again (put again ten days later), other (of another root at that
// number), partial.
func attested(t *testing.T, lines ...string) (all []*Attestation) {
	t.Helper()
	for _, line := range lines {
		var number uint64
		var level string
		var at int
		if _, err := fmt.Sscan(line, &number, &level, &at); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		a := &Attestation{Result: &Result{Subject: Subject{"web-1", "web", number, idOf(number)}, Machine: "drill-1", Passed: true, Isolation: Isolation{Rung: "namespaces", Base: "none"}, Started: hour(at), Phases: []Phase{{"restore", 41 * time.Second}}}, Stored: hour(at)}
		var err error
		if a.Level, err = ParseLevel(level); err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.Fields(line)[3:] {
			switch word {
			case "self":
				a.SelfAttested, a.Machine = true, "web-1"
			case "failed":
				a.Passed = false
			case "again": // put again ten days later
				a.Stored = a.Stored.Add(240 * time.Hour)
			case "revoked":
				a.Err = ErrRevoked
			case "scope":
				a.Err = statement.ErrOutOfScope
			case "uncertified":
				a.Result, a.Err = nil, ErrUncertified
			case "other":
				a.Subject.ID[5] = 1
			default:
				t.Fatalf("%q: %s", line, word)
			}
		}
		all = append(all, a)
	}
	return all
}

// marksOf reads marks, the newest last, as "owner bad 3" and "drill clear 3".
func marksOf(t *testing.T, lines ...string) *Marks {
	t.Helper()
	m := &Marks{}
	for _, line := range lines {
		var by, word string
		var number uint64
		if _, err := fmt.Sscan(line, &by, &word, &number); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		x := said{&statement.Mark{Reason: "corrupt", Marked: []statement.Marked{{Number: number, ID: idOf(number), Bad: word == "bad"}}}, by, by == "owner"}
		list := &m.said
		if by == "host" {
			list = &m.host
		}
		*list = append([]said{x}, *list...)
	}
	return m
}

func TestPolicy(t *testing.T) {
	t.Run("which snapshot is known good", func(t *testing.T) {
		probed, restored := Policy{Require: Probed}, Policy{Require: Restored}
		for name, c := range map[string]struct {
			policy    Policy
			snapshots string // the newest first: a number, with s for suspect, p for partial, d for damaged
			results   []string
			marks     []string
			want      string // the number, or none; and why the newer ones were passed over
		}{
			"no snapshot":                                       {Policy{}, "", nil, nil, "none"},
			"no drill":                                          {Policy{}, "2 1", nil, nil, "none | no drill has passed | no drill has passed"},
			"without a requirement any level":                   {Policy{}, "2 1", []string{"1 restored 0"}, nil, "1 | no drill has passed"},
			"the newest of two by number":                       {Policy{}, "2 1", []string{"1 restored 9", "2 restored 0"}, nil, "2"},
			"the newest by number and not by proof":             {probed, "3 2 1", []string{"3 probed 0", "1 probed 9"}, nil, "3"},
			"a level that is too low":                           {probed, "2 1", []string{"2 restored 5", "1 probed 0"}, nil, "1 | it is proven as restored, and probed is required"},
			"a level that is higher":                            {restored, "2", []string{"2 probed 0"}, nil, "2"},
			"a booted one":                                      {probed, "2", []string{"2 booted 0"}, nil, "2"},
			"none at the level":                                 {probed, "2", []string{"2 restored 0"}, nil, "none | it is proven as restored, and probed is required"},
			"a failure after a pass":                            {Policy{}, "2 1", []string{"1 probed 0", "2 probed 0", "2 probed 1 failed"}, nil, "1 | the drill on drill-1 failed"},
			"a failure before a pass":                           {Policy{}, "2 1", []string{"2 probed 1", "2 probed 0 failed"}, nil, "2"},
			"a pass after a failure after a pass":               {probed, "2", []string{"2 probed 0", "2 probed 1 failed", "2 probed 2"}, nil, "2"},
			"a failure after a pass after a failure":            {probed, "2", []string{"2 probed 0 failed", "2 probed 1", "2 probed 2 failed"}, nil, "none | the drill on drill-1 failed"},
			"a failure and a pass in one moment":                {Policy{}, "2", []string{"2 probed 1", "2 probed 1 failed"}, nil, "none | the drill on drill-1 failed"},
			"a pass that is put again after a failure":          {Policy{}, "2 1", []string{"1 probed 0", "2 probed 0 again", "2 probed 2 failed"}, nil, "1 | the drill on drill-1 failed"},
			"a failure that is put again after a pass":          {Policy{}, "2 1", []string{"1 probed 0", "2 probed 1", "2 probed 0 failed again"}, nil, "1 | the drill on drill-1 failed"},
			"a proof that is put again stays old":               {Policy{NotOlderThan: time.Hour}, "2", []string{"2 probed -9000 again"}, nil, "2"},
			"a lower pass does not end a failure":               {probed, "2", []string{"2 probed 0", "2 probed 1 failed", "2 restored 2"}, nil, "none | the drill on drill-1 failed"},
			"a lower pass does not end a higher":                {probed, "2", []string{"2 probed 0", "2 restored 1"}, nil, "2"},
			"a failure whose level was low":                     {restored, "2", []string{"2 probed 0", "2 restored 1 failed"}, nil, "none | the drill on drill-1 failed"},
			"a failure that names no level":                     {restored, "2", []string{"2 probed 0", "2 unproven 1 failed"}, nil, "none | the drill on drill-1 failed"},
			"a failure of another snapshot":                     {restored, "2 1", []string{"2 probed 0", "1 probed 1 failed"}, nil, "2"},
			"by a revoked key":                                  {Policy{}, "2 1", []string{"2 probed 0 revoked", "1 probed 0"}, nil, "1 | no drill has passed"},
			"a failure by a revoked key ends nothing":           {Policy{}, "2", []string{"2 probed 0", "2 probed 1 failed revoked"}, nil, "2"},
			"by a key out of scope":                             {Policy{}, "2", []string{"2 probed 0 scope"}, nil, "none | no drill has passed"},
			"by a key that nobody certified":                    {Policy{}, "2", []string{"2 probed 0 uncertified"}, nil, "none | no drill has passed"},
			"of another root at the number":                     {Policy{}, "2 1", []string{"2 probed 0 other", "1 probed 0"}, nil, "1 | no drill has passed"},
			"self-attested":                                     {Policy{}, "2", []string{"2 probed 0 self"}, nil, "none | only the machine that captured it attests it, which counts with --self-attested"},
			"self-attested where that counts":                   {Policy{SelfAttested: true}, "2", []string{"2 probed 0 self"}, nil, "2"},
			"self-attested beside another":                      {Policy{}, "2", []string{"2 probed 0", "2 probed 1 self"}, nil, "2"},
			"a failure that is self-attested ends nothing":      {Policy{}, "2", []string{"2 probed 0", "2 probed 1 self failed"}, nil, "2"},
			"a failure that is self-attested where that counts": {Policy{SelfAttested: true}, "2", []string{"2 probed 0", "2 probed 1 self failed"}, nil, "none | the drill on web-1 failed"},
			"a self-attested pass ends no failure":              {Policy{}, "2", []string{"2 probed 0 failed", "2 probed 1 self"}, nil, "none | the drill on drill-1 failed"},
			"suspect":                                           {Policy{}, "2s 1", []string{"2 probed 0", "1 probed 0"}, nil, "1 | it is suspect, and nobody accepted it"},
			"partial":                                           {Policy{}, "2p 1", []string{"2 probed 0", "1 probed 0"}, nil, "1 | it is partial: something could not be read when it was captured"},
			"partial where that is allowed":                     {Policy{AllowPartial: true}, "2p 1", []string{"2 probed 0", "1 probed 0"}, nil, "2"},
			"suspect and partial where partial is allowed":      {Policy{AllowPartial: true}, "2sp 1", []string{"2 probed 0", "1 probed 0"}, nil, "1 | it is suspect, and nobody accepted it"},
			"damaged": {Policy{}, "2d 1", []string{"2 probed 0", "1 probed 0"}, nil, "1 | damaged"},
			"damaged where partial and self-attested are enough": {Policy{AllowPartial: true, SelfAttested: true}, "2d", []string{"2 probed 0"}, nil, "none | damaged"},
			"marked bad by the owner":                            {Policy{}, "2 1", []string{"2 probed 0", "1 probed 0"}, []string{"owner bad 2"}, "1 | it is marked bad by owner: corrupt"},
			"marked bad by a drill host":                         {Policy{}, "2 1", []string{"2 probed 0", "1 probed 0"}, []string{"drill bad 2"}, "1 | it is marked bad by drill: corrupt"},
			"marked bad by the host itself":                      {Policy{}, "2", []string{"2 probed 0"}, []string{"host bad 2"}, "2"},
			"cleared by who marked it":                           {Policy{}, "2", []string{"2 probed 0"}, []string{"drill bad 2", "drill clear 2"}, "2"},
			"cleared by the owner":                               {Policy{}, "2", []string{"2 probed 0"}, []string{"drill bad 2", "owner clear 2"}, "2"},
			"marked by the owner and cleared by a drill host":    {Policy{}, "2", []string{"2 probed 0"}, []string{"owner bad 2", "drill clear 2"}, "none | it is marked bad by owner: corrupt"},
			"marked by a drill host after the owner cleared":     {Policy{}, "2", []string{"2 probed 0"}, []string{"owner bad 2", "owner clear 2", "drill bad 2"}, "none | it is marked bad by drill: corrupt"},
			"marked and cleared by a drill host after the owner": {Policy{}, "2", []string{"2 probed 0"}, []string{"owner clear 2", "drill bad 2", "drill clear 2"}, "2"},
			"marked again after it was cleared":                  {Policy{}, "2", []string{"2 probed 0"}, []string{"owner bad 2", "owner clear 2", "owner bad 2"}, "none | it is marked bad by owner: corrupt"},
			"cleared by the host alone":                          {Policy{}, "2", []string{"2 probed 0"}, []string{"owner bad 2", "host clear 2"}, "none | it is marked bad by owner: corrupt"},
			"a mark on another":                                  {Policy{}, "2 1", []string{"2 probed 0"}, []string{"owner bad 1"}, "2"},
			"a new pass does not clear a mark":                   {Policy{}, "2", []string{"2 probed 99"}, []string{"owner bad 2"}, "none | it is marked bad by owner: corrupt"},
			"a proof that is old excludes nothing":               {Policy{NotOlderThan: time.Hour}, "2", []string{"2 probed -9000"}, nil, "2"},
			"all of it":                                          {Policy{Require: Probed, AllowPartial: true}, "7s 6d 5 4p 3", []string{"7 probed 0", "6 probed 0", "5 restored 0", "4 probed 0", "3 probed 0"}, nil, "4 | it is suspect, and nobody accepted it | damaged | it is proven as restored, and probed is required"},
		} {
			t.Run(name, func(t *testing.T) {
				f := Facts{Attestations: attested(t, c.results...), Marks: marksOf(t, c.marks...), Now: hour(24)}
				for word := range strings.FieldsSeq(c.snapshots) {
					var x Candidate
					fmt.Sscanf(word, "%d", &x.Number)
					x.ID, x.Suspect, x.Partial = idOf(x.Number), strings.Contains(word, "s"), strings.Contains(word, "p")
					if strings.Contains(word, "d") {
						x.Damage = "damaged"
					}
					f.Snapshots = append(f.Snapshots, x)
				}
				v := c.policy.Judge(f)
				got := "none"
				if v.Good != nil {
					got = fmt.Sprint(v.Good.Number)
					if p := v.Good.Proof; p == nil || p.Level < max(c.policy.Require, Restored) || p.RTO != 41*time.Second || p.Machine == "" || p.Base != "none" || p.Rung != "namespaces" {
						t.Errorf("its proof is %+v", v.Good.Proof)
					}
				}
				for _, j := range v.PassedOver() {
					got += " | " + j.Reason
				}
				if got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
				if v.Good != nil && c.policy.NotOlderThan > 0 != v.Good.Proof.Stale {
					t.Errorf("stale is %v", v.Good.Proof.Stale)
				}
			})
		}
	})

	t.Run("the host is shown and changes nothing", func(t *testing.T) {
		s := marksOf(t, "host bad 2").Of(2, idOf(2))
		if s.Bad || !s.HostBad || s.HostReason != "corrupt" {
			t.Errorf("%+v", s)
		}
		if s := marksOf(t, "owner bad 2").Of(2, idOf(3)); s.Bad {
			t.Errorf("another root at that number: %+v", s)
		}
	})
}

func TestMarks(t *testing.T) {
	t.Run("are read and continued", func(t *testing.T) {
		w := newWorld(t)
		drill := w.machine(t, t.TempDir())
		request, id, err := drill.Request("drill-1", now)
		if err != nil {
			t.Fatal(err)
		}
		must(w.owner.Certify(t.Context(), request, []string{"web-*"}, now))
		mark := func(m *machine, bad bool, numbers ...uint64) string {
			t.Helper()
			var list []statement.Marked
			for _, n := range numbers {
				list = append(list, statement.Marked{Number: n, ID: idOf(n), Bad: bad})
			}
			by, err := m.Mark(t.Context(), "web-1", "web", list, "why", now)
			if err != nil {
				t.Fatal(err)
			}
			return by
		}
		standing := func(m *machine, want string) {
			t.Helper()
			marks, err := m.Marks(t.Context(), "web-1", "web")
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for n := range uint64(4) {
				s := marks.Of(n+1, idOf(n+1))
				got += map[[2]bool]string{{false, false}: ".", {true, false}: "b", {false, true}: "h", {true, true}: "x"}[[2]bool{s.Bad, s.HostBad}]
			}
			if got != want {
				t.Errorf("marks %s, want %s", got, want)
			}
		}
		if by := mark(w.owner, true, 1, 2); by != "the owner" {
			t.Errorf("by %q", by)
		}
		if by := mark(drill, true, 3); by != "drill-1" {
			t.Errorf("by %q", by)
		}
		if by := mark(w.host, true, 3, 4); by != "" {
			t.Errorf("by %q", by)
		}
		standing(w.owner, "bbxh")
		mark(drill, false, 1, 3)
		standing(w.owner, "bbhh")
		mark(w.owner, false, 1)
		standing(drill, ".bhh")
		mark(drill, true, 3)
		standing(w.host, ".bxh")

		must(w.owner.Revoke(t.Context(), id, time.Now().Add(-time.Hour), now))
		standing(w.host, ".bhh")
		if _, err := drill.Mark(t.Context(), "web-1", "web", []statement.Marked{{Number: 1, ID: idOf(1), Bad: true}}, "", now); err == nil {
			t.Error("a revoked key marks")
		}
		if _, err := drill.Mark(t.Context(), "db-1", "web", []statement.Marked{{Number: 1, ID: idOf(1), Bad: true}}, "", now); err == nil {
			t.Error("a key marks out of its scope")
		}

		// A host's mark in the place of the others, and the other way round.
		h := must(w.host.t.Host(t.Context()))
		x := &statement.Mark{Repository: w.host.t.ID(), Host: "web-1", Environment: "web", Serial: 90, Marked: []statement.Marked{{Number: 2, ID: idOf(2)}}, Made: now, Certificate: h.Certificate}
		if err := w.store.PlainPut(t.Context(), "marks/web-1/web/ffffffffffffffa5", must(x.Encode(h.SigningKey()))); err != nil {
			t.Fatal(err)
		}
		x.Certificate = nil
		if err := w.store.PlainPut(t.Context(), "marks/web-1/web/ffffffffffffffa4", must(x.Encode(h.SigningKey()))); err != nil {
			t.Fatal(err)
		}
		standing(w.owner, ".bhh")
		w.store.Forget("marks/web-1/web/fffffffffffffffe")
		w.owner.found.Take()
		standing(w.owner, "..hh")
		if found := w.owner.tampering(t); len(found) == 0 {
			t.Error("a mark that is gone is not reported")
		}
	})
}
