#!/bin/sh
# Writes docs/performance.md: what this machine can do, and how near to it kernels, fusions and a model come, all in one run.
#
#   bench/performance.sh [MODEL EXPERTS.json]     # a model folder and an expert_cfg.json for it add training and inference
#
# SUTOR=build/sutor THREADS=0 (one per core) OUT=docs/performance.md REPEATS=10 ONEDNN=0 (1: bench/compare_onednn.sh too, which needs
# libdnnl-dev and THREADS given). python3 (its standard library) formats. Nothing else should run.
set -eu
[ $# -eq 0 ] || [ $# -eq 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
: "${SUTOR:=$here/../build/sutor}" "${THREADS:=0}" "${OUT:=$here/../docs/performance.md}" "${REPEATS:=10}" "${ONEDNN:=0}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
run() {
  name=$1
  shift
  echo "bench $*" >&2
  "$SUTOR" bench "$@" --threads "$threads" --json >"$work/$name.json"
}
threads=$THREADS
run kernels kernels --repeats "$REPEATS" --dtype bf16
threads=1
run kernels-1 kernels --repeats "$REPEATS" --dtype bf16
threads=$THREADS
run layer layer --repeats "$REPEATS" --dtype bf16
run fusion fusion --repeats "$REPEATS" --dtype bf16
if [ $# -eq 2 ]; then
  run train train "$1" --method esft --experts "$2" --batch 1 --seq 512 --repeats "$REPEATS" --dtype bf16
  run infer infer "$1" --seq 512 --max-tokens 64 --repeats "$REPEATS" --dtype bf16
  run infer-8 infer "$1" --seq 64 --max-tokens 64 --batch 8 --repeats "$REPEATS" --dtype bf16
  run infer-map infer "$1" --seq 512 --max-tokens 64 --repeats "$REPEATS" --dtype bf16 --weights map
  # From the start of the process, its file in the page cache: what a user waits for.
  python3 - "$SUTOR" "$1" "$THREADS" "$REPEATS" >"$work/start.json" <<'PYTHON'
import json, statistics, subprocess, sys, time
sutor, model, threads, repeats = sys.argv[1:]
def seconds(*words):
    times = []
    for _ in range(int(repeats) + 1):
        begin = time.perf_counter()
        subprocess.run([sutor, *words, "--threads", threads, "--dtype", "bf16", "--quiet"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])
json.dump({f"first token, --weights {w}": seconds("generate", model, "--prompt", "the", "--max-tokens", "1", "--ignore-eos", "--weights", w)
           for w in ("map", "huge")}, sys.stdout)
PYTHON
  "$SUTOR" quantize "$1" --out "$work/nf4" --quiet >&2
  run infer-nf4 infer "$work/nf4" --seq 512 --max-tokens 64 --repeats "$REPEATS" --dtype bf16
fi
commit=$(git -C "$here" rev-parse --short HEAD 2>/dev/null || echo unknown)
python3 - "$work" "$commit" "$THREADS" >"$work/performance.md" <<'PYTHON'
import json, os, platform, sys
work, commit, threads = sys.argv[1:]
load = lambda name: json.load(open(f"{work}/{name}.json")) if os.path.exists(f"{work}/{name}.json") else None
def peaks(j):
    return f"Peaks measured just before: GEMM {j['bf16_gflops']:.0f} GFLOP/s (bf16 operands), {j['f32_gflops']:.0f} (f32), read {j['read_gbps']:.0f} GB/s."
def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for r in rows:
        print("| " + " | ".join(str(c) for c in r) + " |")
    print()
pct = lambda x: f"{100 * x:.0f}"
cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
k, l, f = load("kernels"), load("layer"), load("fusion")
print(f"""# Performance

Written by `bench/performance.sh`; every figure is a share of what the same machine did in the same minutes.
{cpu}, kernels {k['kernels']}, {k['threads']} threads, commit {commit}, `--dtype bf16`; medians. Useful multiply-adds alone count.
The GEMM peak is the micro-kernel on a panel in the first-level cache; memory is read by the decode path's dot product. Peaks are measured before the
rows under them: where a machine's pace changes within minutes, as in a shared one, shares move by a third and can pass 100.

## Kernels

{peaks(k)} Shapes of a DeepSeek-V2-Lite layer and of Camelidae's adapters.
""")
one = {(r["kernel"], r["shape"], r["tokens"]): r["seconds"] for r in load("kernels-1")["rows"]}
table(["kernel", "shape", "tokens", "ms", "GFLOP/s", "% of GEMM peak", "% of memory peak", "% of roof", f"1 thread / {k['threads']}"],
      [(r["kernel"], r["shape"], r["tokens"], f"{1e3 * r['seconds']:.2f}", f"{r['gflops']:.0f}", pct(r["of_gemm_peak"]), pct(r["of_memory_peak"]), pct(r["of_roof"]),
        f"{one[r['kernel'], r['shape'], r['tokens']] / r['seconds']:.2f}x") for r in k["rows"]])
print("The roof is the greater of the two shares' limits: what memory and the units allow for the row's work. The last column: time of one thread over that of all.\n")
print(f"""## A MoE layer by the share of its experts that trains

{peaks(l)} Forward, dx and the dW of the share: by the multiply-adds a step follows (2 + s) / 3 of training all.
""")
table(["tokens", "experts that train", "ms", "% of GEMM peak", "of all", "(2 + s) / 3"],
      [(r["tokens"], pct(r["share"]) + " %" if r["backward"] else "forward alone", f"{1e3 * r['seconds']:.1f}", pct(r["of_gemm_peak"]), f"{r['of_all']:.3f}", f"{r['line']:.3f}") for r in l["rows"]])
print(f"""## Fusions

{peaks(f)} Each beside what it stands for, by kernels of this engine, called in turn; the third and fourth columns of a row are the same work but
where the text says less of it (dW). The loss saves memory held, not traffic. A variant is one function and one line
in `engine/bench_fusion.cpp`; `tests/bench.cpp` holds both forms to the same result.
""")
table(["fused", "apart", "shape", "fused ms", "apart ms", "gain", "MB not moved"],
      [(r["fused"], r["apart"], r["shape"], f"{1e3 * r['fused_seconds']:.2f}", f"{1e3 * r['apart_seconds']:.2f}", f"{r['apart_seconds'] / r['fused_seconds']:.2f}x", f"{1e-6 * r['bytes_not_moved']:.0f}") for r in f["rows"]])
if load("train"):
    print("## A whole model\n\n`sutor bench train` and `infer`; recomputation does not count as useful.\n")
    rows = [(r["what"], f"{r['tokens_per_s']:.0f}", f"{r['gflops']:.0f}", pct(r["of_gemm_peak"]), pct(r["of_memory_peak"]), f"{1e-9 * r['peak_bytes']:.2f}")
            for j in (load("train"), load("infer")) for r in j["rows"]]
    for name, suffix in (("infer-map", ", weights mapped"), ("infer-8", "")):
        rows += [(r["what"] + suffix, f"{r['tokens_per_s']:.0f}", f"{r['gflops']:.0f}", pct(r["of_gemm_peak"]), pct(r["of_memory_peak"]), f"{1e-9 * r['peak_bytes']:.2f}")
                 for r in load(name)["rows"] if r["what"].startswith("decode")]
    rows += [(r["what"] + ", NF4", f"{r['tokens_per_s']:.0f}", f"{r['gflops']:.0f}", pct(r["of_gemm_peak"]), pct(r["of_memory_peak"]), f"{1e-9 * r['peak_bytes']:.2f}") for r in load("infer-nf4")["rows"]]
    table(["what", "tokens/s", "GFLOP/s", "% of GEMM peak", "% of memory peak", "peak GB"], rows)
    print("From the start of the process, its file in the page cache:\n")
    table(["what", "seconds"], [(what, f"{s:.2f}") for what, s in load("start").items()])
PYTHON
if [ "$ONEDNN" = 1 ]; then
  printf '\n## Beside oneDNN\n\n`bench/compare_onednn.sh`: weights packed before the clock starts for oneDNN, in every call or not at all here; called in turn.\n\n' >>"$work/performance.md"
  "$here/compare_onednn.sh" "$THREADS" "$REPEATS" >>"$work/performance.md"
fi
mv "$work/performance.md" "$OUT"
echo "$OUT" >&2
