// Package captures is how the program makes the captures of its daemon, each in a
// child process: what the daemon opens, and hands to its children; and the hidden
// command that is a child. See daemon/child.
package captures

import (
	"cmp"
	"context"
	"encoding/json"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
	"knowngood/daemon/child"
	"knowngood/daemon/runner"
	"knowngood/snapshot"
	"knowngood/storage"
	"knowngood/storage/authentic"
	"knowngood/storage/replay"
	"knowngood/storage/repository"
	"knowngood/storage/stores"
	"knowngood/storage/throttle"
)

// fresh is how long the daemon, or a run, believes what it saw in the store of who
// may read.
const fresh = time.Hour

// ownPart is the part of the memory limit of the process that the daemon keeps for
// itself; the rest is for the processes that work.
const ownPart = 8

// Captures are those of one daemon.
type Captures struct {
	sess   *session.Session
	memory *child.Memory
	own    int64 // bytes

	mu       sync.Mutex
	opened   map[string]*opened // by URL
	up, down int64
	limits   throttle.Limits // of these rates
}

// opened is what is known of a repository since it was opened.
type opened struct {
	replies  *replay.Replies
	findings *authentic.Findings
	region   string
}

// New returns the captures of a daemon that was started with these flags. It divides
// the memory limit of the process.
func New(sess *session.Session) *Captures {
	total := debug.SetMemoryLimit(-1)
	own := total / ownPart
	debug.SetMemoryLimit(own)
	return &Captures{sess: sess, own: own, memory: child.NewMemory(total - own), opened: map[string]*opened{}}
}

// Working gives this process a part of the memory of those who work, until ended is
// called.
func (c *Captures) Working() (ended func()) {
	leave := c.memory.Join(func(bytes int64) { debug.SetMemoryLimit(c.own + bytes) })
	return func() {
		debug.SetMemoryLimit(c.own)
		leave()
	}
}

// Open opens the repository of a configuration, for the daemon and its children.
func (c *Captures) Open(ctx context.Context, config *configs.Config, findings *authentic.Findings) (*repository.Repository, error) {
	o := &opened{replies: &replay.Replies{}, findings: findings}
	repo, err := c.open(ctx, config, findings, o.replies, "")
	if err != nil {
		return nil, err
	}
	o.region = stores.Region(repo.Store())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opened[config.Repository.URL] = o
	return repo, nil
}

// Unlocked opens it with the identity.
func (c *Captures) Unlocked(ctx context.Context, config *configs.Config, findings *authentic.Findings) (*repository.Repository, error) {
	if config.Identity == "" {
		return nil, session.ErrIdentityMissing
	}
	return c.open(ctx, config, findings, c.of(config.Repository.URL).replies, config.Identity)
}

func (c *Captures) of(url string) *opened {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cmp.Or(c.opened[url], &opened{&replay.Replies{}, &authentic.Findings{}, ""})
}

func (c *Captures) open(ctx context.Context, config *configs.Config, findings *authentic.Findings, replies *replay.Replies, identity string) (*repository.Repository, error) {
	at := *c.sess
	at.Findings, at.Fresh = findings, fresh
	at.Config, at.RepoURL, at.StateDir, at.Host, at.IdentityPath = config, config.Repository.URL, config.StateDir, config.Host, identity
	at.Over = func(s storage.Store) storage.Store { return replay.Record(s, replies) }
	limits, err := c.sharedLimits(&at)
	if err != nil {
		return nil, err
	}
	at.Limits = &limits
	return at.Connect(ctx)
}

// sharedLimits are the limits of all that the daemon and its children transfer.
func (c *Captures) sharedLimits(at *session.Session) (throttle.Limits, error) {
	up, down, err := at.Rates()
	c.mu.Lock()
	defer c.mu.Unlock()
	if up != c.up || down != c.down {
		c.up, c.down, c.limits = up, down, throttle.Rates(up, down)
	}
	return c.limits, err
}

// Capture makes an attempt in a child.
func (c *Captures) Capture(ctx context.Context, a *runner.Attempt, p *snapshot.Progress) (*runner.Made, error) {
	flags := c.sess.Flags
	flags.RepoURL, flags.StateDir, flags.IdentityPath = a.URL, a.StateDir, ""
	o := c.of(a.URL)
	program, err := json.Marshal(program{flags, c.sess.Given.Host, o.region})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	limits := c.limits
	c.mu.Unlock()
	parent := child.Parent{Memory: c.memory, Findings: o.findings.Add}
	return parent.Run(ctx, &child.Job{Attempt: a, Program: program, Replies: o.replies}, limits, p)
}

// program is how a child opens the repository.
type program struct {
	Flags  session.Flags
	Host   string
	Region string
}

// Command is for the daemon, which starts its children with it.
func Command(sess *session.Session) *cobra.Command {
	const example = "  knowngood internal capture"
	cmd := &cobra.Command{Use: "internal", Short: "What the daemon starts for itself", Example: example, Hidden: true, Args: usage.UnknownCommand, Annotations: map[string]string{"config": "none"}}
	cmd.AddCommand(&cobra.Command{
		Use:         "capture",
		Short:       "Make a capture of the daemon that has file descriptor 3",
		Example:     example,
		Args:        usage.Takes(0, 0),
		Annotations: map[string]string{"config": "none"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			f := os.NewFile(3, "daemon")
			conn, err := child.Conn(f)
			if err != nil {
				return usage.Errorf("only a daemon starts this: %w", err)
			}
			f.Close() // which programs that run here would have
			defer conn.Close()
			return child.Serve(cmd.Context(), conn, openJob(sess), func(o *snapshot.Options) { o.WritebackWindow = sess.WritebackWindow })
		},
	})
	return cmd
}

// openJob opens the repository of a child's job.
func openJob(sess *session.Session) child.Open {
	return func(ctx context.Context, job *child.Job, limits throttle.Limits, report func(authentic.Finding)) (*repository.Repository, error) {
		var p program
		if err := json.Unmarshal(job.Program, &p); err != nil {
			return nil, err
		}
		at := *sess
		at.Flags, at.Region, at.Limits, at.Fresh = p.Flags, p.Region, &limits, fresh
		at.Config, at.Given.Host = configs.Default(), p.Host
		at.Over = func(s storage.Store) storage.Store { return replay.New(s, job.Replies) }
		at.Findings = &authentic.Findings{}
		repo, err := at.Connect(ctx)
		for _, f := range at.Findings.Take() {
			report(f)
		}
		if err != nil {
			return nil, err
		}
		repo.Divert(report)
		return repo, nil
	}
}
