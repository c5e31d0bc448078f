// Package usage is about how commands are called: what they take, and mistakes in
// flags, arguments and the configuration.
package usage

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"knowngood/configs"
	"knowngood/storage/history"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Error is a mistake in flags, arguments or the configuration.
type Error struct{ err error }

func (e *Error) Error() string { return e.err.Error() }
func (e *Error) Unwrap() error { return e.err }

// Errorf makes an Error, as fmt.Errorf does.
func Errorf(format string, args ...any) error { return &Error{fmt.Errorf(format, args...)} }

// usageOf is how a command is called, and where there is more.
func usageOf(cmd *cobra.Command) string {
	return fmt.Sprintf("usage: %s (%s --help has examples)", cmd.UseLine(), cmd.CommandPath())
}

// Takes demands at least and at most so many arguments; most < 0 is any number.
func Takes(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return Errorf("%s: an argument is missing; %s", cmd.CommandPath(), usageOf(cmd))
		case most >= 0 && len(args) > most:
			extra := args[most]
			if f := optionalValue(cmd); f != nil {
				return equalsSign(cmd, f, extra)
			}
			return Errorf("%s: %q is one argument too many; %s", cmd.CommandPath(), extra, usageOf(cmd))
		}
		if f := optionalValue(cmd); f != nil {
			meant := func(arg string) bool { return meantAsValue(f, arg) }
			if i := slices.IndexFunc(args, meant); i >= 0 {
				return equalsSign(cmd, f, args[i])
			}
		}
		return nil
	}
}

// optionalValue is a flag that was given without the value that it may have, or
// nil: a word after it, which was meant to be the value, became an argument.
func optionalValue(cmd *cobra.Command) (bare *pflag.Flag) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.NoOptDefVal != "" && f.Value.Type() != "bool" && f.Value.String() == f.NoOptDefVal {
			bare = f
		}
	})
	return bare
}

// equalsSign refuses an argument after a flag that was given without a value.
func equalsSign(cmd *cobra.Command, f *pflag.Flag, arg string) error {
	return Errorf("a value of --%s follows an equals sign: --%s=%s; without it, %q is an argument of its own; %s", f.Name, f.Name, arg, arg, usageOf(cmd))
}

// Optional lets a flag have no value; then bare is used. Where a
// bare one precedes an argument that is one of the values, or is a number where
// bare is one, the argument was meant as its value.
func Optional(f *pflag.Flag, bare string, values ...string) {
	f.NoOptDefVal = bare
	f.Annotations = map[string][]string{valuesOfFlag: values}
}

const valuesOfFlag = "values"

func meantAsValue(f *pflag.Flag, arg string) bool {
	if _, err := strconv.Atoi(f.NoOptDefVal); err == nil {
		_, err = strconv.Atoi(arg)
		return err == nil
	}
	return slices.Contains(f.Annotations[valuesOfFlag], arg)
}

// Group makes a command of one that only has others below it.
func Group(cmd *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	cmd.Args = UnknownCommand
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.SuggestionsMinimumDistance = 2
	cmd.Annotations = map[string]string{"config": "none"}
	cmd.AddCommand(commands...)
	return cmd
}

// UnknownCommand refuses what is no command, and suggests one that is spelled
// like it.
func UnknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return Errorf("there is no command %q%s (see %s --help)", args[0], didYouMean(cmd.SuggestionsFor(args[0]), ""), cmd.CommandPath())
}

// CheckNames has help and completion, which the command library makes, refuse
// names that there are not, with those that there are.
func CheckNames(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Args = func(_ *cobra.Command, args []string) error {
				of, rest, err := root.Find(args)
				if err == nil && len(rest) == 0 {
					return nil
				}
				return noneOf(of, rest)
			}
		case "completion":
			cmd.Args = func(cmd *cobra.Command, args []string) error {
				if len(args) == 0 {
					return nil
				}
				return noneOf(cmd, args)
			}
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			cmd.Annotations = map[string]string{"config": "none"}
			for _, shell := range cmd.Commands() {
				shell.Example = "  " + shell.CommandPath() + " --no-descriptions"
				cmd.Example += "  " + shell.CommandPath() + "\n"
			}
			cmd.Example = strings.TrimSuffix(cmd.Example, "\n")
		}
	}
}

