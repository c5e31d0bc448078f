// Package configs reads and validates the configuration.
//
// It is strict: unknown and repeated keys, wrong types and values that cannot
// be are refused with file, line and column, all of them at once. What is left
// out has a documented default. ${NAME} is replaced from the environment in
// repository.url, identity, state_dir and below notify, and nowhere else; a
// variable that is not set is an error. The package imports no other of
// knowngood, so that anything may.
package configs
