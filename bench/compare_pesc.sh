#!/bin/sh
# Sutor against the PESC authors' code: training over NF4 and not, LoRA on the dense base, prefill and decode, interleaved.
#
#   PESC_PYTHON=... PESC_DIR=... bench/compare_pesc.sh WORK EXAMPLE.json
#
# WORK (outside the repository, 2 GB) gets the models, the rows and results.jsonl; EXAMPLE: the authors' data/example.json.
# PESC_PYTHON: an interpreter with tests/goldens/requirements-pesc.txt; PESC_DIR: a checkout of wuhy68/Parameter-Efficient-MoE.
# REPEATS=3 STEPS=3 (the first is not timed) BATCH=1 ACCUM=4 THREADS=2 SUTOR=build/sutor MODES="train generate" ENGINES="authors sutor sutor-dense sutor-keep".
# DTYPES="nf4-f32 f32" are the authors' (also nf4-bf16, bf16: faster where the CPU has bf16 products), SUTOR_DTYPES="nf4-bf16 bf16" ours.
# Nothing else should run on the machine. Runs add up in results.jsonl: remove it for a new race.
set -eu
[ $# -eq 2 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
work=$1
: "${PESC_PYTHON:=python3}" "${PESC_DIR:?a checkout of wuhy68/Parameter-Efficient-MoE}" "${REPEATS:=3}" "${STEPS:=3}" "${BATCH:=1}"
: "${ACCUM:=4}" "${THREADS:=2}" "${DTYPES:=nf4-f32 f32}" "${SUTOR_DTYPES:=nf4-bf16 bf16}" "${MODES:=train generate}"
: "${SUTOR:=$here/../build/sutor}" "${ENGINES:=authors sutor sutor-dense sutor-keep}"
export PESC_DIR OMP_NUM_THREADS="$THREADS"

[ -x "$SUTOR" ] || { echo "no $SUTOR: the authors only" >&2; ENGINES=authors; }
mkdir -p "$work"
[ -f "$work/prompts.jsonl" ] || "$PESC_PYTHON" "$here/pesc_peer.py" prepare "$work" "$2" --threads "$THREADS"
if [ "$ENGINES" != authors ] && [ ! -d "$work/crafted" ]; then
  "$SUTOR" craft "$work/dense" --experts 8 --top-k 2 --adapter-dim 64 --moe-scaling 1 --out "$work/crafted"
fi

round=1
while [ "$round" -le "$REPEATS" ]; do
  for mode in $MODES; do
    for engine in $ENGINES; do
      case "$mode $engine" in "generate sutor-"*) continue ;; esac
      dtypes=$DTYPES
      [ "$engine" = authors ] || dtypes=$SUTOR_DTYPES
      for dtype in $dtypes; do
        case "$mode $dtype" in "generate nf4"*) continue ;; esac
        set -- "$mode" "$work" --impl "$engine" --dtype "$dtype" --threads "$THREADS"
        [ "$mode" = train ] && set -- "$@" --steps "$STEPS" --batch "$BATCH" --accum "$ACCUM"
        [ "$engine" = authors ] || set -- "$@" --sutor "$SUTOR"
        echo "round $round: $engine $dtype $mode" >&2
        if line=$("$PESC_PYTHON" "$here/pesc_peer.py" "$@"); then
          printf '%s\n' "$line" | tail -n 1 >>"$work/results.jsonl"
        else
          echo "round $round: $engine $dtype $mode failed" >&2
        fi
      done
    done
  done
  round=$((round + 1))
done
[ "$ENGINES" = authors ] || "$SUTOR" bench peaks --threads "$THREADS"
"$PESC_PYTHON" "$here/pesc_peer.py" table "$work/results.jsonl"
