//go:build !amd64 && !arm64

package isolate

const auditArch = 0 // there is no filter: no cell

var forbiddenHere, staticForbiddenHere []call
