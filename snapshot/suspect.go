package snapshot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"knowngood/internal/posix"
	"knowngood/internal/userdir"
	"knowngood/snapshot/manifest"
	"knowngood/snapshot/signs"
	"knowngood/snapshot/suspect"
	"knowngood/storage/authentic"
	"knowngood/storage/history"
	"knowngood/storage/repository"
	"knowngood/storage/statement"
)

// Expectation is what a source must be like. Otherwise the snapshot is suspect; but one
// in which something changed is only not recorded as Frozen.
type Expectation struct {
	Shrink   int  // percentage of what it had that it must still have; 0: any
	Mounted  bool // it must be a mount point
	NotEmpty bool // it must hold a file; of a command: its output must not be empty
	Frozen   bool // nothing in it changes during the run
}

// Suspicion is why a source makes a snapshot suspect.
type Suspicion struct {
	Path        string // of the source
	Reason      statement.Reason
	Now, Before suspect.Amount // of what shrank
	Than        string         // web@42, which had as much as Before
	Signs       string         // of encryption, in words
}

func (s Suspicion) String() string {
	switch s.Reason {
	case statement.Shrank:
		return fmt.Sprintf("%s has %s of %s files and %s of %s, compared with %s", s.Path, humanize.Comma(int64(s.Now.Files)), humanize.Comma(int64(s.Before.Files)),
			humanize.IBytes(s.Now.Bytes), humanize.IBytes(s.Before.Bytes), s.Than)
	case statement.NotMounted:
		return s.Path + " is no mount point, and must be one"
	case statement.LooksEncrypted:
		return fmt.Sprintf("%s looks encrypted: %s", s.Path, s.Signs)
	case statement.Empty:
		return s.Path + " is empty, and must not be"
	}
	return fmt.Sprintf("%s %v", s.Path, s.Reason)
}

// Reasons are why a snapshot is suspect, as its root has it. The root names a
// source by a tag that its path gives: a source that is none of paths is named by
// its position.
func Reasons(s *history.Snapshot, paths []string) []string {
	var out []string
	if s.Body == nil {
		return nil
	}
	for _, x := range s.Body.Suspect {
		name := fmt.Sprintf("source number %d (counted from 1)", x.Source+1)
		for _, p := range paths {
			if s.Domain.SourceTag(p) == s.Body.Sources[x.Source].Tag {
				name = p
			}
		}
		out = append(out, fmt.Sprintf("%s %v", name, x.Reason))
	}
	return out
}

// referenceFile holds what this host must know to judge the next snapshot of an
// environment. Where it is lost, or does not follow the newest snapshot, the
// roots that are kept have the same.
const referenceFile = "reference"

// judgement is the content of the file.
type judgement struct {
	Number    uint64            `json:"number"`   // of the newest snapshot
	Suspect   bool              `json:"suspect"`  // it is, and nobody accepted it
	Accepted  uint64            `json:"accepted"` // the highest number that is accepted
	Reference suspect.Reference `json:"reference"`
	Paths     []string          `json:"paths"` // of the sources of the last snapshot that was made here
	Signs     signs.State       `json:"signs"`
}

func referenceDir(repo *repository.Repository, env string) userdir.Dir {
	return repo.State.Dir().In("env", env)
}

func (j *judgement) write(dir userdir.Dir) error {
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if err := dir.Make(); err != nil {
		return err
	}
	return dir.Replace(referenceFile, b)
}

// writeUnsynced is write after a run. What a loss of power leaves of it is no
// JSON, or not of the newest snapshot, and the roots are asked.
func (j *judgement) writeUnsynced(dir userdir.Dir) error {
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	err = dir.ReplaceUnsynced(referenceFile, b)
	if errors.Is(err, fs.ErrNotExist) { // the first time
		return j.write(dir)
	}
	return err
}

// readJudgement reads the file; the zero value where there is none.
func readJudgement(dir userdir.Dir) (j judgement) {
	b, err := dir.ReadFile(referenceFile)
	if err != nil || json.Unmarshal(b, &j) != nil {
		return judgement{}
	}
	return j
}

// Accepted is the highest number of a snapshot that this host knows to be
// accepted, 0 for none. It asks nothing of the store.
func Accepted(repo *repository.Repository, env string) uint64 {
	return readJudgement(referenceDir(repo, env)).Accepted
}

