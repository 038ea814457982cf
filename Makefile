# make run     builds the package and runs `vioblk demo`
# make test    every test: Rust, the loom models, Python, the installed packages
# make lint    formatting, warnings, types, and the stub of the extension
# make clauses which clauses of VIRTIO 1.4 the last `make test` proved
# make profile how many instructions a request takes, and where they are spent
# make bench   the benchmarks, in less than 15 minutes; make soak: the long tests
# make fuzz    every fuzz target for FUZZ_SECONDS (1800) under AddressSanitizer: see rust/fuzz
# make wheel   sdist and manylinux wheel in dist/
# make develop a virtual environment to work in: .venv
# make clean   removes all that was built
# make help    prints these lines

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON_MINIMUM := 3.11
RUST_MINIMUM := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
# The newest python3.x is not always called python3. Looked for once, when it is needed.
PYTHON ?= $(eval PYTHON := $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name)))))$(PYTHON)

export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PYO3_PYTHON := $(CURDIR)/.venv/bin/python
export VIRTUAL_ENV := $(CURDIR)/.venv

BIN := .venv/bin
STAMPS := build/stamps
CLAUSES := $(CURDIR)/build/clauses
RUST_SOURCES := Cargo.toml Cargo.lock \
	$(shell find rust -path rust/fuzz -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print)

# What the tests run that pip and cargo do not bring, each with the Debian packages that have it.
# The storage daemon has moved from qemu-system-common to qemu-utils.
TEST_TOOLS := qemu-system-x86_64 qemu-storage-daemon qemu-img qemu-io mke2fs debugfs git valgrind
PACKAGES_OF_qemu-system-x86_64 := qemu-system-x86 qemu-system-common
PACKAGES_OF_qemu-storage-daemon := qemu-utils qemu-system-common
PACKAGES_OF_qemu-img := qemu-utils
PACKAGES_OF_qemu-io := qemu-utils
PACKAGES_OF_mke2fs := e2fsprogs
PACKAGES_OF_debugfs := e2fsprogs
PACKAGES_OF_git := git
PACKAGES_OF_valgrind := valgrind
# Other clients that are measured. Without one of them its ratios are missing, and say so.
BENCH_TOOLS := fio python3-libnbd
PACKAGES_OF_fio := fio
PACKAGES_OF_python3-libnbd := python3-libnbd

.PHONY: run
run: $(STAMPS)/extension
	@$(BIN)/vioblk demo

.PHONY: help
help:
	@sed '/^$$/q; s/^# //' Makefile

.PHONY: develop
develop: $(STAMPS)/dev $(STAMPS)/extension

# In this order. Not by calling make again: a dry run would carry such a recipe out.
.NOTPARALLEL:
.PHONY: test
test: test-tools $(STAMPS)/dev record-start test-rust test-loom test-python record-finish
	@echo "make test: all tests passed"

.PHONY: record-start record-finish
record-start record-finish: record-%: $(STAMPS)/dev
	@$(BIN)/python -m tests.clauses $*

.PHONY: test-rust
test-rust: toolchain
	@export VIOBLK_CLAUSE_RECORD=$(CLAUSES)/rust.jsonl
	mkdir -p $(CLAUSES)
	echo "== Rust tests, with checks for overflow"
	cargo test --locked --quiet
	echo "== Rust stress tests, as released"
	cargo test --locked --quiet --release --package vioblk-tests --test stress

.PHONY: test-loom
test-loom: toolchain
	@export VIOBLK_CLAUSE_RECORD=$(CLAUSES)/loom.jsonl
	mkdir -p $(CLAUSES)
	echo "== loom models"
	RUSTFLAGS="--cfg loom" cargo test --locked --quiet --release --target-dir target/loom \
		--package vioblk-tests --test 'loom*'

