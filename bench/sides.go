package main

import (
	"os"
	"path/filepath"
)

// side is a program that is measured.
type side struct {
	name    string
	version []string
	env     []string
	home    string // its repository and state; emptied before the first step
	init    [][]string
	capture []string // the tree is appended
	restore []string // the target is appended
	inPlace []string
	check   []string
}

// sides makes the programs to be compared, with their state below dir. tree is
// the absolute path that is captured.
func sides(dir, tree string) []*side {
	kg := filepath.Join(dir, "knowngood")
	re := filepath.Join(dir, "restic")
	bo := filepath.Join(dir, "borg")
	program := func(name string, args ...string) []string { return append([]string{name}, args...) }
	restic := func(args ...string) []string {
		return append([]string{"restic", "-q", "-r", filepath.Join(re, "repo")}, args...)
	}
	return []*side{
		{
			name: "knowngood", version: program("bin/knowngood", "version"), home: kg,
			env:     []string{"KNOWNGOOD_REPO=" + filepath.Join(kg, "repo"), "KNOWNGOOD_STATE_DIR=" + filepath.Join(kg, "state"), "KNOWNGOOD_IDENTITY=" + filepath.Join(kg, "identity")},
			init:    [][]string{program("bin/knowngood", "init")},
			capture: program("bin/knowngood", "snapshot", "-q", "--env", "a"),
			restore: program("bin/knowngood", "restore", "-q", "a", "--target"),
			inPlace: program("bin/knowngood", "restore", "-q", "a", "--in-place", "--target"),
			check:   program("bin/knowngood", "check", "-q", "--read-data"),
		},
		{
			name: "restic", version: program("restic", "version"), home: re,
			env:     []string{"RESTIC_PASSWORD=benchmark", "RESTIC_CACHE_DIR=" + filepath.Join(re, "cache")},
			init:    [][]string{restic("init", "--repository-version", "2")},
			capture: restic("backup"),
			restore: restic("restore", "latest", "--target"),
			inPlace: restic("restore", "latest", "--verify", "--target"),
			check:   restic("check", "--read-data"),
		},
		{
			name: "borg", version: program("borg", "--version"), home: bo,
			env:     []string{"BORG_PASSPHRASE=benchmark", "BORG_BASE_DIR=" + bo, "BORG_REPO=" + filepath.Join(bo, "repo"), "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes"},
			init:    [][]string{program("borg", "init", "-e", "repokey")},
			capture: program("sh", "-c", `exec borg create --compression zstd,3 ::$(date +%s%N) "$0"`),
			restore: program("sh", "-c", `cd "$0" && exec borg extract ::$(borg list --last 1 --short)`),
			check:   program("borg", "check", "--verify-data"),
		},
	}
}

// reset makes the side as if it had never run.
func (s *side) reset() error {
	if err := os.RemoveAll(s.home); err != nil {
		return err
	}
	if err := os.MkdirAll(s.home, 0o700); err != nil {
		return err
	}
	for _, argv := range s.init {
		if _, err := measure(argv, s.env, false); err != nil {
			return err
		}
	}
	return nil
}
