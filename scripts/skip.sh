# What checks do where something they need is missing: say so, and let the others go on. Sourced by them; `undone` is what did
# not happen.

skip() {
  echo "skipped: $1; $undone" >&2
  echo "hint: $2" >&2
  exit 0
}

# The packages of a workspace (the folder of its Cargo.toml) are there, or can be downloaded.
packages() {
  local host said
  host=$(rustc -vV | sed -n 's/^host: //p')
  said=$(cargo fetch --quiet --locked --target "$host" --manifest-path "$1/Cargo.toml" 2>&1) && return
  echo "$said" >&2
  # A lock file that is out of date is a fault of the code.
  case $said in *--locked*) exit 1 ;; esac
  skip "packages of $1/Cargo.lock are missing and cannot be downloaded" "run this with the network once"
}
