package repository

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"knowngood/internal/userdir"
	"knowngood/storage/layout"
	"knowngood/storage/seal"
	"knowngood/storage/statement"
)

// local is what a machine keeps of a repository in its state directory:
//
//	pins/<hash of the place>           descriptor trusted at that place
//	repos/<repository id>/host.key     see hostkey.go
//	repos/<repository id>/epoch        newest epoch of the owner seen
//	repos/<repository id>/epoch.host   epoch that this host made for itself
//	repos/<repository id>/heads/<host>/<environment>
//	repos/<repository id>/stores/<hash of the place>/…   what holds of that copy of the repository alone
//
// Every file is replaced atomically and is on disk when it counts.
type local struct {
	stateDir string
	machine  string
	repo     seal.RepositoryID
}

// dir is the folder of the repository; none without a state directory.
func (l *local) dir() userdir.Dir { return userdir.At(l.stateDir).In("repos", l.repo.String()) }

// read reads a file of the repository's folder; nil when it does not exist.
func (l *local) read(name string) ([]byte, error) {
	if l.stateDir == "" {
		return nil, nil
	}
	return l.readFile(l.dir(), name)
}

func (l *local) readFile(dir userdir.Dir, name string) ([]byte, error) {
	b, err := dir.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, l.wrap(err)
	}
	return b, nil
}

func (l *local) write(name string, data []byte) error {
	return l.writeFile(l.dir(), name, data)
}

func (l *local) writeFile(dir userdir.Dir, name string, data []byte) error {
	if l.stateDir == "" {
		return errors.New("no state directory: choose one with --state-dir")
	}
	dir = dir.In(filepath.Dir(name))
	if err := dir.Make(); err != nil {
		return l.wrap(err)
	}
	if err := dir.Replace(filepath.Base(name), data); err != nil {
		return l.wrap(err)
	}
	return nil
}

func (l *local) remove(name string) error {
	if err := l.dir().Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return l.wrap(err)
	}
	return nil
}

func (l *local) wrap(err error) error {
	hint := "check it, or choose another with --state-dir"
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		hint = "free space there, or choose another with --state-dir"
	}
	return fmt.Errorf("state directory %s: %w (%s)", l.stateDir, err, hint)
}

// locked runs do while no other process writes the repository's folder.
func (l *local) locked(do func() error) error {
	if err := l.dir().Make(); err != nil {
		return l.wrap(err)
	}
	f, err := l.dir().OpenFile("lock", os.O_RDWR|os.O_CREATE)
	if err != nil {
		return l.wrap(err)
	}
	defer f.Close() // which unlocks
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return l.wrap(err)
	}
	return do()
}

func placeHash(place string) string {
	sum := sha256.Sum256([]byte(place))
	return hex.EncodeToString(sum[:16])
}

// pins is the folder of what is trusted at each place.
func (l *local) pins() userdir.Dir { return userdir.At(l.stateDir).In("pins") }

// ofStore is where a file lies that tells of the store at a place: a copy of the
// repository elsewhere has other locks, and other deletions.
func ofStore(place, name string) string { return filepath.Join("stores", placeHash(place), name) }

// pin is what is remembered of a place; nil when nothing is.
func (l *local) pin(place string) (*Pin, error) {
	if l.stateDir == "" || place == "" {
		return nil, nil
	}
	file := l.pins().Path(placeHash(place))
	b, err := l.readFile(l.pins(), placeHash(place))
	if b == nil || err != nil {
		return nil, err
	}
	if h, err := hex.DecodeString(pinField(b, "pin")); err == nil && len(h) == 32 {
		return &Pin{[32]byte(h), file}, nil
	}
	return nil, fmt.Errorf("file %s is damaged: it holds no pin; remove it to trust the repository anew", file)
}

// pinField is a line of a pin file; "" when there is none.
func pinField(file []byte, name string) string {
	for line := range strings.SplitSeq(string(file), "\n") {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return value
		}
	}
	return ""
}

