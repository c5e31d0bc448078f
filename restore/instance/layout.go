package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"knowngood/configs"
	"knowngood/internal/posix"
	"knowngood/restore/generation"
	"knowngood/snapshot/live"
)

// layout is a directory with instances: where things lie in it, and how a tree gets there
// and away. It knows no state.
type layout struct{ dir string } // free of links

func (l layout) path(name string) string { return filepath.Join(l.dir, name) }

func (l layout) treePath(name string) string { return l.path(filepath.Join(treesDir, name)) }

// Path is where the tree of an instance is.
func (l layout) Path(in *Instance) string { return l.path(strconv.Itoa(in.Number)) }

// layers is where the writable part of an overlay is.
func (l layout) layers(in *Instance) string {
	return l.path(filepath.Join(layersDir, strconv.Itoa(in.Number)))
}

// Unit is the systemd unit that runs an instance from its tree.
func (l layout) Unit(in *Instance) string {
	return configs.InstanceUnit(l.Path(in))
}

// makeParents makes the directories that a directory lies in, below one that others cannot
// change.
func makeParents(dir string) error {
	dir = filepath.Dir(dir)
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := makeParents(dir)
	if err == nil {
		_, err = live.Parent(dir)
	}
	if err == nil {
		err = os.Mkdir(dir, 0o755)
	}
	return err
}

func (l layout) none() error {
	return fmt.Errorf("%s: %w (knowngood spawn REF --dir DIR --count N, or knowngood scale, makes some)", l.dir, ErrNone)
}

// prepare makes the directory, and refuses one with other things.
func (l layout) prepare(create bool) error {
	names, err := os.ReadDir(l.dir)
	if errors.Is(err, fs.ErrNotExist) && create {
		err = os.Mkdir(l.dir, 0o755)
	} else if errors.Is(err, fs.ErrNotExist) {
		return l.none()
	}
	if err == nil {
		err = live.Ours(l.dir)
	}
	if err != nil {
		return err
	}
	if _, err := os.Lstat(l.path(stateFile)); errors.Is(err, fs.ErrNotExist) {
		for _, n := range names { // what a first call left that was killed
			if n.Name() != lockFile && !strings.HasPrefix(n.Name(), "."+stateFile) {
				return fmt.Errorf("%s holds %q and no instances: they need a directory of their own", l.dir, n.Name())
			}
		}
		if !create {
			return l.none()
		}
	}
	return nil
}

// remove removes something below the directory. No link is followed, and nothing that is
// mounted is entered.
func (l layout) remove(rel string) error { return posix.RemovePath(l.path(rel)) }

// quoted is text between double quotes in a file of variables, as systemd reads it.
var quoted = strings.NewReplacer(`"`, `\"`, `\`, `\\`, "$", `\$`, "`", "\\`")

// build makes the tree of an instance.
func (l layout) build(ctx context.Context, in *Instance, environment string, point func(string)) (err error) {
	env := fmt.Sprintf("KNOWNGOOD_ENVIRONMENT=%s\nKNOWNGOOD_INSTANCE=%d\nKNOWNGOOD_INSTANCE_PATH=\"%s\"\n", environment, in.Number, quoted.Replace(l.Path(in)))
	if err := os.WriteFile(l.Path(in)+envExt, []byte(env), 0o644); err != nil {
		return err
	}
	if in.Way != overlay {
		in.Way, err = generation.CloneTree(ctx, l.treePath(in.Tree), l.Path(in), generation.Cloning{Subvolumes: true})
		return err
	}
	upper := filepath.Join(l.layers(in), "upper")
	if err := errors.Join(os.MkdirAll(filepath.Dir(l.layers(in)), 0o700), os.Mkdir(l.layers(in), 0o700), os.Mkdir(upper, 0o700), os.Mkdir(filepath.Join(l.layers(in), "work"), 0o700), os.Mkdir(l.Path(in), 0o700)); err != nil {
		return err
	}
	if err := generation.CopyTop(l.treePath(in.Tree), upper); err != nil { // it becomes that of the overlay
		return err
	}
	point("before mounting")
	return l.mount(in)
}

// overlay is the way of instances that lie above the first tree.
const overlay = "overlay"

// mount mounts an overlay, unless it is mounted.
func (l layout) mount(in *Instance) error {
	mounts, err := posix.Mounts(l.Path(in))
	if err != nil || slices.ContainsFunc(mounts, func(m posix.Mount) bool { return m.Path == l.Path(in) }) {
		return err
	}
	if strings.ContainsAny(l.dir, `,:\`) {
		return fmt.Errorf("overlays need a directory whose path has no comma, colon or backslash, and %q has", l.dir)
	}
	// What a tree brings as attributes of an overlay leads nowhere: nothing is followed.
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%[2]s/work,redirect_dir=nofollow,metacopy=off,index=off", l.treePath(in.Tree), l.layers(in))
	if err := unix.Mount("knowngood", l.Path(in), "overlay", 0, options); err != nil {
		return fmt.Errorf("mount the overlay %s: %w (it takes root, and a file system below that can hold one)", l.Path(in), err)
	}
	return nil
}

// unmount unmounts an overlay of ours, and refuses where something else is mounted at or
// below an instance.
func (l layout) unmount(in *Instance) error {
	mounts, err := posix.Mounts(l.Path(in))
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if m.Path != l.Path(in) || m.Type != "overlay" || in.Way != overlay {
			return fmt.Errorf("%s is mounted on %s: unmount it (umount %[2]s)", m.Type, m.Path)
		}
		if err := unix.Unmount(m.Path, unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", m.Path, err)
		}
	}
	return nil
}

func (l layout) placeholders(in *Instance) *strings.Replacer {
	return configs.Placeholders(in.Number, l.Path(in), l.Unit(in))
}

// orphan matches what lies beside the state in the directory, when that does not name it.
var orphan = regexp.MustCompile(`^([0-9]+(\.env)?|\.instances\.json\..*)$`)

// tidy removes what a state does not name: what was not finished, or came back with a disk
// that lost its last writes. Overlays are unmounted; nothing else that is mounted is entered.
func (l layout) tidy(st *state) error {
	known := map[string]bool{}
	for _, in := range st.Instances {
		n := strconv.Itoa(in.Number)
		known[n], known[n+envExt] = true, true
	}
	for _, t := range st.Trees {
		known[t.Name], known[t.Name+recordExt] = true, true
	}
	for _, dir := range []string{".", treesDir, layersDir} {
		names, _ := os.ReadDir(l.path(dir)) // there may be none
		for _, n := range names {
			if known[n.Name()] || dir == "." && !orphan.MatchString(n.Name()) {
				continue
			}
			if number, err := strconv.Atoi(n.Name()); err == nil && dir == "." {
				if err := l.unmount(&Instance{Number: number, Way: overlay}); err != nil {
					return err
				}
			}
			if err := l.remove(dir + "/" + n.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}
