package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/usage"
	"knowngood/daemon/runner"
	"knowngood/internal/printable"
	"knowngood/internal/userdir"
	"knowngood/restore"
	"knowngood/snapshot"
	"knowngood/snapshot/walk"
	"knowngood/storage/dir"
	"knowngood/storage/history"
	"knowngood/storage/identity"
	"knowngood/storage/repository"
	"knowngood/storage/stores"
	"knowngood/storage/trust"
)

func quickstartCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "quickstart [DIR]",
		Short: "Try it: capture a directory, restore it elsewhere, compare",
		Long: `Try it, without any configuration: makes a repository and an identity in a folder
of your state directory, captures DIR (the current directory by default) twice,
restores it to a temporary directory and compares every byte. Changes nothing
else. Run it again as often as you like.`,
		Example: `  knowngood quickstart
  knowngood quickstart /etc`,
		Args: usage.Takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			source := "."
			if len(args) == 1 {
				source = args[0]
			}
			return a.quickstart(cmd.Context(), source)
		},
	}
}

func (a *app) quickstart(ctx context.Context, source string) error {
	source, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	if st, err := os.Stat(source); err != nil {
		return err
	} else if !st.IsDir() {
		return usage.Errorf("%s is not a directory", source)
	}
	home, err := a.quickHome()
	if err != nil {
		return err
	}
	url := filepath.Join(home, "repository")
	a.stateDir, a.repoURL, a.identityPath = filepath.Join(home, "state"), "file://"+url, filepath.Join(home, "identity")
	a.pin, a.given.host = "", "" // of other repositories
	r, err := a.quickRepository(ctx, url)
	if err != nil {
		return err
	}
	host, err := r.Host(ctx)
	if err != nil {
		return err
	}
	var results []*snapshot.Result
	for i := range 2 {
		problems := a.out.Problems()
		o := snapshot.Options{Environment: "quickstart", StateDir: r.State.Dir(), Version: version, Sources: []walk.Source{{Path: source}},
			Progress: &snapshot.Progress{Problem: func(path, reason string) { problems.Add(path, errors.New(reason)) }}}
		runner.Omit(&o, a.stateDir, a.repoURL)
		p := a.out.Progress(func() console.State {
			return console.State{Files: o.Progress.Files.Load(), Bytes: o.Progress.Bytes.Load()}
		})
		res, err := snapshot.Capture(ctx, r, host, o)
		p.End()
		problems.End()
		if err != nil {
			return err
		}
		results = append(results, res)
		if i == 0 {
			a.out.Printf("2. Captured %s as %s: %s, %s, in %s; %s of it was new and is stored in %s.\n", source, res.Snapshot.Ref(), human.Counted(res.Files, "file"), human.Bytes(res.Bytes), human.Duration(res.Duration), human.Bytes(res.NewBytes), human.Bytes(res.StoredBytes))
		} else {
			a.out.Printf("3. Captured it again as %s, in %s: %s of %s had to be read, %s were stored.\n", res.Snapshot.Ref(), human.Duration(res.Duration), human.Count(res.Read), human.Counted(res.Files, "file"), human.Bytes(res.StoredBytes))
		}
	}
	back, err := a.quickRestore(ctx, r, results[1].Snapshot)
	if err != nil {
		return err
	}
	me := console.Self()
	a.out.Printf(`
That is the whole job: %s is proven to restore. Nothing but %s was written.

Look into it, or forget this trial:
  %s ls %s --repo %s --identity %s
  rm -r %s
A repository of your own, on a disk or in S3, and a first snapshot:
  %s init --repo URL --identity FILE
  %s snapshot --repo URL --env NAME PATH...
`, results[1].Snapshot.Ref(), home, me, printable.Word(results[1].Snapshot.Ref()+":"+source), printable.Word(url), printable.Word(a.identityPath), printable.Word(home), me, me)
	if strings.HasPrefix(me, "go run") {
		a.out.Printf("To have it as knowngood, from anywhere: make build, then install bin/knowngood (README.md, Install).\n")
	}
	first := results[0]
	return a.out.Result(map[string]any{"type": "result", "ref": results[1].Snapshot.Ref(), "repository": a.repoURL, "identity": a.identityPath, "files": first.Files, "bytes": first.Bytes, "new_bytes": first.NewBytes,
		"stored_bytes": first.StoredBytes, "capture_seconds": first.Duration.Seconds(), "again_seconds": results[1].Duration.Seconds(), "restore_seconds": back.Duration.Seconds(), "verified": true})
}

