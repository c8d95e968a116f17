#!/usr/bin/env bash
# Checks the workspace with the oldest supported compiler, `rust-version` in Cargo.toml, under whatever name it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
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
  echo "error: Rust $wanted, the oldest supported, is not installed; here is $(rustc --version)" >&2
  echo "hint: rustup toolchain install $wanted" >&2
  exit 1
fi
echo "with $(rustc $toolchain --version)" >&2
cargo $toolchain check --release --locked --workspace --features full
