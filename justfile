# The one list of commands. `just` alone lists them.

_list:
    @just --list --unsorted

# format, lints and all tests: what decides whether a change lands
check:
    scripts/test.sh

# the parity cases of the project, and of $MUSAIC_GOLDENS or ../shared/goldens where they are
golden *ARGS:
    cargo run --release --locked --features full --bin musaic -- verify tests/goldens {{ARGS}}

# speed of each component at the published shapes
bench *ARGS:
    cargo run --release --locked --features full --bin musaic -- bench {{ARGS}}

# the measured evidence for the embedded model: the tables of docs/NANO.md
evidence *ARGS:
    scripts/evidence.sh {{ARGS}}

# API documentation, warnings are errors
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps --features full

# features one by one, with their tests; `cuda` against a stand-in for its toolkit
features: && cuda-check
    cargo check --release --locked --workspace --all-targets
    cargo check --release --locked --workspace --all-targets --features mp3
    cargo check --release --locked --workspace --all-targets --features opus
    cargo check --release --locked --workspace --all-targets --features video
    cargo check --release --locked --workspace --all-targets --features hub
    cargo check --release --locked --workspace --all-targets --features knn

# the feature `cuda` type-checks; needs neither a GPU nor a CUDA toolkit, links and runs nothing
cuda-check:
    scripts/cuda-check.sh

# the fuzz targets compile, as they are fuzzed; needs no nightly toolchain
fuzz-build:
    scripts/fuzz.sh 0

# each fuzz target (or those named) for some seconds
fuzz SECONDS="60" *TARGETS:
    scripts/fuzz.sh {{SECONDS}} {{TARGETS}}

# known vulnerabilities in dependencies (needs cargo-audit and, once a day, the network)
audit:
    scripts/audit.sh

# the oldest supported compiler really builds it
msrv:
    scripts/msrv.sh

# everything: the checks above, slowest last. What lacks a tool or the network says so, and the others go on
check-all: check docs features msrv audit fuzz-build
