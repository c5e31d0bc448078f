package main

import (
	"os"

	"knowngood/restore/owners"
)

// ownerOptions say how owners are found, or that they are not set: that takes
// root.
func ownerOptions(numeric, keep bool) owners.Options {
	return owners.Options{Numeric: numeric, Keep: keep || os.Geteuid() != 0}
}