.PHONY: test-python
test-python: $(STAMPS)/dev $(STAMPS)/extension
	@export VIOBLK_CLAUSE_RECORD=$(CLAUSES)/pytest.jsonl
	mkdir -p $(CLAUSES)
	echo "== Python tests"
	$(BIN)/python -m pytest --quiet

.PHONY: lint
lint: $(STAMPS)/dev $(STAMPS)/extension lint-tools
	@echo "== rustfmt, clippy"
	cargo fmt --all --check
	cargo fmt --manifest-path rust/fuzz/Cargo.toml --check
	cargo tree --locked --manifest-path rust/fuzz/Cargo.toml >/dev/null
	cargo clippy --locked --quiet --workspace --all-targets -- --deny warnings
	RUSTFLAGS="--cfg loom" cargo clippy --locked --quiet --target-dir target/loom \
		--package vioblk-tests --test 'loom*' -- --deny warnings
	echo "== ruff, mypy, stubtest"
	$(BIN)/ruff check --quiet --output-format concise
	$(BIN)/ruff format --check --quiet || { $(BIN)/ruff format --diff; exit 1; }
	$(BIN)/mypy
	MYPYPATH=python $(BIN)/stubtest vioblk._native --mypy-config-file pyproject.toml \
		--allowlist tests/packaging/stubtest_allowlist.txt --ignore-unused-allowlist
	echo "make lint: clean"

# Without a record there is nothing to install anything for.
.PHONY: clauses-record
clauses-record:
	@[ -f $(CLAUSES)/run.json ] || { echo "clauses: there is no record yet; run make test first" >&2; exit 1; }

.PHONY: clauses
clauses: clauses-record $(STAMPS)/dev
	@$(BIN)/python -m tests.clauses report

# What cargo builds is built before anything is measured.
.PHONY: bench
bench: test-tools bench-tools $(STAMPS)/dev $(STAMPS)/extension
	@$(BIN)/python -m benches.refuse_debug
	echo "== building the benchmarks in Rust: some minutes the first time"
	cargo build --locked --quiet --release --package vioblk-benches --bins
	cargo bench --locked --quiet --package vioblk-benches --no-run
	$(BIN)/python -m benches

.PHONY: profile
profile: test-tools $(STAMPS)/dev $(STAMPS)/extension
	@$(BIN)/python -m tests.instructions

.PHONY: soak
soak: toolchain
	@VIOBLK_SOAK_REQUESTS=100000000 \
		cargo test --locked --release --package vioblk-tests --test stress -- --nocapture

