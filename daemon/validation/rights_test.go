package validation

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"knowngood/configs"
)

// stranger is a user who is nobody here.
const stranger = 54321

// scene is a directory that everybody may look into, with a configuration that
// nobody but root can change.
type scene struct {
	t   *testing.T
	dir string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("giving files away takes root")
	}
	dir, err := os.MkdirTemp("", "kg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &scene{t, dir}
	s.mode(".", 0o755)
	return s
}

func (s *scene) at(name string) string { return filepath.Join(s.dir, name) }

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) mode(name string, mode uint32) {
	s.t.Helper()
	s.must(syscall.Chmod(s.at(name), mode))
}

func (s *scene) give(name string, uid, gid int) {
	s.t.Helper()
	s.must(os.Lchown(s.at(name), uid, gid))
}

func (s *scene) file(name, text string, mode uint32) {
	s.t.Helper()
	s.must(os.MkdirAll(filepath.Dir(s.at(name)), 0o755))
	s.must(os.WriteFile(s.at(name), []byte(text), 0o600))
	s.mode(name, mode)
}

// judged loads a configuration, and returns what it is refused for, and what is
// found all the same; what is missing is left out.
func (s *scene) judged(name string) (refused string, found []*configs.Problem) {
	s.t.Helper()
	c, err := Load(s.at(name), Options{StateDir: s.at("none"), Advise: true})
	if err != nil {
		return err.Error(), nil
	}
	for _, p := range c.Findings {
		if !strings.Contains(p.Msg, "so nothing is captured") && !strings.Contains(p.Msg, "it has no schedule") {
			found = append(found, p)
		}
	}
	return "", found
}

func TestRights(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(*testing.T){
		"others who can change the configuration are named": whoElseCanChangeTheConfigurationIsTold,
		"a user in an ACL counts":                           aUserOfAnACLIsAUser,
		"others who can change a program are named":         whoElseCanChangeAProgramIsTold,
		"a secret that every user can read is warned of":    aSecretThatEveryUserCanReadIsWarnedOf,
		"only what a daemon recorded is taken all the same": onlyWhatADaemonRecordedIsTaken,
	} {
		t.Run(name, test)
	}
}

func whoElseCanChangeTheConfigurationIsTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set     func(*scene)
		refused string // it is, with this
		found   string // it is taken, and this found
	}{
		"nobody else":               {set: func(s *scene) {}},
		"readable by others":        {set: func(s *scene) { s.mode("d/c.yaml", 0o644) }},
		"a group":                   {func(s *scene) { s.mode("d/c.yaml", 0o660); s.give("d/c.yaml", 0, stranger) }, "", "d/c.yaml can be written by group 54321: chmod g-w"},
		"everybody":                 {func(s *scene) { s.mode("d/c.yaml", 0o602) }, "d/c.yaml can be written by every user: chmod o-w", ""},
		"its owner":                 {func(s *scene) { s.give("d/c.yaml", stranger, 0) }, "d/c.yaml belongs to user 54321: chown -h root", ""},
		"the directory's":           {func(s *scene) { s.give("d", stranger, 0) }, "/d belongs to user 54321", ""},
		"the one above's":           {func(s *scene) { s.give(".", stranger, 0) }, "belongs to user 54321", ""},
		"an open directory":         {func(s *scene) { s.mode("d", 0o777) }, "/d can be written by every user", ""},
		"a group's directory":       {func(s *scene) { s.mode("d", 0o770) }, "", "/d can be written by group 0"},
		"a sticky directory":        {set: func(s *scene) { s.mode("d", 0o1777) }},
		"its owner in a sticky one": {func(s *scene) { s.mode("d", 0o1777); s.give("d/c.yaml", stranger, 0) }, "d/c.yaml belongs to user 54321", ""},
		"the owner of a sticky one": {func(s *scene) { s.mode("d", 0o1777); s.give("d", stranger, 0) }, "/d belongs to user 54321", ""},
		"a link of root's": {set: func(s *scene) {
			s.must(os.Rename(s.at("d/c.yaml"), s.at("real.yaml")))
			s.must(os.Symlink("../real.yaml", s.at("d/c.yaml")))
		}},
		"a link of another's": {func(s *scene) {
			s.mode("d", 0o1777)
			s.must(os.Rename(s.at("d/c.yaml"), s.at("real.yaml")))
			s.must(os.Symlink("../real.yaml", s.at("d/c.yaml")))
			s.give("d/c.yaml", stranger, 0)
		}, "d/c.yaml belongs to user 54321", ""},
		"where a link leads": {func(s *scene) {
			s.must(os.Mkdir(s.at("open"), 0o755))
			s.mode("open", 0o777)
			s.must(os.Rename(s.at("d/c.yaml"), s.at("open/real.yaml")))
			s.must(os.Symlink("../open/real.yaml", s.at("d/c.yaml")))
		}, "/open can be written by every user", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.file("d/c.yaml", "host: h\n", 0o600)
			c.set(s)
			refused, found := s.judged("d/c.yaml")
			switch {
			case c.refused != "" && (!strings.Contains(refused, c.refused) || !strings.HasPrefix(refused, s.at("d/c.yaml")+": it names commands to run")):
				t.Errorf("it is refused with %q, want %q", refused, c.refused)
			case c.refused == "" && refused != "":
				t.Errorf("it is refused with %q", refused)
			case c.found != "" && (len(found) != 1 || !found[0].Degrades() || !strings.Contains(found[0].Msg, c.found)):
				t.Errorf("found %v, want %q", found, c.found)
			case c.refused+c.found == "" && len(found) > 0:
				t.Errorf("found %v", found)
			}
		})
	}
}

