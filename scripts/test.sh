#!/usr/bin/env bash
# From a fresh clone to passed tests: installs what is missing, checks the format, lints, runs every test.
cd "$(dirname "$0")/.." || exit 2
. scripts/packages.sh
need
for tool in fmt clippy; do
  cargo "$tool" --version >/dev/null 2>&1 || {
    echo "error: \`cargo $tool\` is not installed" >&2
    echo "hint: rustup component add rustfmt clippy" >&2
    exit 2
  }
done
# A text that differs from its snapshot fails; nothing is written.
export INSTA_UPDATE=${INSTA_UPDATE:-no}
cargo fmt --all --check
cargo clippy --release --locked --workspace --all-targets --features full -- -D warnings
cargo test --release --locked --workspace --features full
