#!/usr/bin/env bash
# Installs what the build needs and the machine lacks. Sourced by try.sh and test.sh; does nothing, and needs no network,
# where everything is there.
set -euo pipefail

# Whether bindgen finds libclang.
has_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] || ldconfig -p 2>/dev/null | grep -q libclang ||
    compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || compgen -G '/usr/lib/*/libclang*.so*' >/dev/null
}

need() {
  command -v cargo >/dev/null || {
    echo "error: no Rust toolchain (cargo) found" >&2
    echo "hint: install one with rustup, see https://rustup.rs, then run this again" >&2
    exit 2
  }
  local wanted have
  wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
  have=$(rustc --version | sed -E 's/^rustc ([0-9]+\.[0-9]+).*/\1/')
  if [ "$(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -n 1)" != "$wanted" ]; then
    echo "error: Rust $have found, $wanted or newer needed" >&2
    echo "hint: rustup update stable" >&2
    exit 2
  fi

  # The C compiler and make build LAME and Opus, cmake configures Opus and FAISS, which multiplies with OpenBLAS.
  local missing=()
  command -v cc >/dev/null && command -v make >/dev/null || missing+=(build-essential)
  command -v cmake >/dev/null || missing+=(cmake)
  command -v pkg-config >/dev/null || missing+=(pkg-config)
  pkg-config --exists openblas 2>/dev/null || missing+=(libopenblas-dev)
  # The feature `video` links FFmpeg, and reads its headers with libclang.
  pkg-config --exists libavformat libavcodec libavutil libswscale libswresample 2>/dev/null ||
    missing+=(libavformat-dev libavcodec-dev libavutil-dev libswscale-dev libswresample-dev)
  has_libclang || missing+=(libclang-dev)
  [ ${#missing[@]} -eq 0 ] && return 0
  if ! command -v apt-get >/dev/null; then
    echo "error: missing ${missing[*]}, and no apt-get to install them with" >&2
    echo "hint: install a C and C++ compiler, make, cmake, pkg-config, OpenBLAS, libclang and FFmpeg's development files with your system's package manager" >&2
    exit 2
  fi
  local root=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "error: missing ${missing[*]}, and only root can install them: you are $(id -un), and there is no sudo" >&2
      echo "hint: have root run \`apt-get install ${missing[*]}\`, then run this again" >&2
      exit 2
    fi
    root=(sudo)
  fi
  echo "installing ${missing[*]}" >&2
  "${root[@]}" apt-get update -qq &&
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || {
    echo "error: apt-get could not install ${missing[*]}" >&2
    echo "hint: its messages are above; install the packages by other means, then run this again" >&2
    exit 2
  }
}
