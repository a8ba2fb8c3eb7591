#!/bin/sh
# Sutor against transformers and the ESFT authors' code: training, scoring, prefill and decode of a 1.06 B model, interleaved.
#
#   HF_PYTHON=... [AUTHORS_PYTHON=... ESFT_DIR=...] bench/compare_esft.sh WORK TEXT.jsonl...
#
# WORK (outside the repository, 3 GB) gets the model, the inputs and results.jsonl; TEXT: ESFT's datasets/train/intent.jsonl, law.jsonl.
# HF_PYTHON and AUTHORS_PYTHON: interpreters with tests/goldens/requirements.txt and requirements-authors.txt; without the
# latter or ESFT_DIR the authors are left out. REPEATS=3 STEPS=4 THREADS=2 DTYPE=bf16 SUTOR=build/sutor MODES="train score generate".
# PEER_DTYPES="bf16 f32" runs the peers in both: where a CPU has no bf16 products, torch is faster in f32.
# Nothing else should run on the machine. Runs add up in results.jsonl: remove it for a new race.
set -eu
[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
work=$1
shift
: "${HF_PYTHON:=python3}" "${AUTHORS_PYTHON:=}" "${ESFT_DIR:=}" "${REPEATS:=3}" "${STEPS:=4}" "${THREADS:=2}" "${DTYPE:=bf16}"
: "${PEER_DTYPES:=$DTYPE}"
: "${SUTOR:=$here/../build/sutor}" "${MODES:=train score generate}"
export ESFT_DIR OMP_NUM_THREADS="$THREADS"

engines=hf
[ -n "$AUTHORS_PYTHON" ] && [ -n "$ESFT_DIR" ] && engines="$engines authors"
[ -x "$SUTOR" ] && engines="$engines sutor" || echo "no $SUTOR: peers only" >&2

mkdir -p "$work"
if [ ! -f "$work/expert_cfg.json" ]; then
  texts=
  for t; do texts="$texts --text $t"; done
  "$HF_PYTHON" -W ignore "$here/peers.py" prepare "$work" --threads "$THREADS" $texts
fi

round=1
while [ "$round" -le "$REPEATS" ]; do
  for mode in $MODES; do
    for engine in $engines; do
      python=$HF_PYTHON dtypes=$PEER_DTYPES
      [ "$engine" = authors ] && python=$AUTHORS_PYTHON
      [ "$engine" = sutor ] && dtypes=$DTYPE
      for dtype in $dtypes; do
        set -- "$mode" "$work" --impl "$engine" --dtype "$dtype" --threads "$THREADS"
        [ "$mode" = train ] && set -- "$@" --steps "$STEPS"
        [ "$engine" = sutor ] && set -- "$@" --sutor "$SUTOR"
        echo "round $round: $engine $dtype $mode" >&2
        if line=$("$python" -W ignore "$here/peers.py" "$@"); then
          printf '%s\n' "$line" | tail -n 1 >>"$work/results.jsonl"
        else
          echo "round $round: $engine $dtype $mode failed" >&2
        fi
      done
    done
  done
  round=$((round + 1))
done
[ -x "$SUTOR" ] && "$SUTOR" bench peaks --threads "$THREADS"
"$HF_PYTHON" "$here/peers.py" table "$work/results.jsonl"
