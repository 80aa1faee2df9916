# DFS: one command for each thing that one does with the tree.
#
#   make install-deps     what a fresh Debian or Ubuntu machine lacks
#   make dev-start        build and start one dfsd on ./data, port 7400
#   make test             build the binaries, run every test
#   make simulate         every seed that ever failed and some hundred others, on simulated disks; about 3 minutes
#   make prove-simulator  switch on known bugs, one after the other: the simulator finds each
#   make verify           formatting, lints, docs, layers; never writes to the tree
#   make fix              formatting and mechanical lint fixes
#   make bench            measurements into docs/bench/; CORPUS=DIR and FILL_CHUNKS=N add theirs
#   make memory           most memory of a server with 8 uploads, small and large
#   make fuzz             a second of fresh hostile bytes for each decoder; SEED=N draws the same again
#   make fuzz-long        the same, guided by coverage, for MINUTES=N in all; TARGETS="a b" for some
#   make asan             the storage ring's tests under AddressSanitizer

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
# Set to --locked in CI, so that what is tested is what is committed.
CARGO_FLAGS ?=
DATA ?= data
LISTEN ?= 127.0.0.1:7400
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
SEED ?= $(shell date +%s)
MINUTES ?= 60

.PHONY: help install-deps dev-start binaries test simulate prove-simulator verify fix bench memory fuzz fuzz-long asan

help:
	@sed -n '3,14p' Makefile | sed 's/^# *//'

install-deps:
	./tools/install-deps.sh

dev-start:
	$(CARGO) build $(CARGO_FLAGS) --release -p server -p tools
	@echo "dfs and dfsd are in $(TARGET_DIR)/release; the server stops with Ctrl-C"
	exec $(TARGET_DIR)/release/dfsd serve --data $(DATA) --listen $(LISTEN)

binaries:
	$(CARGO) build $(CARGO_FLAGS) -p server -p tools -p bench --bins

# Process tests start real servers; they take the binaries from DFS_BIN_DIR and fail without them.
test: binaries
	DFS_BIN_DIR="$(abspath $(TARGET_DIR))/debug" $(CARGO) nextest run $(CARGO_FLAGS) --workspace --no-fail-fast
	$(CARGO) nextest run $(CARGO_FLAGS) -p chunk --no-default-features --features portable
	$(CARGO) test $(CARGO_FLAGS) --workspace --doc

# Seeds that failed once, a fixed set in which every kind of fault must happen, some in two processes each with the
# same trace, and some that nobody has run before: two to three minutes on two cores.
simulate:
	$(CARGO) build $(CARGO_FLAGS) --release -p chaos --bin swarm
	$(TARGET_DIR)/release/swarm --seeds-file chaos/seeds/failed.txt
	$(TARGET_DIR)/release/swarm --seeds 2000 --require-all-faults
	$(TARGET_DIR)/release/swarm --first-seed 1000000 --seeds 200 --twice
	$(TARGET_DIR)/release/swarm --fresh --seeds 500

# The simulator is tested too: each bug of proto/src/planted.rs must be found within its bound of seeds.
prove-simulator:
	$(CARGO) run $(CARGO_FLAGS) --release -p chaos --features planted-bugs --bin swarm -- --prove-bugs

verify:
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings
	$(CARGO) clippy $(CARGO_FLAGS) -p chaos --features planted-bugs --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(CARGO_FLAGS) --workspace --no-deps --document-private-items
	$(CARGO) nextest run $(CARGO_FLAGS) -p tools --test layers --test ports

fix:
	$(CARGO) clippy $(CARGO_FLAGS) --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

bench:
	$(CARGO) build $(CARGO_FLAGS) --release -p bench -p server --bins
	./tools/bench.sh $(TARGET_DIR)/release/dfs-bench

memory:
	$(CARGO) build $(CARGO_FLAGS) --release -p server
	./tools/memory.sh $(TARGET_DIR)/release/dfsd

# A target that hangs or aborts is named by the file that it leaves.
fuzz:
	$(CARGO) build $(CARGO_FLAGS) -p fuzz
	mkdir -p $(TARGET_DIR)/fuzz && rm -f $(TARGET_DIR)/fuzz/*.under-way
	RUST_BACKTRACE=0 timeout 300 $(TARGET_DIR)/debug/fuzz --seconds 1 --seed $(SEED) --failures $(TARGET_DIR)/fuzz \
	    || { grep -H . $(TARGET_DIR)/fuzz/*.under-way; exit 1; }

fuzz-long:
	./tools/fuzz-long.sh $(MINUTES) $(TARGETS)

# Sanitizers of a stable compiler are behind a switch. A target directory of its own, because the flags are part of every
# crate; a target of its own, because build scripts do without. What monoio's driver leaks at its end is not ours to mend.
ASAN_TARGET ?= x86_64-unknown-linux-gnu
asan:
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0 CARGO_INCREMENTAL=0 \
	    $(CARGO) nextest run $(CARGO_FLAGS) --target $(ASAN_TARGET) --target-dir $(TARGET_DIR)/asan -p nvme -p ec
