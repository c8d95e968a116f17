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

# the measured evidence for the embedded model, written to docs/NANO.md's tables
evidence *ARGS:
    scripts/evidence.sh {{ARGS}}

# API documentation, warnings are errors
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps --features full

# features one by one
features:
    cargo check --release --locked --workspace
    cargo check --release --locked --workspace --features mp3
    cargo check --release --locked --workspace --features opus
    cargo check --release --locked --workspace --features hub

# the feature `cuda` type-checks; needs neither a GPU nor a CUDA toolkit, links and runs nothing
cuda-check:
    scripts/cuda-check.sh

# the fuzz targets compile (needs a nightly toolchain and cargo-fuzz)
fuzz-build:
    cd fuzz && cargo +nightly fuzz build

# known vulnerabilities in dependencies (needs cargo-audit)
audit:
    cargo audit

# the oldest supported compiler really builds it (set MSRV's toolchain with rustup first)
msrv:
    cargo +1.95.0 check --release --locked --workspace --features full

# everything: the checks above, slowest last
check-all: check features docs msrv audit fuzz-build
