package validation

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/internal/posix"
	"knowngood/snapshot/manifest"
)

// writer is somebody other than root who can change what a path leads to.
type writer struct {
	place string // the file, a directory or a link on the way
	who   string // such as "belongs to user 1000"
	fix   string // the command that ends it
	group bool   // it is a group, not a user
}

func (w writer) String() string { return fmt.Sprintf("%s %s: %s", w.place, w.who, w.fix) }

// pathRights are the rights of others on a file and on the way to it.
type pathRights struct {
	writers []writer
	end     posix.Stat
	private bool // a directory on the way does not let others pass
}

// inspectPath follows an absolute path, over links, and returns who other than root
// and the trusted users can change what it leads to. In a sticky directory others
// can change what they own, and nothing else.
func inspectPath(path string, trusted ...uint32) (*pathRights, error) {
	r := &pathRights{}
	fd, st, _, err := posix.Follow(path, func(at string, st *posix.Stat) {
		if st.Type == manifest.Dir && st.Mode&0o001 == 0 {
			r.private = true
		}
		for _, w := range writersOf(at, st, trusted) {
			if !slices.Contains(r.writers, w) {
				r.writers = append(r.writers, w)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	r.end = st
	return r, nil
}

// writersOf returns who can change a node, or put something else into a directory.
func writersOf(at string, st *posix.Stat, trusted []uint32) (writers []writer) {
	if st.UID != 0 && !slices.Contains(trusted, st.UID) {
		writers = append(writers, writer{at, "belongs to user " + userName(st.UID), "chown -h root " + at, false})
	}
	sticky := st.Type == manifest.Dir && st.Mode&unix.S_ISVTX != 0
	if st.Type == manifest.Symlink || sticky {
		return writers
	}
	if st.Mode&0o002 != 0 {
		writers = append(writers, writer{at, "can be written by every user", "chmod o-w " + at, false})
	}
	if st.Mode&0o020 == 0 {
		return writers
	}
	// With an ACL these are the bits of its mask, which users may be below.
	for _, uid := range aclWriters(at) {
		if uid != 0 && !slices.Contains(trusted, uid) {
			writers = append(writers, writer{at, "can be written by user " + userName(uid), "setfacl -b " + at, false})
		}
	}
	return append(writers, writer{at, "can be written by group " + groupName(st.GID), "chmod g-w " + at, true})
}

func aclWriters(path string) []uint32 {
	b := make([]byte, 4096)
	n, err := unix.Lgetxattr(path, "system.posix_acl_access", b)
	if err != nil {
		return nil
	}
	return posix.ACLWriters(b[:n])
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return id + " (" + u.Username + ")"
	}
	return id
}

func groupName(gid uint32) string {
	id := strconv.FormatUint(uint64(gid), 10)
	if g, err := user.LookupGroupId(id); err == nil {
		return id + " (" + g.Name + ")"
	}
	return id
}

// RootsAlone refuses a command unless only root can change what it runs, as far
// as that shows: each program among its words, and the interpreter of a script.
func RootsAlone(argv []string) error {
	if strings.Contains(argv[0], "/") && !filepath.IsAbs(argv[0]) {
		return fmt.Errorf("%s: a command that runs as root is named by its absolute path", argv[0])
	}
	for _, file := range filesOf(argv) {
		for _, path := range append([]string{file}, interpreterOf(file)...) {
			r, err := inspectPath(path)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			for _, w := range r.writers {
				return fmt.Errorf("root runs %s, and another could change it: %s", path, w)
			}
		}
	}
	return nil
}

// interpreterOf is the program that the first line of a script names.
func interpreterOf(path string) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, 256)
	n, _ := io.ReadFull(f, b)
	line, _, _ := strings.Cut(string(b[:n]), "\n")
	text, script := strings.CutPrefix(line, "#!")
	words := strings.Fields(text)
	if !script || len(words) == 0 {
		return nil
	}
	return filesOf(words)
}

// judgeRights reports who else can change the configuration, and the programs that
// it has root run. Where this process is root, a user who can is a reason to
// refuse it; a group never is.
func judgeRights(c *configs.Config, f configs.Findings, path string) {
	user := configs.Degrading
	if os.Geteuid() == 0 {
		user = configs.Unfit
	}
	judgeFile(c, f, path, user)

	seen := map[writer]bool{}
	for _, p := range programs(c) {
		if !p.outside && os.Geteuid() != 0 {
			continue // in the daemon's sandbox
		}
		for _, file := range filesOf(p.argv) {
			r, err := inspectPath(file)
			if err != nil {
				continue // running it fails with that
			}
			for _, w := range r.writers {
				if seen[w] {
					continue
				}
				seen[w] = true
				if w.group {
					f.Add(configs.Degrading, p.key, "root runs %s, and %s", file, w)
				} else {
					f.Add(user, p.key, "root runs %s, and another user could change it: %s", file, w)
				}
			}
		}
	}
}

// judgeFile judges the file of the configuration, and that of a password.
func judgeFile(c *configs.Config, f configs.Findings, path string, user configs.Severity) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return
	}
	r, err := inspectPath(abs, uint32(os.Geteuid()))
	if err != nil || r.end.Type != manifest.File {
		return // a pipe, perhaps
	}
	for _, w := range r.writers {
		switch {
		case w.group:
			f.Add(configs.Degrading, nil, "it names commands to run and where snapshots go, and %s", w)
		case r.end.Mode&0o002 != 0: // whoever this process is
			f.Add(configs.Unfit, nil, "it names commands to run and where snapshots go, and another user could change it: %s", w)
		default:
			f.Add(user, nil, "it names commands to run and where snapshots go, and another user could change it: %s", w)
		}
	}
	if c.Secret != nil && r.end.Mode&0o004 != 0 && !r.private {
		f.Add(configs.Advice, c.Secret, "a secret stands in a file that every user can read: chmod 600 %s, or write ${NAME} and keep it in /etc/knowngood/environment", abs)
	}

	e := c.Notify.Email
	if e == nil || e.PasswordFile == "" {
		return
	}
	if r, err := inspectPath(e.PasswordFile); err == nil && r.end.Mode&0o004 != 0 && !r.private {
		f.Add(configs.Advice, []string{"notify", "email", "password_file"}, "every user can read it: chmod 600 %s", e.PasswordFile)
	}
}