FUZZ_SECONDS ?= 1800
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard rust/fuzz/fuzz_targets/*.rs)))

.PHONY: fuzz
fuzz: fuzz-tools
	@PATH="$(CURDIR)/build/cargo-fuzz/bin:$$PATH" FUZZ_SECONDS=$(FUZZ_SECONDS) \
		rust/fuzz/run.sh $(FUZZ_TARGETS)

DIST ?= dist

.PHONY: wheel
wheel: $(STAMPS)/dev
	@rm -f $(DIST)/vioblk-*
	CARGO_TERM_QUIET=true $(BIN)/maturin sdist --out $(DIST)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/maturin build --quiet --locked --release \
		--strip --zig --compatibility manylinux_2_28 --out $(DIST)
	$(BIN)/python -m tests.packaging.check_wheel $(DIST)/vioblk-*.whl
	ls $(DIST)

.PHONY: clean
clean:
	rm -rf .venv build dist target benches/out python/vioblk/*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

# --- what the goals above stand on -----------------------------------------------------------

# The environment, and what a build needs. `make run` needs no more than this.
$(STAMPS)/build: pyproject.toml | toolchain
	@mkdir -p $(STAMPS)
	[ -n "$(PYTHON)" ] || { echo "vioblk needs Python $(PYTHON_MINIMUM) or later; found \
	$$(python3 --version 2>/dev/null || echo none). Name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make a virtual \
	environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	echo "== making .venv with $$($(PYTHON) --version), and bringing what a build needs"
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group build
	touch $@

$(STAMPS)/dev: pyproject.toml $(STAMPS)/build
	@echo "== installing what tests and lint need"
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

# Installed in place: Python sources need no further step. By pip, as `maturin develop` would bring
# the whole group `dev` along, which `make run` does not need.
$(STAMPS)/extension: pyproject.toml $(STAMPS)/build $(RUST_SOURCES)
	@echo "== building the extension (release): some minutes the first time on a small machine"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation \
		--config-settings build-args=--locked --editable '.[cli]'
	touch $@

.PHONY: toolchain
toolchain:
	@command -v cargo >/dev/null || { echo "vioblk needs Rust $(RUST_MINIMUM) or later, and there \
	is no cargo; see https://rustup.rs" >&2; exit 1; }
	found=$$(cargo --version | cut -d' ' -f2)
	[ "$$(printf '%s\n' $(RUST_MINIMUM) "$$found" | sort -V | head -n1)" = $(RUST_MINIMUM) ] || {
		echo "vioblk needs Rust $(RUST_MINIMUM) or later; found $$found; try: rustup update" >&2
		exit 1; }
	command -v cc >/dev/null || { echo "Rust needs a C linker (cc); on Debian: \
	apt-get install gcc libc6-dev" >&2; exit 1; }

.PHONY: lint-tools
lint-tools:
	@for component in rustfmt clippy; do
		cargo $${component/rustfmt/fmt} --version >/dev/null 2>&1 || rustup component add $$component
	done

# The toolchain stays the stable one, which RUSTC_BOOTSTRAP=1 lets use its sanitizer.
CARGO_FUZZ_VERSION := 0.13.2
.PHONY: fuzz-tools
fuzz-tools: toolchain
	@command -v c++ >/dev/null || { echo "libFuzzer needs a C++ compiler (c++); on Debian: \
	apt-get install g++" >&2; exit 1; }
	PATH="$(CURDIR)/build/cargo-fuzz/bin:$$PATH"
	[ "$$(cargo fuzz --version 2>/dev/null)" = "cargo-fuzz $(CARGO_FUZZ_VERSION)" ] || {
		echo "== installing cargo-fuzz $(CARGO_FUZZ_VERSION) in build/cargo-fuzz"
		cargo install --quiet --locked --version $(CARGO_FUZZ_VERSION) \
			--root build/cargo-fuzz cargo-fuzz
	}

# Twice, if need be: Debian's QEMU packages of two versions exclude each other, so that what is
# installed first can take others away.
.PHONY: test-tools bench-tools
test-tools: TOOLS := $(TEST_TOOLS)
bench-tools: TOOLS := $(BENCH_TOOLS)
test-tools bench-tools:
	@have() { case $$1 in
		python3-libnbd) /usr/bin/python3 -c 'import nbd' 2>/dev/null ;;
		*) command -v $$1 >/dev/null ;;
	esac; }
	do_without() { [ $@ = bench-tools ]; }
	need() { have $$1 || { missing+=($$1); packages+=($${@:2}); }; }
	look() { missing=() packages=(); $(foreach tool,$(TOOLS),need $(tool) $(PACKAGES_OF_$(tool));) }
	look
	[ $${#missing[@]} -gt 0 ] || exit 0
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		packages=($$(printf '%s\n' $${packages[@]} | sort -u))
		echo "$@ found no $${missing[*]}; on Debian: sudo apt-get install $${packages[*]}" >&2
		do_without && exit 0 || exit 1
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update --quiet=2 || do_without
	for attempt in first second; do
		packages=($$(printf '%s\n' $${packages[@]} | sort -u))
		echo "== installing $${packages[*]}"
		apt-get install --yes --quiet=2 --no-install-recommends $${packages[@]} >/dev/null || do_without
		look
		[ $${#missing[@]} -gt 0 ] || exit 0
	done
	echo "$${packages[*]} brought no $${missing[*]}" >&2
	do_without
