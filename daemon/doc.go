// Package daemon takes the scheduled snapshots of a host, and reports loudly when
// it cannot.
//
//	clock ──due──▶ executor ──▶ runner: lock, hooks, capture (retried), retention ──▶ state, past runs, messages
//	  ▲                                                                                         │
//	  └──────────────── wall clock, at least once a minute ◀───────── RPO, watchdog ◀───────────┘
//
// It promises that one process captures an environment at a time; that no
// scheduled time is left out without a record of why, whatever happens to the
// process, the clock or the store; that a run is called good only when what it
// made was read back from the store; and that no hook, server or channel of
// messages delays another environment.
//
//	Daemon     the loop, the status, the API, reloading
//	jobs       the configured jobs, and what is remembered of each
//	executor   runs of jobs: capture (package runner), prune, check (package checking)
//	holder     the open repository
//	messenger  messages to people (package notify), kept over restarts
//
// What it must know after a crash is in small files that neither kill -9 nor a
// full disk damages, and in the lock file of each environment, which records a run
// that died (package jobfiles). The scheduled time of a run that died or was stopped
// is made up for.
//
// It holds no key that opens what was captured, unless an identity is configured.
package daemon
