#!/usr/bin/env bash
# Measures whether the built-in model follows its prompts; docs/NANO.md says what the numbers mean.
#   scripts/evidence.sh [DIR] [MODEL]     DIR keeps corpus and clips (about 2 GB): a second run goes on where the first stopped
# The detectors are those built in; `musaic eval fit` trained them.
# The sound font comes from a distribution package: apt install fluid-soundfont-gm (or SOUND_FONT=PATH).
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${1:-target/evidence}
model=${2:-nano}
cargo build --release --locked --workspace --features full
bin=${CARGO_TARGET_DIR:-target}/release
mkdir -p "$dir/prompts"

font=(${SOUND_FONT:+--sound-font "$SOUND_FONT"})
"$bin/musaic-corpus" render --out "$dir" --split train --count 2000 "${font[@]}"
"$bin/musaic-corpus" render --out "$dir" --split test --count 400 "${font[@]}"
for attribute in drums mode family brightness density; do
  "$bin/musaic-corpus" prompts --split test --attribute "$attribute" --count 120 >"$dir/prompts/$attribute.jsonl"
done

# step NAME ARGS...: one command of the evaluation; its table goes to DIR/NAME.md as well.
step() {
  local name=$1
  shift
  echo "== musaic eval $*" >&2
  "$bin/musaic" eval "$@" --model "$model" | tee "$dir/$name.md"
}
step codec codec --corpus "$dir"
step detectors detectors --corpus "$dir"
step nano nano --corpus "$dir"
step nano-alone nano --corpus "$dir" --openings 1
step joins joins --takes 1
