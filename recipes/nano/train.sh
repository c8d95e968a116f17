#!/bin/sh
# Trains everything from a rendered corpus and exports the model folder:
#   train.sh --data CORPUS --out RUN [--minutes 110] [--init MODEL] [--python python3] [--limit PIECES]
# With --init the codec of MODEL (an exported folder in f32) is kept and its language model trained further.
# A run that was stopped continues where its checkpoints are.
set -eu
minutes=110 python=python3 limit=100000 init=
while [ $# -gt 0 ]; do
    case $1 in
        --data) data=$2 ;;
        --out) out=$2 ;;
        --minutes) minutes=$2 ;;
        --init) init=$2 ;;
        --python) python=$2 ;;
        --limit) limit=$2 ;;
        *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done
here=$(dirname "$0")
share() { echo "$minutes" "$1" | awk '{ printf "%.2f", $1 * $2 }'; }
lm=0.17
if [ -n "$init" ]; then
    lm=0.3
else
    "$python" "$here/train_codec.py" --data "$data" --out "$out" --minutes "$(share 0.40)"
fi
"$python" "$here/text.py" --data "$data" --out "$out" --minutes "$(share 0.10)"
"$python" "$here/encode.py" --data "$data" --out "$out" --limit "$limit" ${init:+--init "$init"}
for stage in music rhythm both; do
    "$python" "$here/train_lm.py" --data "$data" --out "$out" --stage $stage --minutes "$(share "$lm")" \
        ${init:+--init "$init"}
done
"$python" "$here/export.py" --run "$out" --out "$out/export" ${init:+--init "$init"}
"$python" "$here/check.py" --model "$out/export" --data "$data" --out "$out/samples"
