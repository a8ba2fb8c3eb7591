#!/bin/sh
# Sutor's MoE layer against KTransformers' CPU kernels, a torch loop over experts and transformers' grouped_mm: forward, and forward + backward with
# every expert's dW, interleaved.
#
#   KT_PYTHON=... HF_PYTHON=... bench/compare_ktransformers.sh RESULTS.jsonl
#
# KT_PYTHON: an interpreter with kt-kernel==0.7.2 (PyPI, glibc 2.35; it pins torch 2.9.1: an environment of its own, 7 GB); HF_PYTHON: with
# tests/goldens/requirements.txt's torch and transformers. Without one of them its engines are left out. What each engine is:
# bench/compare_ktransformers.py.
# ROUNDS=3 REPEATS=5 (calls of a round, the median counts) THREADS=2 CASES="a:1 a:32 a:512 a:2048 b:512 b:2048" (SHAPE:TOKENS) DTYPE=bf16
# SUTOR=build/sutor. PEER_DTYPES="bf16 f32" runs torch's in both: where a CPU has no bf16 products, torch is faster in f32. KT="kt kt-nice".
# Freed memory stays with the peers' process in huge pages (GLIBC_TUNABLES), or torch's backward pays for its pages anew in every call.
# Nothing else should run on the machine. Runs add up in RESULTS.jsonl: remove it for a new race.
set -eu
[ $# -eq 1 ] || { sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
: "${KT_PYTHON:=}" "${HF_PYTHON:=}" "${ROUNDS:=3}" "${REPEATS:=5}" "${THREADS:=2}" "${DTYPE:=bf16}" "${PEER_DTYPES:=$DTYPE}" "${KT:=kt kt-nice}"
: "${CASES:=a:1 a:32 a:512 a:2048 b:512 b:2048}" "${SUTOR:=$here/../build/sutor}"
: "${TUNABLES:=glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=68719476736}"
export OMP_NUM_THREADS="$THREADS"
results=$1
measure() { # PYTHON ENGINE DTYPE
  echo "round $round: $2 $3 $case" >&2
  if line=$("$1" -W ignore "$here/compare_ktransformers.py" measure --engine "$2" --dtype "$3" --shape "${case%:*}" --tokens "${case#*:}" \
    --threads "$THREADS" --repeats "$REPEATS" --sutor "$SUTOR"); then
    printf '%s\n' "$line" | tail -n 1 >>"$results"
  else
    echo "round $round: $2 $3 $case failed" >&2
  fi
}
peer() { (
  export GLIBC_TUNABLES="$TUNABLES"
  measure "$@"
); }

[ -x "$SUTOR" ] || echo "no $SUTOR: peers only" >&2
round=1
while [ "$round" -le "$ROUNDS" ]; do
  for case in $CASES; do
    [ -x "$SUTOR" ] && measure python3 sutor "$DTYPE"
    if [ -n "$KT_PYTHON" ]; then
      for engine in $KT; do
        peer "$KT_PYTHON" "$engine" bf16
      done
    fi
    if [ -n "$HF_PYTHON" ]; then
      for dtype in $PEER_DTYPES; do
        peer "$HF_PYTHON" loop "$dtype"
        peer "$HF_PYTHON" grouped_mm "$dtype"
      done
    fi
  done
  round=$((round + 1))
done
python3 "$here/compare_ktransformers.py" table "$results"
