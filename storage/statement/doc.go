// Package statement is the codec of the signed statements of a repository
// (docs/FORMAT.md sections 3, 4 and 9): descriptor, epoch, host certificate,
// join request, index run, root, tombstone, pending deletion, acceptance and
// damage report. It also has the rule by which a root counts under a certificate
// (CheckRootCertificate).
//
// It is pure: no I/O, no clock. Reading has two steps. Parse checks the form
// and trusts nothing; Verify then checks repository and signature against a
// key the caller trusts. What Parse accepts, Encode writes again byte for
// byte, fields of newer versions included; what Parse would refuse, Encode
// does not write.
package statement
