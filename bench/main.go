// Bench measures knowngood beside restic and borg on the same trees, and keeps
// the proof in docs/PERFORMANCE.md.
//
// Runs alternate between the sides, every restore is compared with its source,
// and the figures are medians with their spread. It fails when a command fails
// or a restore is not equal, never because something was slow. Start it with
// bench/run, which builds what it measures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options of a run of the harness.
type options struct {
	dir    string // trees, repositories, results
	small  bool
	only   []string // of the sections; all when empty
	steps  []string // all when empty
	peers  []string
	runs   int
	json   string // file of the results
	docs   string // file whose tables are rewritten; none when empty
	binary string // the knowngood under test
}

// Sections of the report. The first three are trees too.
const (
	sectionA       = "A"
	sectionB       = "B"
	sectionMillion = "M"
	sectionS3      = "S3"
	sectionGrowth  = "growth"
)

// bench is one run of the harness.
type bench struct {
	options
	stage   *stage
	report  *report
	current string    // section
	files   int64     // of its tree
	aside   int       // directories that renew put aside
	removed time.Time // when many files were
	touched time.Time // when a file of the tree changed last
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.dir, "dir", "/var/tmp/knowngood-bench", "`directory` of trees, repositories and results")
	f.BoolVar(&o.small, "small", false, "use small trees, as CI does; leaves the documents unchanged")
	only := f.String("only", "", "`sections` to measure, of "+strings.Join(sections(), ",")+"; all by default")
	steps := f.String("steps", "", "`steps` to measure, of "+strings.Join(stepNames(), ",")+"; all by default; leaves the documents unchanged")
	peers := f.String("peers", "restic,borg", "`programs` to compare with")
	f.IntVar(&o.runs, "runs", 3, "`runs` of each step; leaves the documents unchanged when fewer than 3")
	f.StringVar(&o.json, "json", "", "`file` for the results; DIR/result.json by default")
	f.StringVar(&o.docs, "docs", "docs/PERFORMANCE.md", "`file` whose tables are rewritten")
	f.StringVar(&o.binary, "binary", "", "`program` under test; DIR/bin/knowngood by default")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	var err error
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return nil, err
	}
	if o.json == "" {
		o.json = filepath.Join(o.dir, "result.json")
	}
	if o.binary == "" {
		o.binary = filepath.Join(o.dir, "bin", "knowngood")
	}
	if f.NArg() > 0 || o.runs < 1 {
		return nil, fmt.Errorf("unexpected argument %q, or fewer runs than 1: see --help", f.Args())
	}
	for _, list := range []struct {
		flag, text string
		known      []string
		to         *[]string
	}{{"only", *only, sections(), &o.only}, {"steps", *steps, stepNames(), &o.steps}, {"peers", *peers, []string{nameRestic, nameBorg}, &o.peers}} {
		*list.to = strings.FieldsFunc(list.text, func(r rune) bool { return r == ',' })
		for _, name := range *list.to {
			if !slices.Contains(list.known, name) {
				return nil, fmt.Errorf("--%s: %q is none of %s", list.flag, name, strings.Join(list.known, ", "))
			}
		}
	}
	if o.small || len(o.steps) > 0 || o.runs < 3 || !slices.Contains(o.peers, nameRestic) {
		o.docs = ""
	}
	return o, nil
}

func sections() []string {
	return []string{sectionA, sectionB, sectionMillion, sectionS3, sectionGrowth}
}

// wants reports whether a section or step was asked for.
func wants(list []string, name string) bool {
	return len(list) == 0 || slices.Contains(list, name)
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	failed := errors.New("stopped")
	done := make(chan struct{})
	// The helpers of the tests end the goroutine that they fail in.
	go func() {
		defer close(done)
		b := &bench{options: *o, stage: &stage{dir: filepath.Join(o.dir, "tmp")}}
		defer b.stage.end()
		if failed = b.run(ctx); failed == nil && b.stage.failed > 0 {
			failed = fmt.Errorf("%d errors, see above", b.stage.failed)
		}
	}()
	<-done
	stop()
	if failed != nil {
		fmt.Fprintln(os.Stderr, "bench:", failed)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context) error {
	for _, peer := range b.peers {
		if _, err := exec.LookPath(peer); err != nil {
			return fmt.Errorf("%w: install it, or leave it out with --peers", err)
		}
	}
	var err error
	if b.report, err = newReport(ctx, &b.options); err != nil {
		return err
	}
	fmt.Println(b.report.Environment)
	for _, name := range sections() {
		if !wants(b.only, name) {
			continue
		}
		if err := b.section(ctx, name); err != nil {
			return err
		}
		if name == sectionGrowth {
			continue // has published its own
		}
		runtime.GC() // a source that was compared is large
		if err := b.report.publish(name); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) section(ctx context.Context, name string) error {
	b.current = name
	if name == sectionGrowth {
		return b.growth(ctx)
	}
	treeName := name
	if name == sectionS3 {
		treeName = sectionA
	}
	t, err := b.tree(ctx, treeName)
	if err != nil {
		return fmt.Errorf("make tree %s: %w", treeName, err)
	}
	b.report.Sections[name] = t.about
	fmt.Printf("\n%s: %s\n", name, t.about)
	if err := b.age(ctx); err != nil {
		return err
	}
	if name == sectionS3 {
		return b.s3(ctx, t)
	}
	return b.local(ctx, t)
}
