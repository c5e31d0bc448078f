# The few things that are done to the source.
.PHONY: build test race lint fuzz bench ci clean

build: ## the binary, static
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/knowngood ./cmd/knowngood

test: ## all tests, real S3 servers included
	go test ./...

race:
	CGO_ENABLED=1 go test -race ./storage/... ./snapshot/... ./restore/...

lint:
	gofmt -l $$(git ls-files '*.go')
	go vet ./...
	go tool -modfile=tools/go.mod staticcheck ./...

fuzz: ## each decoder for half a minute
	for p in $$(go list ./...); do for t in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
		go test -run '^$$' -fuzz "^$$t\$$" -fuzztime 30s $$p || exit 1; done; done

bench: ## beside restic and borg, on the same trees
	bench/run

ci:
	.ci/run

clean:
	rm -rf bin dist
