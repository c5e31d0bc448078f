package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// jsonCommand looks into the last line of standard output, and demands that
// every line is a JSON object in which nothing is null and no time is zero:
//
//	json PATH                there is such a value, and it is not null
//	json PATH == VALUE       also !=, > and < between numbers, ~ with a pattern
//	json PATH -> VARIABLE    keep it in the script's environment
//
// A path is names and positions joined by dots, as in snapshots.0.ref; count is
// the length of a list.
func jsonCommand(ts *testscript.TestScript, neg bool, args []string) {
	checkArgs(ts, false, len(args) == 1 || len(args) == 3, "[!] json PATH [==|!=|>|<|~|-> VALUE]")
	value, err := lookup(lastObject(ts), args[0])
	if len(args) == 1 {
		if (err == nil && value != nil) == neg {
			ts.Fatalf("%s is %v (%v)", args[0], value, err)
		}
		return
	}
	ts.Check(err)
	got := fmt.Sprint(value)
	if n, ok := value.(json.Number); ok {
		got = n.String()
	}
	if args[1] == "->" {
		ts.Setenv(args[2], got)
		return
	}
	ok, err := holds(got, args[1], args[2])
	ts.Check(err)
	if ok == neg {
		ts.Fatalf("%s is %s, want %s%s %s", args[0], got, map[bool]string{true: "not "}[neg], args[1], args[2])
	}
}

func lastObject(ts *testscript.TestScript) any {
	var last any
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		d := json.NewDecoder(strings.NewReader(line))
		d.UseNumber()
		last = nil
		if err := d.Decode(&last); err != nil {
			ts.Fatalf("a line of standard output is not JSON: %v\n%s", err, line)
		}
		if _, ok := last.(map[string]any); !ok || d.More() {
			ts.Fatalf("a line of standard output is not one object: %s", line)
		}
		if path := unknown(last); path != "" {
			ts.Fatalf("what is not known is not left out: %s in %s", path, line)
		}
	}
	return last
}

// unknown is the path of a value that is null, or a time that is zero; "" for none.
func unknown(value any) string {
	switch v := value.(type) {
	case nil:
		return "null"
	case string:
		if strings.HasPrefix(v, "0001-01-01T") {
			return v
		}
	case map[string]any:
		for name, x := range v {
			if path := unknown(x); path != "" {
				return name + "." + path
			}
		}
	case []any:
		for _, x := range v {
			if path := unknown(x); path != "" {
				return path
			}
		}
	}
	return ""
}

func lookup(value any, path string) (any, error) {
	for name := range strings.SplitSeq(path, ".") {
		switch v := value.(type) {
		case map[string]any:
			var ok bool
			if value, ok = v[name]; !ok {
				return nil, fmt.Errorf("%s: there is no %s", path, name)
			}
		case []any:
			if name == "count" {
				value = json.Number(strconv.Itoa(len(v)))
				continue
			}
			i, err := strconv.Atoi(name)
			if err != nil || i >= len(v) || i < -len(v) {
				return nil, fmt.Errorf("%s: there is no %s in a list of %d", path, name, len(v))
			}
			value = v[(i+len(v))%len(v)]
		default:
			return nil, fmt.Errorf("%s: %v has no %s", path, value, name)
		}
	}
	return value, nil
}

func holds(got, operator, want string) (bool, error) {
	switch operator {
	case "==":
		return got == want, nil
	case "!=":
		return got != want, nil
	case "~":
		return regexp.MatchString(want, got)
	case "<", ">":
		g, err := strconv.ParseFloat(got, 64)
		if err != nil {
			return false, err
		}
		w, err := strconv.ParseFloat(want, 64)
		if err != nil {
			return false, err
		}
		return operator == "<" && g < w || operator == ">" && g > w, nil
	}
	return false, fmt.Errorf("there is no operator %q", operator)
}
