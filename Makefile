# The two commands to know: `make run` and `make test`. `make help` lists the rest.

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
SHARE ?= $(PREFIX)/share
ARCH := $(shell uname -m)

MICRORUN := dist/microrun
MEASURE := dist/microrun-bench
SHIM := dist/containerd-shim-microrun-v1
ACTION := dist/hello
STARTS := 100000

.DEFAULT_GOAL := build
.PHONY: help build run test soak test-engines test-vm run-aarch64 test-aarch64 bench bench-cold bench-ctr check-bench figure bundle man install clean need need-aarch64 shim $(MEASURE) $(SHIM)
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: need ## the static release binary, dist/microrun
	scripts/build $(MICRORUN)

run: build bundle ## start the "Hello" container in bundle/
	$(MICRORUN) run bundle/

test: build bundle dist/ukvm ## every test that this machine can run
	scripts/need test
	MICRORUN=$(CURDIR)/$(MICRORUN) scripts/test

soak: build ## 100,000 starts through a pool, and what is left of them (docs/pools-measurements.md; STARTS=100000)
	scripts/need test
	MICRORUN=$(CURDIR)/$(MICRORUN) MICRORUN_SOAK=$(STARTS) cargo test --locked --test pool_soak -- --nocapture

shim: $(SHIM) ## the static release binary of containerd's shim (docs/shim.md)

$(SHIM): need
	scripts/build $@ containerd-shim-microrun-v1

test-engines: build bundle $(SHIM) ## containerd, Podman, Docker and others with microrun as their runtime (docs/drop-in.md; CASES='...', RUNTIME=runc)
	MICRORUN=$(CURDIR)/$(MICRORUN) MICRORUN_SHIM=$(CURDIR)/$(SHIM) scripts/test-engines $(CASES)

test-vm: build bundle dist/ukvm ## the same tests in VMs of unified cgroup v2, with and without systemd
	scripts/need test vm
	MICRORUN=$(CURDIR)/$(MICRORUN) tests/vm/suite

run-aarch64: dist/aarch64/microrun dist/aarch64/hello ## the "Hello" container on AArch64, in a VM
	VM_ARCH=aarch64 tests/vm/run light -a $(CURDIR)/dist/aarch64 -- sh -ec 'cd $(CURDIR)/dist/aarch64; \
		mkdir -p $(addprefix /run/bundle/rootfs/,dev proc sys tmp); cp hello /run/bundle/rootfs/; \
		./microrun spec --bundle /run/bundle --action /hello; ./microrun run /run/bundle/'

test-aarch64: dist/aarch64/microrun ## every test that the VM of AArch64 can run
	MICRORUN=$(CURDIR)/$< scripts/cross aarch64 tests/vm/suite light

bench: build $(MEASURE) dist/ukvm ## starts against bare processes and other runtimes (docs/benchmark.md; BENCH='--quick', '--help' for options)
	-scripts/need bench
	$(MICRORUN) bench $(BENCH)

$(MEASURE): need
	scripts/build $@ microrun-bench

check-bench: build $(MEASURE) dist/ukvm $(ACTION) ## the bars of the benchmark itself, on an idle machine (docs/benchmark.md)
	scripts/check-bench $(BENCH)

figure: build $(MEASURE) dist/ukvm ## docs/figure.svg of this machine, which should be idle; ten minutes (BENCH='--runtime crun=PROGRAM')
	-scripts/need bench
	$(MICRORUN) bench --parts latency,throughput --gap 0 --report target/figure $(BENCH)
	cp target/figure/figure.svg docs/figure.svg

bench-cold: build $(ACTION) dist/floor dist/pause dist/peak ## cold starts against other runtimes (docs/benchmark.md; BENCH='--help' for options)
	-scripts/need bench
	MICRORUN=$(CURDIR)/$(MICRORUN) cargo bench --locked --bench cold -- $(BENCH)

bench-ctr: build $(SHIM) $(ACTION) dist/pause ## containerd's client on both shims (docs/shim.md; ROUNDS=30)
	benches/ctr/run $(ROUNDS)

bundle: build $(ACTION) ## bundle/: a root filesystem with the action, and its config.json
	mkdir -p $(addprefix bundle/rootfs/,dev proc sys tmp)
	install -m 755 $(ACTION) bundle/rootfs/hello
	rm -f bundle/config.json
	$(MICRORUN) spec --bundle bundle --action /hello

$(ACTION): rootfs/hello-$(ARCH).S
	@mkdir -p dist
	as -o $@.o $<
	ld -n -s -z noseparate-code --build-id=none -o $@ $@.o
	@rm $@.o

dist/aarch64/microrun: need-aarch64
	scripts/cross aarch64 scripts/build $@

dist/aarch64/hello: rootfs/hello-aarch64.S | need-aarch64
	@mkdir -p dist/aarch64
	aarch64-linux-gnu-as -o $@.o $<
	aarch64-linux-gnu-ld -n -s -z noseparate-code --build-id=none -o $@ $@.o
	@rm $@.o

dist/floor dist/pause dist/peak: dist/%: benches/%.c
	@mkdir -p dist
	cc -O2 -static -nostdlib -ffreestanding -fno-stack-protector -o $@ $<

dist/ukvm: $(wildcard benches/ukvm/*.rs) Cargo.lock | need
	scripts/build $@ ukvm

man: need ## manual pages and shell completions, in dist, and docs/cli.md
	cargo run --quiet --locked --example manual -- dist
	cp dist/cli.md docs/cli.md

install: build man $(MEASURE) $(SHIM) ## install into PREFIX (/usr/local), below DESTDIR if given
	install -D -m 755 $(MICRORUN) $(DESTDIR)$(BINDIR)/microrun
	install -D -m 755 $(MEASURE) $(DESTDIR)$(BINDIR)/microrun-bench
	install -D -m 755 $(SHIM) $(DESTDIR)$(BINDIR)/containerd-shim-microrun-v1
	install -D -m 644 -t $(DESTDIR)$(SHARE)/man/man8 dist/man/*.8
	install -D -m 644 dist/completions/microrun.bash $(DESTDIR)$(SHARE)/bash-completion/completions/microrun
	install -D -m 644 dist/completions/microrun.fish $(DESTDIR)$(SHARE)/fish/vendor_completions.d/microrun.fish
	install -D -m 644 dist/completions/_microrun $(DESTDIR)$(SHARE)/zsh/site-functions/_microrun

clean: ## remove what the targets made
	cargo clean
	rm -rf dist bundle

need:
	@scripts/need build

need-aarch64: need
	@scripts/need aarch64
