package present

import (
	"knowngood/cmd/knowngood/console"
	"knowngood/internal/printable"
	"knowngood/restore/load"
)

// MaxCommand is how long a command may be, in bytes, to be shown here.
const MaxCommand = 4096

// Outputs shows how restored outputs are taken back, or whether they were.
func Outputs(out *console.Console, outputs []*load.Output, asked bool) {
	if asked && len(outputs) == 0 {
		out.Printf("nothing to load: no output that a command takes back was restored\n")
	}
	for _, o := range outputs {
		name := printable.Name(o.Path)
		switch {
		case o.Status == load.Loaded:
			out.Printf("loaded %s\n", name)
			continue
		case o.Status == load.Failed:
			out.Printf("FAILED to load %s: %s\n", name, printable.Error(o.Err))
		case o.Err != nil:
			out.Printf("not loaded: %s: %s\n", name, printable.Error(o.Err))
		}
		if !o.Loadable() {
			continue
		}
		how, by := printable.Command(o.Argv)+" < "+printable.Word(o.File), ""
		if len(how) > MaxCommand {
			how = "a command that is too long to be shown here: see knowngood show"
		}
		if o.Foreign {
			by = ", by a command that only the snapshot names (read it first; --load=snapshot asks and runs it)"
		}
		out.Printf("to load %s%s: %s\n", name, by, how)
	}
}

// outputJSON is a restored output as --json prints it.
type outputJSON struct {
	console.PathJSON
	File        string      `json:"file"` // where it was restored
	ExactFile   []byte      `json:"file_base64,omitempty"`
	Command     []string    `json:"command"`
	CommandFrom string      `json:"command_from"` // configuration or snapshot
	Status      load.Status `json:"status"`
	Error       string      `json:"error,omitempty"`
}

func outputsJSON(outputs []*load.Output) []outputJSON {
	list := []outputJSON{}
	for _, o := range outputs {
		j := outputJSON{console.JSONName(o.Path), o.File, console.Exact(o.File), o.Argv, "configuration", o.Status, ""}
		if o.Foreign {
			j.CommandFrom = "snapshot"
		}
		if o.Err != nil {
			j.Error = o.Err.Error()
		}
		list = append(list, j)
	}
	return list
}
