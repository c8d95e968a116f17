#!/usr/bin/env bash
# Looks the dependencies up in the RustSec advisory database. Where neither the database nor a copy of it can be reached, says that
# nothing was checked, and does not fail: that is no fault of the code.
set -euo pipefail
cd "$(dirname "$0")/.."
undone="NOTHING WAS AUDITED"
. scripts/skip.sh
command -v cargo-audit >/dev/null || skip "cargo-audit is not installed" "cargo install --locked cargo-audit"

url=https://github.com/RustSec/advisory-db
copy=${CARGO_HOME:-$HOME/.cargo}/advisory-db
if timeout 20 git ls-remote --exit-code "$url" HEAD >/dev/null 2>&1; then
  cargo audit
elif [ -d "$copy" ]; then
  echo "warning: $url cannot be reached, the copy of $(git -C "$copy" log -1 --format=%cs 2>/dev/null || echo unknown) is used" >&2
  cargo audit --no-fetch --stale
else
  skip "$url cannot be reached and there is no copy in $copy" "run this with the network once"
fi
