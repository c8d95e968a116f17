#!/bin/sh
# Trains everything from a rendered corpus and exports the model folder:
#   train.sh --data CORPUS --out RUN [--minutes 110] [--python python3] [--limit PIECES]
# A run that was stopped continues where its checkpoints are.
set -eu
minutes=110 python=python3 limit=100000
while [ $# -gt 0 ]; do
    case $1 in
        --data) data=$2 ;;
        --out) out=$2 ;;
        --minutes) minutes=$2 ;;
        --python) python=$2 ;;
        --limit) limit=$2 ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done
here=$(dirname "$0")
share() { echo "$minutes" "$1" | awk '{ printf "%.2f", $1 * $2 }'; }
"$python" "$here/train_codec.py" --data "$data" --out "$out" --minutes "$(share 0.40)"
"$python" "$here/text.py" --data "$data" --out "$out" --minutes "$(share 0.05)"
"$python" "$here/encode.py" --data "$data" --out "$out" --limit "$limit"
"$python" "$here/train_lm.py" --data "$data" --out "$out" --minutes "$(share 0.55)"
"$python" "$here/export.py" --run "$out" --out "$out/export"
"$python" "$here/check.py" --model "$out/export" --data "$data" --out "$out/samples"
