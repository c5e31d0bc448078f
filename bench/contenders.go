package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// command is one call of a program.
type command struct {
	argv []string
	env  []string // added to ours
	dir  string
}

func (c command) build(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Dir = c.dir
	return cmd
}

// place is where a contender keeps what it has.
type place struct {
	repo string   // directory or URL
	keys string   // directory of what a restore on a bare machine has
	home string   // directory of caches and local state; empty is a cold start
	env  []string // credentials
}

// contender makes the commands of one program. A restore makes the source
// appear below the target under its full path.
type contender interface {
	Init() command
	Capture(source string) command
	Restore(target string) command
	// RestoreInPlace restores over an earlier restore to the same target.
	RestoreInPlace(target string) command
	RestoreFile(path, target string) command
	Check() command
}

// Names of the contenders, which are those of their programs.
const (
	nameOurs   = "knowngood"
	nameRestic = "restic"
	nameBorg   = "borg"
)

// password of the peers' repositories, which hold nothing that is secret.
const password = "bench"

func (b *bench) contender(name string, p place) contender {
	switch name {
	case nameRestic:
		return restic{p}
	case nameBorg:
		return &borg{place: p}
	}
	return knowngood{b.binary, p}
}

type knowngood struct {
	binary string
	place  place
}

func (k knowngood) command(args ...string) command {
	argv := append([]string{k.binary}, args...)
	return command{argv: append(argv, "--quiet", "--repo", k.place.repo, "--state-dir", k.place.home), env: k.place.env}
}

func (k knowngood) read(args ...string) command {
	return k.command(append(args, "--identity", filepath.Join(k.place.keys, "identity"))...)
}

func (k knowngood) Init() command { return k.read("init") }
func (k knowngood) Capture(source string) command {
	return k.command("snapshot", "--env", "bench", source)
}
func (k knowngood) Restore(target string) command {
	return k.read("restore", "bench@latest", "--target", target)
}
func (k knowngood) RestoreInPlace(target string) command {
	return k.read("restore", "bench@latest", "--target", target, "--in-place")
}
func (k knowngood) RestoreFile(path, target string) command {
	return k.read("restore", "bench@latest:"+path, "--target", target)
}
func (k knowngood) Check() command { return k.read("check", "--read-data") }

// restic with the repository format that compresses, at its default level.
type restic struct{ place place }

func (r restic) command(args ...string) command {
	argv := append([]string{nameRestic, "--repo", r.place.repo, "--cache-dir", r.place.home}, args...)
	return command{argv: argv, env: append([]string{"RESTIC_PASSWORD=" + password}, r.place.env...)}
}

func (r restic) Init() command                 { return r.command("init", "--repository-version", "2") }
func (r restic) Capture(source string) command { return r.command("backup", source) }
func (r restic) Restore(target string) command {
	return r.command("restore", "latest", "--target", target)
}

// RestoreInPlace writes everything again: this restic has no other way.
func (r restic) RestoreInPlace(target string) command { return r.Restore(target) }
func (r restic) RestoreFile(path, target string) command {
	return r.command("restore", "latest", "--target", target, "--include", path)
}
func (r restic) Check() command { return r.command("check", "--read-data") }

// borg with zstd, since its default compresses far less than the others.
type borg struct {
	place    place
	archives int
}

func (b *borg) command(args ...string) command {
	argv := append([]string{nameBorg}, args...)
	return command{argv: argv, env: append([]string{
		"BORG_BASE_DIR=" + b.place.home, "BORG_PASSPHRASE=" + password,
		"BORG_RELOCATED_REPO_ACCESS_IS_OK=yes",
	}, b.place.env...)}
}

func (b *borg) archive() string { return fmt.Sprintf("%s::%d", b.place.repo, b.archives) }

func (b *borg) Init() command {
	return b.command("init", "--encryption", "repokey-blake2", b.place.repo)
}
func (b *borg) Capture(source string) command {
	b.archives++
	return b.command("create", "--compression", "zstd,3", b.archive(), source)
}
func (b *borg) Restore(target string) command {
	c := b.command("extract", b.archive())
	c.dir = target
	return c
}

// RestoreInPlace writes everything again: borg has no other way.
func (b *borg) RestoreInPlace(target string) command { return b.Restore(target) }
func (b *borg) RestoreFile(path, target string) command {
	c := b.command("extract", b.archive(), strings.TrimPrefix(path, "/"))
	c.dir = target
	return c
}
func (b *borg) Check() command { return b.command("check", "--verify-data", b.place.repo) }
