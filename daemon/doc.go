// Package daemon takes the scheduled snapshots of a host, and says loudly when
// it cannot.
//
//	clock ──due──▶ job ──▶ Runner: lock, before, capture (retried), after ──▶ retention ──▶ state, history, notification
//	  ▲                                                                                          │
//	  └──────────────── wall clock, at least once a minute ◀───────────────── RPO, watchdog ◀────┘
//
// It promises that one process captures an environment at a time; that no
// scheduled time is left out without a record of why, whatever happened to the
// process, the clock or the store; that a run is called good only when what it
// made was read back from the store; and that nothing which a hook, a server
// or a channel of notification does holds up another environment.
//
// What it must know after a crash lies in small files that neither kill -9 nor
// a full disk spoils (slots.go), and in the lock file of each environment, which
// tells of a run that died (record.go). The scheduled time of a run that died or
// was stopped is made up for.
//
// It holds no key that opens what was captured, unless repacking is configured.
package daemon
