#!/usr/bin/env bash
# Checks the workspace with the oldest supported compiler, `rust-version` in Cargo.toml, under whatever name it is installed. Where
# it is not, says that it was not tried, and does not fail.
set -euo pipefail
cd "$(dirname "$0")/.."
undone="THE OLDEST SUPPORTED COMPILER WAS NOT TRIED"
. scripts/skip.sh
wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)

# Whether `rustc $1 --version` is the wanted one.
is_wanted() { rustc ${1:+"$1"} --version 2>/dev/null | grep -qE "^rustc ${wanted//./\\.}(\.|$)"; }

toolchain=none
if is_wanted ''; then
  toolchain=
elif command -v rustup >/dev/null; then
  while read -r name _; do
    if is_wanted "+$name"; then toolchain=+$name; break; fi
  done < <(rustup toolchain list)
fi
if [ "$toolchain" = none ]; then
  skip "Rust $wanted is not installed, here is $(rustc --version)" "rustup toolchain install $wanted"
fi
echo "with $(rustc $toolchain --version)" >&2
cargo $toolchain check --release --locked --workspace --features full
