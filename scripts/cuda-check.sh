#!/usr/bin/env bash
# Type-checks the feature `cuda` where there is neither a GPU nor a CUDA toolkit: a stand-in for nvcc writes empty kernels, so
# that every line of Rust is compiled as for CUDA 13, and nothing can be linked or run.
#   scripts/cuda-check.sh [more flags of `cargo check`]
# Where packages are missing and cannot be downloaded, says that nothing was checked. With a toolkit, `cargo build --release --features cuda` is the real thing.
set -euo pipefail
cd "$(dirname "$0")/.."
undone="THE FEATURE cuda WAS NOT CHECKED"
. scripts/skip.sh
packages .
# A target folder of its own: the empty kernels must never get into a real build.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/cuda-check
mkdir -p "$CARGO_TARGET_DIR"
toolkit=$(cd "$CARGO_TARGET_DIR" && pwd)/stand-in
mkdir -p "$toolkit/bin" "$toolkit/include" "$toolkit/lib64"
cat >"$toolkit/bin/nvcc" <<'NVCC'
#!/usr/bin/env bash
# Leaves an empty file where nvcc would leave its result.
out='' folder='' ptx=''
while [ $# -gt 0 ]; do
  case $1 in
    --version) echo 'Cuda compilation tools, release 13.0, V13.0.88' ;;
    --list-gpu-code) echo 'sm_90 sm_90a' ;;
    -o) out=$2; shift ;;
    --output-directory) folder=$2; shift ;;
    --ptx) ptx=yes ;;
    *.cu) source=$1 ;;
  esac
  shift
done
if [ -n "$ptx" ]; then out=$folder/$(basename "${source%.cu}").ptx; fi
[ -z "$out" ] || : >"$out"
NVCC
chmod +x "$toolkit/bin/nvcc"
export CUDA_HOME=$toolkit CUDA_PATH=$toolkit NVCC=$toolkit/bin/nvcc PATH="$toolkit/bin:$PATH"
export CUDA_COMPUTE_CAP=90 CUDARC_CUDA_VERSION=13000
cargo check --locked --workspace --all-targets --features full,cuda "$@"