// quickHome is the folder of the trial. Root keeps what it tries out, an identity
// among it, from a daemon whose state directory this is.
func (a *app) quickHome() (string, error) {
	info, err := os.Stat(a.stateDir)
	if err != nil || userdir.OwnerOf(info) == (userdir.Owner{}) {
		return filepath.Join(a.stateDir, "quickstart"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("the state directory %s is another user's, and a folder for this trial is needed elsewhere: %w (give one with --state-dir)", a.stateDir, err)
	}
	return filepath.Join(home, ".local", "state", "knowngood", "quickstart"), nil
}

// quickRepository opens the trial repository, and makes it the first time.
func (a *app) quickRepository(ctx context.Context, path string) (*repository.Repository, error) {
	if r, err := a.open(ctx); err == nil {
		a.out.Printf("1. Using the repository of the last trial: %s\n", path)
		return r, nil
	}
	key, err := identity.Generate(identity.Hybrid)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(a.identityPath), 0o700); err != nil {
		return nil, err
	}
	err = identity.WriteFile(a.identityPath, key, identity.WriteOptions{Created: time.Now()})
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("the trial in %s is half made or damaged: remove that folder and run quickstart again", filepath.Dir(a.identityPath))
	}
	if err != nil {
		return nil, err
	}
	s, err := dir.Create(path)
	if err != nil {
		return nil, err
	}
	_, result, err := repository.Init(ctx, s, trust.InitOptions{Recipients: []string{key.Recipient}, Host: a.host, StateDir: a.stateDir, URL: a.repoURL, Place: stores.Place(a.repoURL), Now: time.Now()})
	if err != nil {
		return nil, err
	}
	if err := identity.AppendPin(a.identityPath, identity.Pin{Repository: a.repoURL, Descriptor: result.Pin, Owner: result.OwnerFingerprint}); err != nil {
		return nil, err
	}
	a.out.Printf("1. Made a repository in %s and its identity, the key that restores, in %s.\n", path, a.identityPath)
	return a.open(ctx)
}

// quickRestore restores to a temporary directory and compares every byte.
func (a *app) quickRestore(ctx context.Context, r *repository.Repository, s *history.Snapshot) (*restore.Result, error) {
	tree, err := snapshot.OpenTree(ctx, r, s)
	if err != nil {
		return nil, err
	}
	defer tree.Reader.Close()
	temp, err := os.MkdirTemp("", "knowngood-quickstart-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	problems := a.out.Problems()
	o := restore.Options{Tree: tree, Target: temp, Owners: ownerOptions(false, false), Progress: &restore.Progress{Problem: problems.Add}}
	p := a.out.Progress(func() console.State {
		return console.State{Files: o.Progress.Files.Load(), Bytes: o.Progress.Bytes.Load(), Total: s.Body.ContentBytes}
	})
	result, err := restore.Run(ctx, o)
	p.End()
	problems.End()
	if err != nil {
		return nil, err
	}
	o.InPlace, o.Delete, o.DryRun, o.Progress = true, true, true, &restore.Progress{}
	compared, err := restore.Run(ctx, o)
	if err != nil {
		return nil, err
	}
	if n := compared.Created + compared.Changed + compared.Deleted; n > 0 || result.Damaged {
		return nil, fmt.Errorf("%w: %s of the restored tree %s from the snapshot", exit.ErrDamage, human.Counted(n, "file"), english.PluralWord(int(n), "differs", "differ"))
	}
	a.out.Printf("4. Restored %s to a temporary directory in %s, read every byte of it back and compared: %s as captured.\n", s.Ref(), human.Duration(result.Duration), english.PluralWord(int(compared.Planned.Files), "the file is", fmt.Sprintf("all %s files are", human.Count(compared.Planned.Files))))
	if result.Count > 0 {
		a.out.Code = exit.Incomplete
	}
	return result, nil
}
