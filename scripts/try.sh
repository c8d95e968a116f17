#!/usr/bin/env bash
# From a fresh clone to music: installs what is missing, builds, generates a piece from the prompt, says where it is.
# usage: scripts/try.sh ["a prompt"] [more flags of `musaic generate`]
cd "$(dirname "$0")/.." || exit 2
. scripts/packages.sh
need
[ $# -gt 0 ] || set -- "upbeat electronic dance track with drums"
cargo build --release --locked --features full --bin musaic
exec "${CARGO_TARGET_DIR:-target}/release/musaic" generate "$@"
