// Package quickstart is the trial run: a repository, two snapshots and a restore in a
// folder of their own.
package quickstart

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"

	"knowngood/cmd/knowngood/console"
	"knowngood/cmd/knowngood/exit"
	"knowngood/cmd/knowngood/human"
	"knowngood/cmd/knowngood/present"
	"knowngood/cmd/knowngood/session"
	"knowngood/cmd/knowngood/usage"
	"knowngood/daemon/runner"
	"knowngood/internal/printable"
	"knowngood/internal/userdir"
	"knowngood/restore"
	"knowngood/restore/owners"
	"knowngood/snapshot"
	"knowngood/snapshot/walk"
	"knowngood/storage/dir"
	"knowngood/storage/history"
	"knowngood/storage/identity"
	"knowngood/storage/repository"
	"knowngood/storage/stores"
	"knowngood/storage/trust"
)

// Run captures source twice, restores it and compares it with what was captured.
func Run(ctx context.Context, sess *session.Session, source string) error {
	source, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	switch st, err := os.Stat(source); {
	case errors.Is(err, fs.ErrNotExist):
		return usage.Errorf("there is no directory %s: name one that can be captured as a trial", source)
	case err != nil:
		return err
	case !st.IsDir():
		return usage.Errorf("%s is not a directory", source)
	}
	folder, err := trialFolder(sess)
	if err != nil {
		return err
	}
	url := filepath.Join(folder, "repository")
	sess.StateDir, sess.RepoURL, sess.IdentityPath = filepath.Join(folder, "state"), "file://"+url, filepath.Join(folder, "identity")
	sess.Pin, sess.Given.Host = "", "" // of other repositories
	r, err := open(ctx, sess, url)
	if err != nil {
		return err
	}
	host, err := r.Host(ctx)
	if err != nil {
		return err
	}
	var results []*snapshot.Result
	for i := range 2 {
		problems := sess.Out.Problems()
		o := snapshot.Options{Environment: "quickstart", StateDir: r.State.Dir(), Version: sess.Version, Sources: []walk.Source{{Path: source}},
			Progress: &snapshot.Progress{Problem: func(path, reason string) { problems.Add(path, errors.New(reason)) }}}
		runner.Omit(&o, sess.StateDir, sess.RepoURL)
		p := sess.Out.Progress(func() console.State {
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
			sess.Out.Printf("2. Captured %s as %s: %s, %s, in %s; %s of it was new and is stored in %s.\n", source, res.Snapshot.Ref(), human.Counted(res.Files, "file"), human.Bytes(res.Bytes), human.Duration(res.Duration), human.Bytes(res.NewBytes), human.Bytes(res.StoredBytes))
		} else {
			sess.Out.Printf("3. Captured it again as %s, in %s: %s of %s had to be read, %s were stored.\n", res.Snapshot.Ref(), human.Duration(res.Duration), human.Count(res.Read), human.Counted(res.Files, "file"), human.Bytes(res.StoredBytes))
		}
	}
	back, err := restoreAndCompare(ctx, sess, r, results[1].Snapshot)
	if err != nil {
		return err
	}
	me := console.Self()
	sess.Out.Printf(`
That is the whole job: %s is proven to restore. Nothing but %s was written.

Look into it, or forget this trial:
  %s ls %s --repo %s --identity %s
  rm -r %s
A repository of your own, on a disk or in S3, and a first snapshot:
  %s init --repo URL --identity FILE
  %s snapshot --repo URL --env NAME PATH...
`, results[1].Snapshot.Ref(), folder, me, printable.Word(results[1].Snapshot.Ref()+":"+source), printable.Word(url), printable.Word(sess.IdentityPath), printable.Word(folder), me, me)
	if strings.HasPrefix(me, "go run") {
		sess.Out.Printf("To have it as knowngood, from anywhere: make build, then install bin/knowngood (README.md, Install).\n")
	}
	first := results[0]
	return sess.Out.Result(map[string]any{"type": "result", "ref": results[1].Snapshot.Ref(), "repository": sess.RepoURL, "identity": sess.IdentityPath, "files": first.Files, "bytes": first.Bytes, "new_bytes": first.NewBytes,
		"stored_bytes": first.StoredBytes, "capture_seconds": first.Duration.Seconds(), "again_seconds": results[1].Duration.Seconds(), "restore_seconds": back.Duration.Seconds(), "verified": true})
}

// trialFolder is the folder of the trial. Root keeps what it tries out, an identity
// among it, from a daemon whose state directory this is.
func trialFolder(sess *session.Session) (string, error) {
	info, err := os.Stat(sess.StateDir)
	if err != nil || userdir.OwnerOf(info) == (userdir.Owner{}) {
		return filepath.Join(sess.StateDir, "quickstart"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("the state directory %s is another user's, and a folder for this trial is needed elsewhere: %w (give one with --state-dir)", sess.StateDir, err)
	}
	return filepath.Join(home, ".local", "state", "knowngood", "quickstart"), nil
}

// open opens the trial repository, and makes it the first time.
func open(ctx context.Context, sess *session.Session, path string) (*repository.Repository, error) {
	if r, err := sess.Open(ctx); err == nil {
		sess.Out.Printf("1. Using the repository of the last trial: %s\n", path)
		present.Unprotected(sess.Out, r.URL(), r.Probed())
		return r, nil
	}
	key, err := identity.Generate(identity.Hybrid)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(sess.IdentityPath), 0o700); err != nil {
		return nil, err
	}
	err = identity.WriteFile(sess.IdentityPath, key, identity.WriteOptions{Created: time.Now()})
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("the trial in %s is half made or damaged: remove that folder and run quickstart again", filepath.Dir(sess.IdentityPath))
	}
	if err != nil {
		return nil, err
	}
	s, err := dir.Create(path)
	if err != nil {
		return nil, err
	}
	_, result, err := repository.Init(ctx, s, trust.InitOptions{Recipients: []string{key.Recipient}, Host: sess.Host, StateDir: sess.StateDir, URL: sess.RepoURL, Place: stores.Place(sess.RepoURL), Now: time.Now()})
	if err != nil {
		return nil, err
	}
	if err := identity.AppendPin(sess.IdentityPath, identity.Pin{Repository: sess.RepoURL, Descriptor: result.Pin, Owner: result.OwnerFingerprint}); err != nil {
		return nil, err
	}
	sess.Out.Printf("1. Made a repository in %s and its identity, the key that restores, in %s.\n", path, sess.IdentityPath)
	present.Unprotected(sess.Out, sess.RepoURL, &result.Probe)
	return sess.Open(ctx)
}

// restoreAndCompare restores to a temporary directory and compares every byte.
func restoreAndCompare(ctx context.Context, sess *session.Session, r *repository.Repository, s *history.Snapshot) (*restore.Result, error) {
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
	problems := sess.Out.Problems()
	o := restore.Options{Tree: tree, Target: temp, Owners: owners.Options{Keep: os.Geteuid() != 0}, Progress: &restore.Progress{Problem: problems.Add}}
	p := sess.Out.Progress(func() console.State {
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
	sess.Out.Printf("4. Restored %s to a temporary directory in %s, read every byte of it back and compared: %s as captured.\n", s.Ref(), human.Duration(result.Duration), english.PluralWord(int(compared.Planned.Files), "the file is", fmt.Sprintf("all %s files are", human.Count(compared.Planned.Files))))
	if result.Count > 0 {
		sess.Out.Code = exit.Incomplete
	}
	return result, nil
}