func aUserOfAnACLIsAUser(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.file("c.yaml", "host: h\n", 0o600)
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{0x01, 6, 1<<32 - 1}, {0x02, 6, stranger}, {0x04, 0, 1<<32 - 1}, {0x10, 6, 1<<32 - 1}, {0x20, 0, 1<<32 - 1}} {
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[0]))
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[1]))
		acl = binary.LittleEndian.AppendUint32(acl, e[2])
	}
	err := unix.Lsetxattr(s.at("c.yaml"), "system.posix_acl_access", acl, 0)
	if errors.Is(err, unix.ENOTSUP) {
		t.Skip("the file system has no ACLs")
	}
	s.must(err)
	if refused, _ := s.judged("c.yaml"); !strings.Contains(refused, "can be written by user 54321: setfacl -b") {
		t.Errorf("it is refused with %q", refused)
	}
}

func whoElseCanChangeAProgramIsTold(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.file("open/hook", "#!/bin/sh\n", 0o755)
	s.mode("open", 0o777)
	s.file("own/hook", "#!/bin/sh\n", 0o755)
	s.give("own/hook", stranger, 0)
	s.file("script", "#!/bin/sh\n", 0o646)
	s.file("group", "#!/bin/sh\n", 0o775)
	s.file("good", "#!/bin/sh\n", 0o755)
	s.file("data", "no program", 0o666)

	for _, c := range []struct{ text, key, want string }{
		{"e: {sources: [{path: /}], hooks: {before: [{command: [@/open/hook]}]}}", "environments.e.hooks.before.0.command", "root runs @/open/hook, and another user could change it: @/open can be written by every user"},
		{"e: {sources: [{path: /}], hooks: {after: [{command: [@/good]}, {command: [@/own/hook], outside: true}]}}", "environments.e.hooks.after.1.command", "@/own/hook belongs to user 54321"},
		{"e: {sources: [{path: /}], hooks: {on_failure: [{command: [sh, @/script]}]}}", "environments.e.hooks.on_failure.0.command", "root runs @/script"},
		{"e: {sources: [{command: [@/own/hook], as: x}]}", "environments.e.sources.0.command", "@/own/hook belongs to"},
		{"e: {sources: [{command: [sh], as: x, restore: [@/own/hook]}]}", "environments.e.sources.0.restore", "@/own/hook belongs to"},
		{"e: {sources: [{path: /}]}}\nnotify: {command: [env, A=b, @/own/hook]", "notify.command", "@/own/hook belongs to"},
	} {
		text := strings.ReplaceAll("identity: /id\nenvironments: {"+c.text+"}\n", "@", s.dir)
		text = strings.ReplaceAll(text, "'"+s.dir+"daily'", "'@daily'")
		s.file("c.yaml", text, 0o600)
		refused, _ := s.judged("c.yaml")
		if !strings.Contains(refused, c.key+": ") || !strings.Contains(refused, strings.ReplaceAll(c.want, "@", s.dir)) {
			t.Errorf("%s: refused with %q", c.text, refused)
		}
	}

	s.file("c.yaml", strings.ReplaceAll("environments: {e: {sources: [{path: /}], hooks: {before: [{command: [@/good, @/data, @]}, {command: [/no/such]}], after: [{command: [@/group]}, {command: [sh, @/group]}]}, drill: {probes: [{command: [@/own/hook]}]}}}\n", "@", s.dir), 0o600)
	refused, found := s.judged("c.yaml")
	found = slices.DeleteFunc(found, func(p *configs.Problem) bool { return strings.Contains(p.Msg, "/no/such does not exist") })
	if refused != "" || len(found) != 1 || !found[0].Degrades() || found[0].Key != "environments.e.hooks.after.0.command" || !strings.Contains(found[0].Msg, "/group can be written by group 0") {
		t.Errorf("refused with %q, found %v", refused, found)
	}
}

