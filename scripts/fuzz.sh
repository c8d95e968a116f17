#!/usr/bin/env bash
# Builds the fuzz targets, and runs each for a while: scripts/fuzz.sh [SECONDS] [TARGET...]; 0 seconds only builds.
# Neither a nightly compiler nor cargo-fuzz is needed: coverage is an LLVM pass that stable can run, and RUSTC_BOOTSTRAP=1 lets it
# add the address sanitizer. Where that or a C++ compiler is missing, says that nothing was built. What a target finds is left in
# fuzz/artifacts; inputs are kept in fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."
undone="NO FUZZ TARGET WAS BUILT"
. scripts/skip.sh
seconds=${1:-60}
shift || true
host=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-target}/fuzz
command -v "${CXX:-c++}" >/dev/null || skip "no C++ compiler (${CXX:-c++}), which libFuzzer is built with" "apt-get install g++"
compgen -G "$(rustc --print sysroot)/lib/rustlib/$host/lib/librustc*_rt.asan.a" >/dev/null ||
  skip "this compiler has no address sanitizer for $host" "a toolchain of rustup on Linux (glibc) has one"
packages fuzz

flags=(
  --cfg fuzzing -Zsanitizer=address -Ccodegen-units=1
  -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
)
# With a target named, the flags are not those of build scripts and macros.
RUSTC_BOOTSTRAP=1 RUSTFLAGS="${flags[*]}" \
  cargo build --locked --manifest-path fuzz/Cargo.toml --target "$host" --target-dir "$target"
[ "$seconds" -gt 0 ] || exit 0

[ $# -gt 0 ] || set -- $(basename -s .rs fuzz/fuzz_targets/*.rs)
for name; do
  echo "== $name, $seconds s" >&2
  mkdir -p "fuzz/corpus/$name" "fuzz/artifacts/$name"
  seeds=()
  case $name in
    gguf) seeds=(tests/fixtures/gguf) ;;
    safetensors) seeds=(tests/goldens/musicgen/encodec_48khz_style/model/causal) ;;
    pth) seeds=(tests/goldens/musicgen/tiny/model_legacy) ;;
  esac
  "$target/$host/debug/$name" -max_total_time="$seconds" -rss_limit_mb=2048 -malloc_limit_mb=1024 -timeout=20 \
    -artifact_prefix="fuzz/artifacts/$name/" "fuzz/corpus/$name" "${seeds[@]}"
done
