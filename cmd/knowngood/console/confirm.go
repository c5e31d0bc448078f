package console

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"knowngood/internal/printable"
)

// Confirm asks at the terminal, and reports whether the answer is yes. The error is that there
// is none to ask at.
func Confirm(ctx context.Context, question string) (bool, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return false, fmt.Errorf("there is no terminal to ask at: %w", err)
	}
	defer tty.Close()
	defer context.AfterFunc(ctx, func() { tty.Close() })()
	fmt.Fprint(printable.Writer{To: tty}, question+" Type yes: ")
	answer, err := bufio.NewReader(tty).ReadString('\n')
	return err == nil && strings.TrimSpace(answer) == "yes", nil
}
