// Package completion offers a shell what may follow on a command line: environments,
// hosts and snapshots of the repository.
package completion

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/session"
	"knowngood/storage/repository"
)

const (
	// completionTime is how long a shell waits for what can be completed.
	completionTime = 2 * time.Second
	// maxCompletions is how many snapshots are offered, the newest first.
	maxCompletions = 100
)

// completer gives words that begin with what was typed, from an open repository.
type completer func(ctx context.Context, r *repository.Repository, typed string) []string

// completing makes what the shell asks for the first arguments; most < 0 is any
// number. It is silent about what goes wrong, asks for no passphrase, and
// remembers nothing: a repository must not come to be trusted by a key press.
func completing(sess *session.Session, most int, offer completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
		if most >= 0 && len(args) >= most {
			return nil, directive
		}
		sess.Out.Mute()
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		ctx, cancel := context.WithTimeout(ctx, completionTime)
		defer cancel()
		if sess.Load(cmd) != nil {
			return nil, directive
		}
		sess.StateDir = ""
		r, err := sess.ConnectWithoutIdentity(ctx)
		if err != nil {
			return nil, directive
		}
		sess.Findings.Take() // which nobody wants to see now
		words := slices.DeleteFunc(offer(ctx, r, typed), func(w string) bool { return !strings.HasPrefix(w, typed) || slices.Contains(args, w) })
		return words, directive
	}
}

// Environments offers the environments of the host.
func Environments(sess *session.Session, most int) cobra.CompletionFunc {
	return completing(sess, most, func(ctx context.Context, r *repository.Repository, _ string) []string {
		envs, _ := r.Environments(ctx, sess.Host)
		return envs
	})
}

// Hosts offers the hosts of the repository.
func Hosts(sess *session.Session) cobra.CompletionFunc {
	return completing(sess, -1, func(ctx context.Context, r *repository.Repository, _ string) []string {
		hosts, _ := r.Enrolled(ctx)
		return hosts
	})
}

// References offers references: environments, and once one is typed its
// snapshots, the newest first. Hosts are offered where this one has none.
func References(sess *session.Session, most int) cobra.CompletionFunc {
	return completing(sess, most, func(ctx context.Context, r *repository.Repository, typed string) (words []string) {
		host, rest, named := strings.Cut(typed, "/")
		before := host + "/"
		if !named {
			host, rest, before = sess.Host, typed, ""
		}
		env, _, selected := strings.Cut(rest, "@")
		if selected {
			words = append(words, before+env+"@latest")
			for _, n := range newestNumbers(ctx, r, host, env) {
				words = append(words, before+env+"@"+strconv.FormatUint(n, 10))
			}
			return words
		}

		envs, _ := r.Environments(ctx, host)
		for _, e := range envs {
			words = append(words, before+e, before+e+"@latest")
		}
		if len(envs) == 0 && !named {
			hosts, _ := r.Enrolled(ctx)
			for _, h := range hosts {
				words = append(words, h+"/")
			}
		}
		return words
	})
}

// Configured offers the environments of the configuration, beside the
// paths that a shell knows.
func Configured(sess *session.Session) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		sess.Out.Mute()
		if len(args) > 0 || cmd.Flags().Changed("env") || sess.Load(cmd) != nil {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return slices.DeleteFunc(sess.Config.EnvironmentNames(), func(name string) bool { return !strings.HasPrefix(name, typed) }), cobra.ShellCompDirectiveDefault
	}
}

// newestNumbers are those of the kept snapshots of an environment, the newest
// first. It needs only listings.
func newestNumbers(ctx context.Context, r *repository.Repository, host, env string) []uint64 {
	written, err := r.Written(ctx, host, env)
	if err != nil {
		return nil
	}
	if x, err := r.Tombstone(ctx, host, env); err == nil && x != nil {
		maps.DeleteFunc(written, func(n uint64, _ time.Time) bool { return x.Forgotten.Has(n) })
	}
	numbers := slices.Sorted(maps.Keys(written))
	slices.Reverse(numbers)
	return numbers[:min(len(numbers), maxCompletions)]
}