// knows reports whether a descriptor is remembered of any place.
func (l *local) knows(pin [32]byte) bool {
	if l.stateDir == "" {
		return false
	}
	names, _ := l.pins().Names() // where it cannot be read, nothing is known
	return slices.ContainsFunc(names, func(name string) bool {
		b, err := l.readFile(l.pins(), name)
		return err == nil && pinField(b, "pin") == hex.EncodeToString(pin[:])
	})
}

// rememberPin makes the descriptor the one that is trusted at a place, of which
// url is one spelling.
func (l *local) rememberPin(place, url string, d *statement.Descriptor, now time.Time) error {
	if l.stateDir == "" || place == "" {
		return nil
	}
	if known, err := l.pin(place); err == nil && known != nil && known.Descriptor == d.Hash() {
		return nil
	}
	text := fmt.Sprintf("url: %s\nrepository: %v\npin: %x\nsince: %s\n", strings.ReplaceAll(url, "\n", " "), d.Repository, d.Hash(), now.UTC().Format(time.RFC3339))
	return l.writeFile(l.pins(), placeHash(place), []byte(text))
}

func headFile(host, env string) string { return filepath.Join("heads", host, env) }

// head is the newest root of an environment that this machine saw verified;
// nil when it saw none.
func (l *local) head(host, env string) (*statement.Head, error) {
	b, err := l.read(headFile(host, env))
	if b == nil || err != nil {
		return nil, err
	}
	number, hash, ok := strings.Cut(strings.TrimSpace(string(b)), " ")
	n, nerr := strconv.ParseUint(number, 10, 64)
	h, herr := hex.DecodeString(hash)
	if !ok || nerr != nil || herr != nil || len(h) != 32 || n == 0 {
		return nil, fmt.Errorf("file %s is damaged: remove it to forget the newest snapshot seen", l.dir().Path(headFile(host, env)))
	}
	return &statement.Head{Environment: env, Number: n, Hash: [32]byte(h)}, nil
}

// rememberHead remembers a verified root unless a newer one is remembered.
func (l *local) rememberHead(host string, head statement.Head) error {
	if l.stateDir == "" {
		return nil
	}
	if known, err := l.head(host, head.Environment); err == nil && known != nil && known.Number >= head.Number {
		return nil
	}
	return l.locked(func() error {
		known, err := l.head(host, head.Environment)
		if err != nil || known != nil && known.Number >= head.Number {
			return err
		}
		return l.write(headFile(host, head.Environment), fmt.Appendf(nil, "%d %x\n", head.Number, head.Hash))
	})
}

// names are the hosts of which a head is remembered, or the environments of
// one host.
func (l *local) names(host string) ([]string, error) {
	if l.stateDir == "" {
		return nil, nil
	}
	found, err := l.dir().In("heads", host).Names()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, l.wrap(err)
	}
	var names []string
	for _, name := range found {
		if layout.ValidName(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// forgetHeads forgets the heads of a host, whose history the owner restated.
func (l *local) forgetHeads(host string) error {
	if err := l.dir().In("heads", host).RemoveAll(); err != nil {
		return l.wrap(err)
	}
	return nil
}

// witnesses are the remembered heads of a host but that of env, sorted.
func (l *local) witnesses(host, env string) ([]statement.Head, error) {
	names, err := l.names(host) // sorted
	if err != nil {
		return nil, err
	}
	var heads []statement.Head
	for _, name := range names {
		if name == env {
			continue
		}
		h, err := l.head(host, name)
		if err != nil {
			return nil, err
		}
		if h != nil {
			heads = append(heads, *h)
		}
	}
	return heads, nil
}

// machineHash tells this machine from others without naming it; zero when the
// system has no machine ID.
func (l *local) machineHash() (sum [32]byte) {
	id := []byte(l.machine)
	for _, file := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		if len(id) > 0 {
			break
		}
		if b, err := os.ReadFile(file); err == nil {
			id = bytes.TrimSpace(b)
		}
	}
	if len(id) == 0 {
		return sum
	}
	return sha256.Sum256(append(append([]byte("knowngood v1 machine\n"), l.repo[:]...), id...))
}