func aSecretThatEveryUserCanReadIsWarnedOf(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	t.Run("in the file", func(t *testing.T) {
		for text, want := range map[string]string{
			"notify: {email: {from: a@b.c, to: [d@e.f], server: 'h:25', user: u, password: hunter2}}":          "notify.email.password",
			"notify: {webhook: [{url: 'https://h/'}, {url: 'https://hooks.example.com/T0/x'}]}":                "notify.webhook.1.url",
			"notify: {webhook: [{url: 'https://h/', headers: {X-Team: a, Authorization: Bearer hunter2}}]}":    "notify.webhook.0.headers.Authorization",
			"notify: {ping: 'https://hc-ping.com/hunter2'}":                                                    "notify.ping",
			"environments: {e: {sources: [{path: /}], ping: 'https://hc-ping.com/hunter2'}}":                   "environments.e.ping",
			"notify: {email: {from: a@b.c, to: [d@e.f], server: 'h:25', user: u, password: '${PATH}'}}":        "",
			"notify: {webhook: [{url: 'https://h/x${PATH}', headers: {X-Team: storage, X-Token: '${PATH}'}}]}": "",
		} {
			s.file("c.yaml", text+"\n", 0o644)
			refused, found := s.judged("c.yaml")
			switch {
			case want == "" && (refused != "" || len(found) > 0):
				t.Errorf("%s: refused with %q, found %v", text, refused, found)
			case want != "" && (len(found) != 1 || found[0].Severity != configs.Advice || found[0].Key != want || found[0].Line != 1 || !strings.Contains(found[0].Error(), "chmod 600") || strings.Contains(found[0].Error(), "hunter2")):
				t.Errorf("%s: refused with %q, found %v", text, refused, found)
			}
			s.mode("c.yaml", 0o640)
			if refused, found := s.judged("c.yaml"); refused != "" || len(found) > 0 {
				t.Errorf("%s: not for others: refused with %q, found %v", text, refused, found)
			}
		}
	})
	s.file("guarded/c.yaml", "notify: {ping: 'https://hc-ping.com/hunter2'}\n", 0o644)
	s.mode("guarded", 0o700)
	if refused, found := s.judged("guarded/c.yaml"); refused != "" || len(found) > 0 {
		t.Errorf("below a directory that is root's alone: refused with %q, found %v", refused, found)
	}
	s.file("password", "hunter2", 0o644)
	s.file("c.yaml", "notify: {email: {from: a@b.c, to: [d@e.f], server: 'h:25', user: u, password_file: "+s.at("password")+"}}\n", 0o644)
	if _, found := s.judged("c.yaml"); len(found) != 1 || found[0].Key != "notify.email.password_file" {
		t.Errorf("a file with a password: found %v", found)
	}
}

func onlyWhatADaemonRecordedIsTaken(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.file("hook", "#!/bin/sh\n", 0o777)
	s.file("c.yaml", "environments: {web: {sources: [{path: /}], hooks: {before: [{command: ["+s.at("hook")+"]}]}}}\n", 0o600)
	o := Options{StateDir: s.at("state"), Version: "2"}

	// A check by hand leaves its result for the daemon, before there was any.
	s.file("state/daemon/jobs/checked-by-hand", "{}", 0o600)
	if _, err := Load(s.at("c.yaml"), o); err == nil || !strings.Contains(err.Error(), "can be written by every user") {
		t.Errorf("without a record, the configuration is refused with %v", err)
	}

	s.mode("hook", 0o755)
	c, err := Load(s.at("c.yaml"), o)
	s.must(err)
	s.must(RememberTaken(o.StateDir, "1", c))
	s.mode("hook", 0o777)
	if c, err = Load(s.at("c.yaml"), o); err != nil || len(c.Findings) == 0 {
		t.Errorf("what another version took is refused with %v", err)
	}
	s.must(RememberTaken(o.StateDir, o.Version, c))
	if _, err = Load(s.at("c.yaml"), o); err != nil {
		t.Errorf("taken once more, it is refused with %v", err)
	}
}