// RememberedPaths are the paths of the sources of the last snapshot of an
// environment that this host took, as Reasons wants them; none when that is not
// known. It asks nothing of the store.
func RememberedPaths(repo *repository.Repository, env string) []string {
	return readJudgement(referenceDir(repo, env)).Paths
}

// judged is the judgement on the snapshots so far. It asks the store only where
// the newest is suspect, which somebody may have accepted, or this host does
// not remember.
func judged(ctx context.Context, repo *repository.Repository, host, env string) (judgement, error) {
	number, err := repo.Remembered(host, env)
	if number == 0 || err != nil {
		return judgement{}, err
	}
	j := readJudgement(referenceDir(repo, env))
	if j.Number == number && !j.Suspect {
		return j, nil
	}
	accepted, err := repo.Acceptances(ctx, host, env)
	if err != nil || j.Number == number && accepted.Highest() <= j.Accepted {
		return j, err
	}
	j, err = judgeKept(ctx, repo, host, env, accepted)
	j.Number = number
	return j, err
}

// judgeKept makes the judgement from the roots that are kept.
func judgeKept(ctx context.Context, repo *repository.Repository, host, env string, accepted *history.Acceptances) (judgement, error) {
	j := judgement{Accepted: accepted.Highest()}
	var all []*history.Snapshot
	for s, err := range repo.Kept(ctx, host, env) {
		if err != nil && !authentic.Damaged(err) {
			return j, err
		}
		if err == nil && s.Body != nil {
			all = append(all, s)
		}
	}

	for _, s := range slices.Backward(all) {
		j.Number, j.Suspect, j.Signs = s.Number, accepted.Suspect(s), signs.State{}
		switch {
		case j.Suspect:
			if slices.ContainsFunc(s.Body.Suspect, func(x statement.Suspicion) bool { return x.Reason == statement.LooksEncrypted }) {
				j.Signs = signs.Suspected()
			}
		case accepted.Names(s):
			j.Reference = suspect.Reference{compared(s)}
		default:
			j.Reference = j.Reference.With(compared(s))
		}
	}
	return j, nil
}

// compared is what is compared of a snapshot, by the clock of its host.
func compared(s *history.Snapshot) suspect.Snapshot {
	return suspect.Snapshot{Number: s.Number, Time: s.Body.Started, Domain: s.Root.Domain, Sources: s.Body.Sources}
}

// expect is what the source at a position must be like.
func (c *capture) expect(source int) Expectation {
	if source < len(c.Expect) {
		return c.Expect[source]
	}
	return Expectation{Shrink: suspect.DefaultShrink}
}

// checkMounts finds sources that must be mount points and are none.
func (c *capture) checkMounts() error {
	for i := range c.Sources {
		if !c.expect(i).Mounted {
			continue
		}
		mounted, err := posix.IsMountPoint(c.Sources[i].Path)
		if err != nil {
			return err
		}
		if !mounted {
			c.unmounted = append(c.unmounted, i)
		}
	}
	return nil
}

