package restore_test

const unprivilegedTarget = "KNOWNGOOD_TEST_UNPRIVILEGED_TARGET"

func restoreUnprivileged() int { return 0 }
