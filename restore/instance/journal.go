package instance

import (
	"fmt"
	"os"

	"knowngood/internal/durable"
)

// journal is the state of the instances of a directory, which is changed under its lock.
type journal struct {
	*Options
	layout
	state *state
	lock  *os.File
}

// Close unlocks.
func (j *journal) Close() { j.lock.Close() }

// save makes the state durable. at names the moment, for tests that end the process there.
func (j *journal) save(at string) error {
	j.point("before " + at)
	if err := durable.WriteState(j.path(stateFile), j.state, j.state.idle()); err != nil {
		return fmt.Errorf("state of instances: %w", err)
	}
	j.point("after " + at)
	return nil
}

// View returns what there is.
func (j *journal) View() *View { return j.state.view(j.dir) }