// noneOf refuses a name that none of the commands below has.
func noneOf(cmd *cobra.Command, args []string) error {
	if !cmd.HasAvailableSubCommands() {
		return Errorf("%q is no command of %s, which has none (see %s --help)", args[0], cmd.CommandPath(), cmd.CommandPath())
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return Errorf("%q is no command of %s; there is %s", args[0], cmd.CommandPath(), strings.Join(names, ", "))
}

func didYouMean(words []string, before string) string {
	if len(words) == 0 {
		return ""
	}
	return ": did you mean " + before + strings.Join(words, " or "+before) + "?"
}

// FlagError puts what the flag library found wrong into our words.
func FlagError(cmd *cobra.Command, err error) error {
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
		syntax  *pflag.InvalidSyntaxError
	)
	// Flags of a command whose name is misspelled are unknown, too, unless it is an argument.
	if cmd.HasSubCommands() && !strings.Contains(cmd.Use, " ") && errors.As(err, &unknown) {
		if err := UnknownCommand(cmd, cmd.Flags().Args()); err != nil {
			return err
		}
	}
	switch {
	case errors.As(err, &unknown):
		if unknown.GetSpecifiedShortnames() != "" {
			return Errorf("there is no flag -%s; %s", unknown.GetSpecifiedName(), usageOf(cmd))
		}
		name := unknown.GetSpecifiedName()
		if name == "version" {
			return Errorf("there is no flag --version here: knowngood version prints the version")
		}
		return Errorf("there is no flag --%s%s; %s", name, didYouMean(similarFlags(cmd, name), "--"), usageOf(cmd))
	case errors.As(err, &missing):
		return Errorf("--%s takes a value: %s; %s", missing.GetFlag().Name, valueOf(missing.GetFlag()), usageOf(cmd))
	case errors.As(err, &invalid):
		f := invalid.GetFlag()
		if _, number := f.Value.(Count); number { // its parser reports more
			return Errorf("--%s: %w; %s", f.Name, invalid.Unwrap(), usageOf(cmd))
		}
		return Errorf("--%s: %q is not %s; %s", f.Name, invalid.GetValue(), kindOfValue(f), usageOf(cmd))
	case errors.As(err, &syntax):
		return Errorf("%q is no flag; %s", syntax.GetSpecifiedFlag(), usageOf(cmd))
	}
	return Errorf("%w; %s", err, usageOf(cmd))
}

// similarFlags are flags of a command that are spelled like name.
func similarFlags(cmd *cobra.Command, name string) []string {
	flags := &cobra.Command{SuggestionsMinimumDistance: 2} // it has the measure of likeness
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			flags.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
		}
	})
	return flags.SuggestionsFor(name)
}

func valueOf(f *pflag.Flag) string {
	name, _ := pflag.UnquoteUsage(f)
	return fmt.Sprintf("--%s %s", f.Name, name)
}

func kindOfValue(f *pflag.Flag) string {
	if f.Value.Type() == "bool" {
		return "true or false"
	}
	return "a valid value"
}

// RefuseEmpty refuses empty arguments and values of flags. They come from
// variables that are not set, and must not mean the working directory, or
// for everything. An empty --identity or --config asks for none.
func RefuseEmpty(cmd *cobra.Command, args []string) error {
	if slices.Contains(args, "") {
		return Errorf("an argument is empty: is a variable not set? (see %s --help)", cmd.CommandPath())
	}
	var err error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Name == "identity" || f.Name == "config" {
			return
		}
		if list, ok := f.Value.(pflag.SliceValue); f.Value.String() == "" || ok && slices.Contains(list.GetSlice(), "") {
			err = Errorf("--%s is empty: is a variable not set? Leave it out if you do not want it", f.Name)
		}
	})
	return err
}

// Moment reads the value of a flag that is a time, such as 2026-11-20T10:00, or a
// duration before now, such as 7d. It returns where that begins and where it ends.
func Moment(flag, text string, now time.Time) (begin, end time.Time, err error) {
	if begin, end, err = history.ParseTime(text); err == nil {
		return begin, end, nil
	}
	d, err := configs.ParseDuration(text)
	if err != nil {
		return begin, end, Errorf("%s: %q is neither a time such as 2026-11-20 or 2026-11-20T10:00, nor a duration such as 7d or 12h", flag, text)
	}
	begin = now.Add(-time.Duration(d))
	return begin, begin, nil
}