// judge returns which of the sources, as they were captured, are suspect.
func (c *capture) judge(sources []manifest.Source, counts []statement.SourceCounts) (out []statement.Suspicion) {
	add := func(source int, s Suspicion) {
		s.Path = sources[source].Path
		c.suspicions = append(c.suspicions, s)
		out = append(out, statement.Suspicion{Source: source, Reason: s.Reason})
	}
	now := suspect.Snapshot{Domain: c.host.Domain.ID, Sources: counts}
	for _, s := range c.judgement.Reference.Shrunk(now, suspect.Rule{Shrink: func(i int) int { return c.expect(i).Shrink }}) {
		add(s.Source, Suspicion{Reason: statement.Shrank, Now: s.Now, Before: s.Before, Than: fmt.Sprintf("%s@%d", c.Environment, s.Number)})
	}
	for i := range sources {
		s := &sources[i]
		if c.expect(i).NotEmpty && (s.Files == 0 || len(s.Command) > 0 && s.Bytes == 0) {
			add(i, Suspicion{Reason: statement.Empty})
		}
	}
	for _, i := range c.unmounted {
		add(i, Suspicion{Reason: statement.NotMounted})
	}
	c.signs.Done(&c.losses)
	j := &c.judgement
	if j.Signs = j.Signs.After(&c.signs); j.Signs.Suspect() {
		add(sourceOf(sources, j.Signs.First), Suspicion{Reason: statement.LooksEncrypted, Signs: j.Signs.Describe(&c.signs)})
		c.Progress.warn(fmt.Sprintf("the first file that looks encrypted: %q", "/"+j.Signs.First))
	}
	slices.SortFunc(out, func(a, b statement.Suspicion) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}

// sourceOf is the position of the innermost source that a path lies in.
func sourceOf(sources []manifest.Source, path string) (at int) {
	deepest := -1
	for i := range sources {
		if p := manifest.EntryPath(sources[i].Path); manifest.Within(path, p) && len(p) > deepest {
			at, deepest = i, len(p)
		}
	}
	return at
}

// remember records the snapshot that was made. What cannot be written is
// found again in the store.
func (c *capture) remember(s *history.Snapshot, sources []manifest.Source) {
	j := &c.judgement
	if s.Number != j.Number+1 {
		return // another process made one in between, and the file is not of the newest
	}
	j.Number, j.Suspect, j.Paths = s.Number, len(s.Body.Suspect) > 0, nil
	for i := range sources {
		j.Paths = append(j.Paths, sources[i].Path)
	}
	if !j.Suspect {
		j.Reference = j.Reference.With(compared(s))
	}
	if err := j.writeUnsynced(referenceDir(c.repo, c.Environment)); err != nil {
		c.Progress.warn(fmt.Sprintf("%s is committed, but the next snapshot looks into the store for what to compare itself with: %v", s.Ref(), err))
	}
}

// ErrNotSuspect means that a snapshot that is to be accepted needs that not.
var ErrNotSuspect = errors.New("it is not suspect, or accepted already: there is nothing to accept")

// Accept accepts a suspect snapshot, which is kept, and with it those after it
// that shrank no further; it becomes what later ones are compared with. shrink
// is as in suspect.Rule. The numbers are those that are accepted now.
func Accept(ctx context.Context, repo *repository.Repository, s *history.Snapshot, shrink func(source int) int, reason string, now time.Time) ([]uint64, error) {
	accepted, err := repo.Acceptances(ctx, s.Host, s.Environment)
	if err != nil {
		return nil, err
	}
	// What the host claims of it binds nobody else: a machine that prunes for it may
	// find it suspect all the same, and goes by the owner's word.
	h, err := repo.Host(ctx)
	byHost := err == nil && h.Name == s.Host
	if byHost && !accepted.Suspect(s) || !byHost && accepted.Owner.Names(s.Number, s.ID) {
		return nil, fmt.Errorf("%s: %w", s.Ref(), ErrNotSuspect)
	}
	var later []*history.Snapshot
	for x, err := range repo.Kept(ctx, s.Host, s.Environment) {
		if err != nil && !authentic.Damaged(err) {
			return nil, err
		}
		if err == nil && x.Number <= s.Number {
			break
		}
		if err == nil && x.Body != nil {
			later = append(later, x)
		}
	}

	list, numbers := []statement.Accepted{{Number: s.Number, ID: s.ID}}, []uint64{s.Number}
	reference := suspect.Reference{compared(s)}
	for _, x := range slices.Backward(later) {
		shrunk := len(reference.Shrunk(compared(x), suspect.Rule{Shrink: shrink})) > 0
		byItself := slices.ContainsFunc(x.Body.Suspect, func(y statement.Suspicion) bool { return y.Reason != statement.Shrank })
		if accepted.Suspect(x) && (shrunk || byItself) {
			continue
		}
		if accepted.Suspect(x) {
			list, numbers = append(list, statement.Accepted{Number: x.Number, ID: x.ID}), append(numbers, x.Number)
		}
		reference = reference.With(compared(x))
	}
	if _, err := repo.Accept(ctx, s.Host, s.Environment, list, reason, now); err != nil {
		return nil, err
	}

	if byHost {
		return numbers, rejudge(ctx, repo, s.Host, s.Environment)
	}
	return numbers, nil
}

// rejudge writes the judgement again, which a daemon beside this process reads.
func rejudge(ctx context.Context, repo *repository.Repository, host, env string) error {
	accepted, err := repo.Acceptances(ctx, host, env)
	if err != nil {
		return err
	}
	j, err := judgeKept(ctx, repo, host, env, accepted)
	if err != nil {
		return err
	}
	dir := referenceDir(repo, env)
	j.Paths = readJudgement(dir).Paths
	return j.write(dir)
}