// program is a command of the configuration. Root runs it where this process is
// root's, and where it is outside of the daemon's sandbox.
type program struct {
	key     []string
	argv    []string
	outside bool
}

// programs are the commands of the configuration.
func programs(c *configs.Config) (out []program) {
	add := func(outside bool, argv []string, key ...string) {
		if len(argv) > 0 {
			out = append(out, program{key, argv, outside})
		}
	}
	for _, name := range c.EnvironmentNames() {
		env := c.Environments[name]
		for _, h := range []struct {
			name  string
			hooks []configs.Hook
		}{{"before", env.Hooks.Before}, {"after", env.Hooks.After}, {"on_failure", env.Hooks.OnFailure}} {
			for i, hook := range h.hooks {
				add(hook.Outside, hook.Command, "environments", name, "hooks", h.name, strconv.Itoa(i), "command")
			}
		}
		for i, s := range env.Sources {
			add(s.Outside, s.Command, "environments", name, "sources", strconv.Itoa(i), "command")
			add(false, s.Restore, "environments", name, "sources", strconv.Itoa(i), "restore")
		}
		if s := env.Scale; s != nil {
			for list, hooks := range map[string][]configs.Hook{"start": s.Start, "stop": s.Stop, "before_retire": s.BeforeRetire} {
				for i, hook := range hooks {
					add(hook.Outside, hook.Command, "environments", name, "scale", list, strconv.Itoa(i), "command")
				}
			}
			if t := s.Target; t != nil {
				add(t.Outside, t.Command, "environments", name, "scale", "target", "command")
			}
		}
		if s := env.Switch; s != nil {
			for list, hooks := range map[string][]configs.Hook{"stop": s.Stop, "start": s.Start, "after_switch": s.AfterSwitch} {
				for i, hook := range hooks {
					add(hook.Outside, hook.Command, "environments", name, "switch", list, strconv.Itoa(i), "command")
				}
			}
		}
	}
	add(false, c.Notify.Command, "notify", "command")
	return out
}

// filesOf are the files that a command runs, as far as it shows: the program, and
// arguments that are programs, as in [runuser, -u, postgres, --, /opt/dump.sh].
func filesOf(argv []string) (files []string) {
	if path, err := exec.LookPath(argv[0]); err == nil {
		if abs, err := filepath.Abs(path); err == nil {
			files = append(files, abs)
		}
	}
	for _, arg := range argv[1:] {
		if strings.HasPrefix(arg, "/") && isProgram(arg) {
			files = append(files, filepath.Clean(arg))
		}
	}
	return files
}

// isProgram reports whether a file can be executed, or is a script.
func isProgram(path string) bool {
	st, err := os.Stat(path)
	if err != nil || !st.Mode().IsRegular() {
		return false
	}
	if st.Mode()&0o111 != 0 {
		return true
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 2)
	n, _ := f.Read(b)
	return string(b[:n]) == "#!"
}
