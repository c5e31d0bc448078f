package main

import (
	"knowngood/cmd/knowngood/usage"
	"knowngood/configs"
)

// listed makes a list that is empty print as [], not as null.
func listed[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// rate reads a limit in bytes a second; without text it is the configured one.
func rate(flag, text string, configured configs.Rate) (configs.Rate, error) {
	if text == "" {
		return configured, nil
	}
	r, err := configs.ParseRate(text)
	if err != nil {
		return 0, usage.Errorf("%s: %w", flag, err)
	}
	return r, nil
}
