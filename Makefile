# `make` lists the targets; CI runs `make test`.
.DEFAULT_GOAL := help
.PHONY: help setup build demo lint doc test deployment deb test-deb sbom bank soak explore faults release-cases hidden-requests drivers drivers-all waits garbage dashboard test-next test-postgres fuzz fuzz-corpus
# The targets share one build folder and one package manager.
.NOTPARALLEL:

# Runs a command between a line that names it and one that says how long it took.
step = @printf '\n== %s\n' '$(1)'; from=$$(date +%s); $(2) || exit; \
	printf '== %s: %s s\n' '$(1)' $$(($$(date +%s) - from))

comma := ,

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

setup: ## Install what everything here needs; the targets below install what they need themselves
	$(call step,setup,scripts/setup.sh test)

setup-%:
	$(call step,setup for $*,scripts/setup.sh $*)

build: setup-build ## Build target/release/pgidle
	$(call step,build,cargo build --locked --release)

demo: setup-demo ## Show what pgidle does about a stuck transaction, on a throwaway PostgreSQL
	$(call step,build,cargo build --locked)
	@cargo run --locked --quiet -- demo

lint: setup-lint ## Check format and lints
	$(call step,format,cargo fmt --check)
	$(call step,lints,cargo clippy --locked --all-targets -- -D warnings)
	$(call step,lints of the core alone,cargo clippy --locked --no-default-features --lib -- -D warnings)

doc: setup-build ## Build the documentation of every item, private ones too
	$(call step,documentation,RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps --document-private-items)

test: setup lint doc ## Check everything: lints, dependencies, documentation, unit tests, tests on real servers
	$(call step,tests of setup,tests/setup.sh)
	$(call step,licences and sources of dependencies,.cache/deny/bin/cargo-deny --locked --log-level error check bans licenses sources)
	$(call step,workflows$(comma) image and manifests,.cache/deployment/bin/python tests/deployment)
	$(call step,unit tests,cargo test --locked --lib --bins)
	$(call step,documentation tests,cargo test --locked --doc)
	$(call step,corpora of the fuzzers,cargo test --locked --test fuzz)
	$(call step,house rules,cargo test --locked --test tidy)
	$(call step,tests on PostgreSQL 15 to 18,cargo test --locked --test it -- --test-threads 4)

deployment: setup-deployment ## Check the workflows, the Dockerfile and the Kubernetes manifests
	$(call step,workflows$(comma) image and manifests,.cache/deployment/bin/python tests/deployment)

deb: setup-deb ## Build the Debian package into .cache/package, with manual pages and shell completions
	$(call step,files of the package,cargo run --locked --quiet --example package_files -- .cache/package)
	$(call step,Debian package,.cache/deb/bin/cargo-deb --locked --output .cache/package/pgidle.deb)

SUITE ?= bookworm
test-deb: deb setup-deb-test ## Install, upgrade and remove the package in a bare Debian, of SUITE=bookworm; it needs root
	$(call step,package in a bare Debian,scripts/test-deb.sh $(SUITE) .cache/package/pgidle.deb)

sbom: setup-sbom ## Write what the program is made of into target/pgidle.cdx.json, as CycloneDX
	$(call step,bill of materials,scripts/sbom.sh)

SECONDS ?= 60
bank: setup ## Run the bank for SECONDS=60 in each mode, with SEED=number or a new one
	BANK_SECONDS=$(SECONDS) BANK_SEED=$${SEED:-$$(date +%s)} \
		cargo test --locked --test it six_dialects -- --nocapture --test-threads=1

TARGETS ?=
fuzz: setup-fuzz ## Run the fuzzers, each for SECONDS=60, or only TARGETS='name name'; it needs a nightly Rust
	@scripts/fuzz.sh $(SECONDS) $(TARGETS)

fuzz-corpus: setup-fuzz ## Take what the fuzzers have found into fuzz/corpus, as little as covers the same
	@scripts/fuzz.sh minimise $(TARGETS)

faults: setup-faults ## Run the tests of faults that need a network and mounts of their own, in namespaces
	$(call step,faults in namespaces,scripts/faults.sh)

MINUTES ?= 60
soak: setup ## Run the bank, stuck applications, migrations, reloads and faults at random for MINUTES=60, with SEED=number or a new one
	SOAK_MINUTES=$(MINUTES) SOAK_SEED=$${SEED:-$$(date +%s)} \
		cargo test --locked --release --test it a_soak -- --ignored --nocapture

DEPTH ?= 10
explore: setup-build ## Explore every interleaving around the session machine to DEPTH=number, which takes minutes
	EXPLORE_DEPTH=$(DEPTH) cargo test --locked --profile explore --lib explore -- --nocapture --test-threads=1

release-cases: setup ## Run transactions with and without release: SECONDS=60 or CASES=number, SEED=number, SUBJECT=name, DELAY=ms of the network; one of them: CASE=number
	RELEASE_SECONDS=$(SECONDS) RELEASE_CASES=$(CASES) RELEASE_CASE=$(CASE) RELEASE_SUBJECT='$(SUBJECT)' RELEASE_DELAY=$(DELAY) RELEASE_SEED=$${SEED:-$$(date +%s)} \
		cargo test --locked --test it release_changes_nothing -- --nocapture

hidden-requests: setup ## Send every hidden request and every COMMIT in every way, which takes half an hour
	HIDDEN_REQUESTS=all cargo test --locked --test it whatever_a_library_sent -- --nocapture

drivers: setup ## Write the table of docs/drivers.md anew
	WRITE_DRIVERS=1 cargo test --locked --test it the_table_of_drivers

drivers-all: setup ## Play what some forty libraries do before a late COMMIT, and write the second table of docs/drivers.md
	$(call step,libraries,scripts/setup-drivers.sh)
	cargo build --locked --example rust_drivers
	cargo test --locked --test it no_library_reports -- --ignored --nocapture
	cargo test --locked --test it drivers_of_java_and_go -- --ignored

garbage: setup ## Feed the console random bytes for SECONDS=60 while pgbench runs through the same listener
	GARBAGE_SECONDS=$(SECONDS) cargo test --locked --test it garbage_harms_nobody

dashboard: ## Write config/dashboard.json anew
	scripts/dashboard.py >config/dashboard.json

waits: setup ## Write the table of docs/waits.md anew
	WRITE_WAITS=1 cargo test --locked --test it the_table_of_waits

test-next: setup-next ## Run the integration tests on the PostgreSQL that comes next, from Debian experimental
	$(call step,tests on PostgreSQL 19,PGIDLE_TEST_NEXT=1 PATH="$(CURDIR)/.cache/next/bin:$$PATH" \
		cargo test --locked --test it -- --test-threads 4)

test-postgres: setup ## Run PostgreSQL's own suites directly and through pgidle, and compare
	$(call step,suites of PostgreSQL,scripts/test-postgres.sh)
