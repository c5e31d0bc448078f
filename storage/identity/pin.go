package identity

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"knowngood/internal/durable"
)

// Pin is what an identity file remembers of a repository, so that a bare
// machine can distinguish the repository from a forgery.
type Pin struct {
	Repository string   // URL, without secrets
	Descriptor [32]byte // SHA-256 of the descriptor
	Owner      string   // fingerprint of the owner key, hexadecimal
}

func (p Pin) comments() string {
	return fmt.Sprintf("# repository: %s\n# pin: %x\n# owner: %s\n", oneLine(p.Repository), p.Descriptor, oneLine(p.Owner))
}

func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }

// AppendPin adds the comments of a pin to an identity file, atomically and
// with its mode kept: at its end, or before the armour of a protected one. A
// file that has the pin already stays as it is; an SSH key, and a protected file
// that is not armoured, are ErrFixed.
func AppendPin(path string, pin Pin) error {
	src, err := read(path)
	if err == nil {
		err = src.exposed
	}
	if err != nil {
		return err
	}
	data := src.data
	head, body := splitComments(data)
	switch {
	case isPrivateKey(body):
		return fmt.Errorf("identity file %s: %w: it is an SSH key; keep the pin beside it, for --pin", path, ErrFixed)
	case isProtected(body) && !isArmoured(body):
		return fmt.Errorf("identity file %s: %w: it is encrypted and not armoured; keep the pin beside it, for --pin", path, ErrFixed)
	}
	if slices.Contains(parsePins(data), pin) {
		return nil
	}

	tail := []byte(nil)
	if isArmoured(body) {
		data, tail = slices.Clip(head), body
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(data, '\n')
	}
	data = append(append(data, pin.comments()...), tail...)
	if err := durable.Replace(path, data, src.mode); err != nil {
		return fmt.Errorf("add the pin to identity file: %w", err)
	}
	return nil
}

// splitComments splits a file after its first comments and blank lines: pins
// stand there when an armoured file follows.
func splitComments(data []byte) (head, body []byte) {
	body = data
	for len(body) > 0 {
		line, rest, _ := bytes.Cut(body, []byte("\n"))
		if trimmed := bytes.TrimSpace(line); len(trimmed) > 0 && trimmed[0] != '#' {
			break
		}
		body = rest
	}
	return data[:len(data)-len(body)], body
}

// parsePins reads the comments that Pin.comments writes. Groups that are
// incomplete or malformed are no pins.
func parsePins(data []byte) []Pin {
	var pins []Pin
	var p Pin
	pinned := false
	add := func() {
		if pinned {
			pins = append(pins, p)
		}
		p, pinned = Pin{}, false
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "#"), ":")
		if !ok || !strings.HasPrefix(line, "#") {
			continue
		}
		switch value = strings.TrimSpace(value); strings.TrimSpace(name) {
		case "repository":
			add()
			p.Repository = value
		case "pin":
			if h, err := hex.DecodeString(value); err == nil && len(h) == 32 {
				p.Descriptor, pinned = [32]byte(h), true
			}
		case "owner":
			p.Owner = value
		}
	}
	add()
	return pins
}
