package main

import (
	"fmt"
	"os"
	"strings"
)

// rewrite puts text between the markers of a section in a document.
func rewrite(file, section, text string) error {
	document, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	changed, err := replaceSection(string(document), section, text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := os.WriteFile(file, []byte(changed), 0o644); err != nil {
		return err
	}
	fmt.Printf("tables of section %s: %s\n", section, file)
	return nil
}

func replaceSection(document, section, text string) (string, error) {
	begin, end := fmt.Sprintf("<!-- bench %s -->\n", section), fmt.Sprintf("<!-- end of bench %s -->", section)
	before, rest, ok := strings.Cut(document, begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return "", fmt.Errorf("the markers %q and %q are missing: put them where the table belongs", strings.TrimSpace(begin), end)
	}
	return before + begin + "\n" + strings.TrimSpace(text) + "\n\n" + end + after, nil
}
