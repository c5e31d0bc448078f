package main

import (
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// proxy adds a delay to every request, each on its own, and counts them.
// Bodies are streamed both ways.
type proxy struct {
	URL    string
	server *http.Server
	delay  time.Duration
	next   http.Handler

	mu  sync.Mutex
	now traffic
}

// traffic through a proxy.
type traffic struct {
	methods  map[string]int // requests
	requests int
	uploaded int64 // bytes of request bodies, as announced
}

const idleConnections = 128 // more than any contender opens

// startProxy listens on a free port before the server at target, a URL.
func startProxy(target string, delay time.Duration) (*proxy, error) {
	to, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{URL: "http://" + l.Addr().String(), delay: delay}
	p.next = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // which is signed
		},
		Transport:     &http.Transport{MaxIdleConnsPerHost: idleConnections, DisableCompression: true},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // clients report what failed
	}
	p.server = &http.Server{Handler: p}
	go func() { _ = p.server.Serve(l) }() // returns when it is closed
	return p, nil
}

// ServeHTTP implements http.Handler.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.count(r)
	select {
	case <-time.After(p.delay):
	case <-r.Context().Done():
		return
	}
	p.next.ServeHTTP(w, r)
}

func (p *proxy) count(r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now.methods == nil {
		p.now.methods = make(map[string]int)
	}
	p.now.methods[r.Method]++
	p.now.requests++
	p.now.uploaded += max(0, r.ContentLength)
}

// take returns the traffic since it was called last.
func (p *proxy) take() traffic {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.now
	t.methods = maps.Clone(t.methods)
	p.now = traffic{}
	return t
}

func (p *proxy) close() error { return p.server.Close() }
