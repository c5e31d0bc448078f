// Package configs reads and validates the configuration.
//
// It is strict: unknown and repeated keys, wrong types and values that cannot
// be are refused with file, line, column and the line itself. All that is wrong
// is reported at once, in the order of the lines, unless the text is not YAML: then
// its first mistake is. What may only follow from another mistake is passed over.
// What is left out has a documented default.
//
// ${NAME} is replaced from the environment in repository.url, identity,
// state_dir, the ping of an environment and below notify except in
// notify.command (arguments show in process lists), and nowhere else; a variable
// that is not set is an error.
//
// Secrets belong below notify and into ping. Lines from there, credentials in
// URLs and the values of variables are kept out of errors and of what YAML shows.
//
// Anchors and aliases work; merge keys (<<) are refused. Text that YAML would
// read as a number or a truth value must be quoted: it would not come through
// unchanged (007 is 7). Numbers are decimal: 010 is ten.
//
// LoadOptions.Judge checks what this package cannot (URLs, templates, who else can
// change the file): the program reads configurations with validation.Load. Of
// knowngood the package imports only schedules, so that every package may import it.
package configs
