package command

import (
	"os"
	"slices"
	"strings"
)

// private are the beginnings of the names of variables that are only for this
// program: credentials of the store, and what opens or names a repository.
var private = []string{"AWS_", "KNOWNGOOD_"}

// Environ is the environment of this process for a program that it starts, without
// the credentials and settings that are only for this process. A program that
// needs some of these takes them from a place of its own.
func Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return slices.ContainsFunc(private, func(prefix string) bool { return strings.HasPrefix(v, prefix) })
	})
}
