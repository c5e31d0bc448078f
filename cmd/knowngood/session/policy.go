package session

import (
	"github.com/spf13/pflag"

	"knowngood/cmd/knowngood/usage"
	"knowngood/daemon/runner"
	"knowngood/storage/attest"
)

// Proof are the flags that change what known-good means for one command.
type Proof struct {
	require                    string
	selfAttested, allowPartial bool
}

// Add adds the flags.
func (p *Proof) Add(f *pflag.FlagSet) {
	f.StringVar(&p.require, "require", "", "known-good: the least `level` that counts, restored or probed (default: that of the configuration, else any)")
	f.BoolVar(&p.selfAttested, "self-attested", false, "known-good: count what the machine that captured a snapshot attests of it itself")
	f.BoolVar(&p.allowPartial, "allow-partial", false, "known-good: count partial snapshots")
}

// given reports whether a flag was given.
func (p *Proof) given() bool { return *p != Proof{} }

// Policy is what known-good means for an environment of a host: as the configuration
// has it where it has that environment, as the flags have it where these are given.
// Without either any level counts.
func (sess *Session) Policy(host, environment string) (attest.Policy, error) {
	var p attest.Policy
	if env := sess.Config.Environments[environment]; env != nil && (host == "" || host == sess.Host) {
		p = runner.ProofPolicy(env)
	}
	if sess.Proof.require != "" {
		level, err := attest.ParseLevel(sess.Proof.require)
		if err != nil || level == attest.Unproven {
			return p, usage.Errorf("--require %s: no level that can be required: restored or probed", sess.Proof.require)
		}
		p.Require = level
	}
	p.SelfAttested = p.SelfAttested || sess.Proof.selfAttested
	p.AllowPartial = p.AllowPartial || sess.Proof.allowPartial
	return p, nil
}
