package main

import (
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/ssh"

	"knowngood/configs"
	"knowngood/internal/treetest"
	"knowngood/storage/storagetest"
)

// TestScripts runs the commands as their users do. Beside what testscript has,
// scripts can use:
//
//	exits CODE PROGRAM ARGUMENT...  run it and demand the exit code
//	json PATH [OPERATOR VALUE]      look into the last line of standard output; see jsonCommand
//	random FILE SIZE SEED           make a file that does not compress
//	damage flip|cut|remove PATTERN  harm the first file that matches
//	poke PATTERN OFFSET BYTE        change a byte of each file that matches
//	tree make DIR SEED              make a tree of every kind of node
//	tree change DIR SEED            change it
//	tree equal DIR DIR              demand that two are equal
//	ssh-key FILE                    make an SSH key, and FILE.pub
//	server versitygw|minio [NAME]   start an S3 server; sets S3 (of a bucket) and credentials
//
// and the conditions root, disks (file systems can be mounted where only one
// program sees them), machine-id (there is one). Programs are those of TestMain.
func TestScripts(t *testing.T) {
	t.Parallel()
	servers := &sharedServers{t: t, started: map[string]*storagetest.Server{}}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Setup:               setupScript,
		Condition:           condition,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exitsCommand,
			"json":    jsonCommand,
			"random":  randomCommand,
			"damage":  damageCommand,
			"poke":    pokeCommand,
			"tree":    treeCommand,
			"ssh-key": sshKeyCommand,
			"server":  servers.command,
		},
	})
}

func setupScript(env *testscript.Env) error {
	env.Setenv("KNOWNGOOD_STATE_DIR", filepath.Join(env.WorkDir, "state"))
	env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
	env.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	env.Setenv("HOST", configs.Default().Host)
	env.Setenv("TZ", "UTC")
	// A file that changed within 50 ms before a capture is read again by the
	// next one: those of the script must be older.
	time.Sleep(100 * time.Millisecond)
	return nil
}

func condition(name string) (bool, error) {
	switch name {
	case "root":
		return os.Geteuid() == 0, nil
	case "disks":
		return canMount(), nil
	case "machine-id":
		_, err := os.Stat("/etc/machine-id")
		return err == nil, nil
	}
	return false, fmt.Errorf("there is no condition %q", name)
}

// canMount tries on a thread that ends with its namespace.
func canMount() bool {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return false
	}
	defer os.Remove(dir)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends here
		done <- mountDisk(dir, "size=64k")
	}()
	return <-done == nil
}

func checkArgs(ts *testscript.TestScript, neg bool, ok bool, text string) {
	if neg || !ok {
		ts.Fatalf("usage: %s", text)
	}
}

func exitsCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, len(args) >= 2, "exits CODE PROGRAM ARGUMENT...")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func randomCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, len(args) == 3, "random FILE SIZE SEED")
	b := make([]byte, number(ts, args[1]))
	var seed [32]byte
	copy(seed[:], args[2])
	rand.NewChaCha8(seed).Read(b)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
}

func number(ts *testscript.TestScript, text string) uint64 {
	n, err := strconv.ParseUint(text, 0, 64)
	ts.Check(err)
	return n
}

// matches are the files of a pattern, at least one.
func matches(ts *testscript.TestScript, pattern string) []string {
	files, err := filepath.Glob(ts.MkAbs(pattern))
	ts.Check(err)
	if len(files) == 0 {
		ts.Fatalf("nothing matches %s", pattern)
	}
	return files
}

func damageCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, len(args) == 2, "damage flip|cut|remove PATTERN")
	file := matches(ts, args[1])[0]
	b, err := os.ReadFile(file)
	ts.Check(err)
	switch args[0] {
	case "flip":
		b[len(b)/2] ^= 1
	case "cut":
		b = b[:len(b)/2]
	case "remove":
		ts.Check(os.Remove(file))
		return
	default:
		ts.Fatalf("unknown damage %q", args[0])
	}
	overwrite(ts, file, b)
}

func pokeCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, len(args) == 3, "poke PATTERN OFFSET BYTE")
	for _, file := range matches(ts, args[0]) {
		b, err := os.ReadFile(file)
		ts.Check(err)
		b[number(ts, args[1])] = byte(number(ts, args[2]))
		overwrite(ts, file, b)
	}
}

// overwrite changes a file whose mode forbids it, too.
func overwrite(ts *testscript.TestScript, file string, b []byte) {
	ts.Check(os.Chmod(file, 0o600))
	ts.Check(os.WriteFile(file, b, 0o600))
}

func sshKeyCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, len(args) == 1, "ssh-key FILE")
	public, secret, err := ed25519.GenerateKey(nil)
	ts.Check(err)
	block, err := ssh.MarshalPrivateKey(secret, "")
	ts.Check(err)
	key, err := ssh.NewPublicKey(public)
	ts.Check(err)
	file := ts.MkAbs(args[0])
	ts.Check(os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	ts.Check(os.WriteFile(file+".pub", ssh.MarshalAuthorizedKey(key), 0o644))
	ts.Setenv("PUBLIC", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))))
}

func treeCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, len(args) == 3, "tree make|change DIR SEED, tree equal DIR DIR")
	t := &scriptT{TestScript: ts}
	dir := ts.MkAbs(args[1])
	switch args[0] {
	case "make":
		ts.Check(os.MkdirAll(dir, 0o755))
		ts.Logf("%v", treetest.Generate(t, dir, treetest.Seed(number(ts, args[2])), treetest.Shape{Nodes: 40}))
	case "change":
		treetest.Mutate(t, dir, treetest.Seed(number(ts, args[2])), 20, treetest.Shape{})
	case "equal":
		other := ts.MkAbs(args[2])
		ts.Defer(func() { ts.Check(treetest.Remove(other)) })
		treetest.Equal(t, dir, other, treetest.Options{IgnoreOwners: os.Geteuid() != 0})
	default:
		ts.Fatalf("unknown tree command %q", args[0])
	}
	if t.failed {
		ts.Fatalf("tree %s failed", args[0])
	}
}

// scriptT lets treetest fail a script.
type scriptT struct {
	*testscript.TestScript
	failed bool
}

func (t *scriptT) Helper() {}

func (t *scriptT) Cleanup(f func()) { t.Defer(f) }

func (t *scriptT) Errorf(format string, args ...any) {
	t.failed = true
	t.Logf(format, args...)
}

// sharedServers are S3 servers that scripts share, each with a bucket of its
// own; they are started when the first script asks.
type sharedServers struct {
	t       *testing.T
	mu      sync.Mutex
	started map[string]*storagetest.Server
}

func (s *sharedServers) command(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, neg, len(args) == 1, "server versitygw|minio")
	server := s.get(args[0])
	if server == nil {
		ts.Fatalf("there is no server %q", args[0])
	}
	bucket := "script-" + ts.Name()
	server.Bucket(s.t, bucket, storagetest.VersionedBucket)
	for _, entry := range server.Env(s.t) {
		name, value, _ := strings.Cut(entry, "=")
		ts.Setenv(name, value)
	}
	ts.Setenv("S3", server.URL(bucket, "prod"))
	ts.Setenv("NO_BUCKET", server.URL("no-such-bucket", "prod"))
}

func (s *sharedServers) get(name string) *storagetest.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started[name] == nil {
		switch name {
		case "versitygw":
			s.started[name] = storagetest.VersityGW(s.t)
		case "minio":
			s.started[name] = storagetest.MinIO(s.t)
		}
	}
	return s.started[name]
}
