# The few things that are done to the source. What CI checks is in .ci/run,
# whose steps can be run alone.
.PHONY: build test torture race lint fuzz bench package ci clean

build: ## the binary, static, in bin/
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/knowngood ./cmd/knowngood

test: ## all tests, real S3 servers included
	go test ./...

torture: ## random operations on a repository against a model, for TIME, with SEED (0: another one each time)
	go test -v -timeout 0 -run '^TestTorture$$' ./cmd/knowngood -torture.time $(or $(TIME),10m) -torture.seed $(or $(SEED),0)

race: ## the packages that do things at once, under the race detector
	.ci/run race

lint: ## gofmt, vet, staticcheck
	.ci/run format lint

fuzz: ## each decoder for half a minute
	FUZZ_SECONDS=30 FUZZ_BUDGET=3600 .ci/run fuzz

bench: ## beside restic and borg, on the same trees
	bench/run

package: ## .deb and .rpm, in dist/
	systemd/package/build

ci: ## all that must pass
	.ci/run

clean:
	rm -rf bin dist
