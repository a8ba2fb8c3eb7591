#!/bin/sh
# Sutor against llama.cpp on the same GGUF files, interleaved: one sequence with a prompt of 512 tokens and 128 decoded ones; 32 tokens of each of
# eight different sequences decoded together after 16, in tokens/s of all.
#
#   LLAMA_BENCH=.../llama-bench bench/compare_llamacpp.sh RESULTS.jsonl MODEL.gguf...
#
# LLAMA_BENCH: of a build with GGML_NATIVE=ON, GGML_OPENMP=ON, GGML_LLAMAFILE=ON (its best without a BLAS), llama-batched-bench beside it. They run
# twice a round: as shipped (mapped file), and with the weights copied into huge pages; the table compares with the faster. Sutor: --weights huge and map.
# ROUNDS=3 THREADS=2 SUTOR=build/sutor. Nothing else should run on the machine. Runs add up in RESULTS.jsonl: remove it for a new race.
set -eu
[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
: "${LLAMA_BENCH:?a llama-bench}" "${SUTOR:=$here/../build/sutor}" "${ROUNDS:=3}" "${THREADS:=2}"
results=$1
shift
batched=$(dirname "$LLAMA_BENCH")/llama-batched-bench
for file in "$LLAMA_BENCH" "$batched" "$SUTOR" "$@"; do
  [ -f "$file" ] || { echo "no file $file" >&2; exit 1; }
done
llama() { # NAME MODE MODEL
  for work in "prefill 512 0" "decode 0 128"; do
    set -- "$1" "$2" "$3" $work
    "$LLAMA_BENCH" -m "$3" -t "$THREADS" -lm "$2" -p "$5" -n "$6" -b 512 -ub 512 -r 3 -o json 2>/dev/null |
      python3 -c 'import json, sys
r = json.load(sys.stdin)[0]
print(json.dumps({"engine": sys.argv[1], "model": sys.argv[2], "work": sys.argv[3], "tokens_per_s": r["avg_ts"]}))' "$1" "$3" "$4" >>"$results"
  done
  "$batched" -m "$3" -t "$THREADS" -lm "$2" -c 512 -b 512 -ub 512 -npp 16 -ntg 32 -npl 8,8,8 --output-format jsonl 2>&1 |
    python3 -c 'import json, statistics, sys
runs = [json.loads(line) for line in sys.stdin if line.startswith("{")]
print(json.dumps({"engine": sys.argv[1], "model": sys.argv[2], "work": "8 x 32 together", "tokens_per_s": statistics.median(r["speed_tg"] for r in runs)}))' "$1" "$3" >>"$results"
}
sutor() { # NAME WEIGHTS MODEL
  # llama-bench decodes from an empty cache: so does this, but for two tokens.
  for work in "prefill 512 2 1" "decode 2 128 1" "together 16 32 8"; do
    set -- "$1" "$2" "$3" $work
    "$SUTOR" bench infer "$3" --seq "$5" --max-tokens "$6" --batch "$7" --repeats 3 --dtype bf16 --threads "$THREADS" --weights "$2" --json |
      python3 -c 'import json, sys
work = sys.argv[3]
row = next(r for r in json.load(sys.stdin)["rows"] if r["what"].startswith(work.replace("together", "decode")))
print(json.dumps({"engine": sys.argv[1], "model": sys.argv[2], "work": work.replace("together", "8 x 32 together"), "tokens_per_s": row["tokens_per_s"], "of_memory_peak": row["of_memory_peak"],
                  "of_gemm_peak": row["of_gemm_peak"]}))' "$1" "$3" "$4" >>"$results"
  done
}
round=1
while [ "$round" -le "$ROUNDS" ]; do
  for model in "$@"; do
    echo "round $round: $model" >&2
    llama "llama.cpp mapped" auto "$model"
    sutor "sutor map" map "$model"
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 llama "llama.cpp huge" none "$model"
    sutor "sutor huge" huge "$model"
  done
  round=$((round + 1))
done
"$SUTOR" bench peaks --threads "$THREADS"
python3 - "$results" <<'PYTHON'
import collections, json, os, statistics, sys
runs = collections.defaultdict(list)
for r in map(json.loads, open(sys.argv[1])):
    runs[os.path.basename(r["model"]), r["work"], r["engine"]].append(r)
median = lambda rs, key="tokens_per_s": statistics.median(r[key] for r in rs)
print("\n| model | work | engine | tokens/s: median | min - max | runs | sutor / the faster llama.cpp | of GEMM peak, of memory peak, % |\n|---|---|---|---:|---:|---:|---:|---:|")
for (model, work, engine), rs in sorted(runs.items()):
    best = max((median(v) for (m, w, e), v in runs.items() if (m, w) == (model, work) and e.startswith("llama")), default=None)
    ours = engine.startswith("sutor")
    t = [r["tokens_per_s"] for r in rs]
    share = f"{100 * median(rs, 'of_gemm_peak'):.0f}, {100 * median(rs, 'of_memory_peak'):.0f}" if ours else ""
    ratio = f"{median(rs) / best:.2f}" if ours and best else ""
    print(f"| {model} | {work} | {engine} | {median(rs):.1f} | {min(t):.1f} - {max(t):.1f} | {len(t)} | {ratio} | {share} |")
PYTHON
