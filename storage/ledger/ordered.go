package ledger

import (
	"context"
	"iter"
	"sync"
)

// Ordered calls fetch for what in yields, up to n calls at once, and yields the
// results in the order of in, errors of in included. When the iteration ends, all
// calls have ended.
func Ordered[In, Out any](ctx context.Context, n int, in func(context.Context) iter.Seq2[In, error], fetch func(context.Context, In) (Out, error)) iter.Seq2[Out, error] {
	type result struct {
		out Out
		err error
	}
	return func(yield func(Out, error) bool) {
		var workers sync.WaitGroup
		defer workers.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		queue := make(chan chan result, n-1) // one more is with the consumer
		workers.Go(func() {
			defer close(queue)
			for item, err := range in(ctx) {
				slot := make(chan result, 1)
				select {
				case queue <- slot:
				case <-ctx.Done():
					return
				}
				if err != nil {
					slot <- result{err: err}
					continue
				}
				workers.Go(func() {
					out, err := fetch(ctx, item)
					slot <- result{out, err}
				})
			}
		})
		for slot := range queue {
			if res := <-slot; !yield(res.out, res.err) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			var zero Out
			yield(zero, err)
		}
	}
}
