package validation

import (
	"encoding/hex"
	"encoding/json"
	"slices"

	"knowngood/configs"
	"knowngood/internal/userdir"
)

// taken is which configuration a daemon took last, and which version of the
// program that was. What a later version refuses in the same text must not
// end the captures of a host that nobody looks at: it is taken, and the daemon is
// degraded.
type taken struct {
	Version string `json:"version"`
	Sum     string `json:"sha256"` // of the text
}

// takenFile is its name, in the folder of the daemon in the state directory.
const takenFile = "configuration"

func takenDir(stateDir string) userdir.Dir { return userdir.At(stateDir).In("daemon") }

// takenEarlier reports whether a daemon of another version took this text, as
// the last one. Without a record none did.
func takenEarlier(stateDir, version string, sum [32]byte) bool {
	var t taken
	b, err := takenDir(stateDir).ReadFile(takenFile)
	return err == nil && json.Unmarshal(b, &t) == nil && t.Version != version && t.Sum == hex.EncodeToString(sum[:])
}

// TakenFile is where a daemon writes which configuration it took.
func TakenFile(stateDir string) string { return takenDir(stateDir).Path(takenFile) }

// RememberTaken writes which configuration a daemon of a version of the program
// took. One that was taken only because an earlier version had stays that one's.
func RememberTaken(stateDir, version string, c *configs.Config) error {
	if slices.ContainsFunc(c.Findings, func(p *configs.Problem) bool { return p.Severity == configs.Unfit }) {
		return nil
	}
	dir := takenDir(stateDir)
	b, err := json.Marshal(taken{version, hex.EncodeToString(c.Sum[:])})
	if err != nil {
		return err
	}
	if old, err := dir.ReadFile(takenFile); err == nil && string(old) == string(b) {
		return nil
	}
	if err := dir.Make(); err != nil {
		return err
	}
	return dir.Replace(takenFile, b)
}
