package web

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// guard refuses what browsers were made to send, and states what a browser may
// do with an answer: nothing but show it, with the style and the script that
// came from here.
func guard(next http.Handler) http.Handler {
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusForbidden, "the request comes from a page elsewhere")
	}))
	next = sameOrigin.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !loopbackName(r.Host) {
			fail(w, http.StatusMisdirectedRequest, "this daemon answers only to localhost, 127.0.0.1 and [::1]; a proxy in front has to set the Host header so")
			return
		}
		switch r.Method {
		case http.MethodGet, http.MethodHead:
		default:
			if !overUnix(r) {
				fail(w, http.StatusForbidden, "a request that acts is answered only over the Unix socket, because everybody on the machine can reach this address: set listen to unix:///run/knowngood/api.sock")
				return
			}
		}
		r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
		next.ServeHTTP(w, r)
	})
}

// loopbackName reports names that no name server gives: a page whose own name
// suddenly means this machine (DNS rebinding) is sent with that name.
func loopbackName(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	if strings.EqualFold(name, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil && ip.IsLoopback()
}

// overUnix reports whether a request came over a Unix socket; when that is not
// known it did not.
func overUnix(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}

// get lets GET and HEAD through.
func get(h http.HandlerFunc) http.Handler { return only(h, http.MethodGet, http.MethodHead) }

func only(h http.HandlerFunc, methods ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slices.Contains(methods, r.Method) {
			h(w, r)
			return
		}
		allowed := strings.Join(methods, ", ")
		w.Header().Set("Allow", allowed)
		fail(w, http.StatusMethodNotAllowed, r.Method+" is not answered here, only "+allowed)
	})
}
