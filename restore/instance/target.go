package instance

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"knowngood/configs"
	"knowngood/internal/command"
	"knowngood/internal/printable"
)

const (
	targetTimeout = time.Minute
	maxAnswer     = 256 // bytes that are read of an answer
)

var number = regexp.MustCompile(`^[0-9]{1,9}(\.[0-9]{1,9})?$`)

// Decide reads the wanted number of instances, and returns to how many that leads now. Why
// is the reason where the number that there is stays.
func (s *Set) Decide(ctx context.Context) (wanted, to int, why string, err error) {
	if wanted, err = s.wanted(ctx); err != nil {
		return 0, 0, "", fmt.Errorf("the wanted number of instances of %s cannot be read, so nothing is changed: %w", s.Environment, err)
	}
	to, why = decide(s.Config, len(s.state.alive()), len(s.state.in(Failed)), s.Now().Sub(s.state.ChangedAt), wanted)
	return wanted, to, why, nil
}

// decide keeps a wanted number within the bounds, and a step as small as it must be; while
// the last change is younger than the cooldown, the number stays. It does not fall either
// while some of the instances failed: what the rest of them does is no measure of what is needed.
func decide(c *configs.Scale, now, failed int, age time.Duration, wanted int) (to int, why string) {
	wanted = min(max(wanted, int(c.Min)), int(c.Max))
	cooldown := time.Duration(c.Cooldown)
	switch {
	case now < int(c.Min): // whatever the cooldown
	case wanted < now && failed > 0:
		return now, fmt.Sprintf("%d of %d instances failed, and fewer are wanted only when all are ready", failed, now)
	case wanted != now && age >= 0 && age < cooldown:
		return now, fmt.Sprintf("it was changed %v ago, and cooldown is %v", age.Round(time.Second), cooldown)
	}
	if c.Up > 0 {
		wanted = min(wanted, max(now+int(c.Up), int(c.Min)))
	}
	if c.Down > 0 {
		wanted = max(wanted, now-int(c.Down))
	}
	return wanted, ""
}

// wanted reads a number, rounded up, and nothing else.
func (s *Set) wanted(ctx context.Context) (int, error) {
	t := s.Config.Target
	timeout := cmp.Or(time.Duration(t.Timeout), targetTimeout)
	var text string
	var err error
	if t.HTTP != "" {
		text, err = ask(ctx, t.HTTP, timeout)
	} else {
		text, err = s.askCommand(ctx, t, timeout)
	}
	text = strings.TrimSpace(text)
	if err == nil && !number.MatchString(text) {
		err = fmt.Errorf("it answered %q, which is no number", printable.Line(text[:min(len(text), maxAnswer)]))
	}
	if err != nil {
		return 0, err
	}
	f, err := strconv.ParseFloat(text, 64)
	return int(math.Ceil(f)), err
}

// askCommand passes the command which instances count, by their numbers, paths and units.
func (s *Set) askCommand(ctx context.Context, t *configs.ScaleTarget, timeout time.Duration) (string, error) {
	var numbers, paths, units []string
	for _, in := range s.state.in(Started, Ready) {
		numbers, paths, units = append(numbers, strconv.Itoa(in.Number)), append(paths, s.Path(in)), append(units, s.Unit(in))
	}
	text := ""
	line := func(stream, line string) {
		if stream == "stdout" {
			text += line + "\n"
		}
	}
	c := command.Command{Argv: t.Command, Timeout: timeout, Outside: t.Outside, Line: line, Env: []string{
		"KNOWNGOOD_ENVIRONMENT=" + s.Environment, "KNOWNGOOD_INSTANCES=" + strings.Join(numbers, " "), "KNOWNGOOD_INSTANCE_PATHS=" + strings.Join(paths, "\n"), "KNOWNGOOD_INSTANCE_UNITS=" + strings.Join(units, "\n"),
		fmt.Sprintf("KNOWNGOOD_SCALE_MIN=%d", s.Config.Min), fmt.Sprintf("KNOWNGOOD_SCALE_MAX=%d", s.Config.Max),
	}}
	err := c.Run(ctx)
	return text, err
}

func ask(ctx context.Context, url string, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d", resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer { // the begin of a number is another one
		err = fmt.Errorf("it answered more than %d bytes, and not only a number", maxAnswer)
	}
	return string(b), err
}
