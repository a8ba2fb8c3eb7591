#!/bin/sh
# Ranks beside one rank on this machine, and what `sutor estimate --cluster` predicts for the same runs.
#
#   bench/scaling.sh WORK          a 1.06 B model of the V2-Lite kind (random weights, made in WORK by sutor init), ESFT, 2 micro-batches of 2 x 512
#   ROUNDS=3 STEPS=3 CORES=2 SUTOR=build/sutor RANKS="1 2 4 8"
#
# One rank with all cores, then CORES ranks of one thread as replicas and with shared experts, interleaved; then other numbers of ranks, one thread each, a step of as
# many micro-batches of 1 x 512 as the largest has ranks: all do the same work. Nothing else should run on the machine. Writes WORK/cluster.yaml, WORK/scaling.jsonl and a table.
set -eu
[ $# -eq 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
work=$1
: "${SUTOR:=$here/../build/sutor}" "${ROUNDS:=3}" "${STEPS:=3}" "${CORES:=2}" "${RANKS:=1 2 4 8}"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mkdir -p "$work/start"
if [ ! -d "$work/model" ]; then
  sed -e 's/"hidden_size": .*/"hidden_size": 1024,/; s/"num_hidden_layers": .*/"num_hidden_layers": 8,/; s/"moe_intermediate_size": .*/"moe_intermediate_size": 704,/' \
    -e 's/"intermediate_size": 10944/"intermediate_size": 5472/; s/"kv_lora_rank": .*/"kv_lora_rank": 256,/; s/"qk_nope_head_dim": .*/"qk_nope_head_dim": 64,/' \
    -e 's/"qk_rope_head_dim": .*/"qk_rope_head_dim": 32,/; s/"v_head_dim": .*/"v_head_dim": 64,/; s/"vocab_size": .*/"vocab_size": 32768/' \
    "$here/../recipes/dsv2-lite/config.json" >"$work/start/config.json"
  cp "$here/../recipes/embedded/tokenizer.json" "$here/../recipes/embedded/tokenizer_config.json" "$work/start"
  "$SUTOR" init "$work/start" --seed 1 --out "$work/model"
fi
python3 - "$work" <<'PYTHON'
import json, random, sys
random.seed(1)
with open(sys.argv[1] + "/rows.jsonl", "w") as f:
    for _ in range(64):
        ids = [random.randrange(500) for _ in range(512)]
        f.write(json.dumps({"input_ids": ids, "labels": ids}) + "\n")
json.dump({"experts": {str(l): random.sample(range(64), 5) for l in range(1, 8)}, "shared_experts": False, "non_expert_modules": False},
          open(sys.argv[1] + "/experts.json", "w"))
PYTHON
rm -f "$work/scaling.jsonl"
run() { # NAME RANKS THREADS EP ACCUM BATCH STEPS
  rm -rf "$work/run"
  launch=
  [ "$2" -eq 1 ] || launch="mpirun --quiet --oversubscribe --bind-to none -n $2"
  $launch "$SUTOR" train "$work/model" --data "$work/rows.jsonl" --method esft --experts "$work/experts.json" --seq 512 --batch "$6" --grad-accum "$5" \
    --steps "$7" --dtype bf16 --lr 1e-5 --quiet --weights map --threads "$3" --out "$work/run" --ep "$4" >/dev/null
  python3 - "$work" "$@" <<'PYTHON'
import json, statistics, sys
work, name, ranks, threads, ep, accum = sys.argv[1:7]
steps = [json.loads(l) for l in open(work + "/run/log.jsonl")][1:][1:]  # the first step brings pages in
r = {"name": name, "ranks": int(ranks), "threads": int(threads), "ep": int(ep), "accum": int(accum),
     "step_s": statistics.median(s["seconds"] for s in steps), "tokens_per_s": statistics.median(s["tokens_per_s"] for s in steps),
     "comm_s": statistics.median(s.get("comm_seconds", 0) for s in steps), "comm_mb": steps[-1].get("comm_bytes", 0) / 1e6}
print(f"{name:34} {r['tokens_per_s']:8.1f} tokens/s  step {r['step_s']:.3f} s  waiting {r['comm_s']:.3f} s  sent {r['comm_mb']:.1f} MB", file=sys.stderr)
open(work + "/scaling.jsonl", "a").write(json.dumps(r) + "\n")
PYTHON
}
round=1
while [ "$round" -le "$ROUNDS" ]; do
  run "1 rank, all cores" 1 "$CORES" 1 "$CORES" 2 "$STEPS"
  run "a rank a core, replicas" "$CORES" 1 1 "$CORES" 2 "$STEPS"
  run "a rank a core, shared experts" "$CORES" 1 "$CORES" "$CORES" 2 "$STEPS"
  round=$((round + 1))
done
most=$(echo "$RANKS" | tr ' ' '\n' | sort -n | tail -1)
for r in $RANKS; do
  run "replicas of 1 thread" "$r" 1 1 "$most" 1 2
  [ "$r" -eq 1 ] || run "shared experts of 1 thread" "$r" 1 "$r" "$most" 1 2
done
mpirun --quiet --oversubscribe --bind-to none -n 2 "$SUTOR" bench comm --json >"$work/comm.json"
"$SUTOR" bench peaks --threads 1 --json >"$work/peaks.json"
python3 - "$work" "$SUTOR" "$CORES" "$most" <<'PYTHON'
import json, statistics, subprocess, sys
work, sutor, cores, most = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rows = [json.loads(l) for l in open(work + "/scaling.jsonl")]
med = lambda name: statistics.median(r["tokens_per_s"] for r in rows if r["name"] == name)
one = med("1 rank, all cores")
for name in ("a rank a core, replicas", "a rank a core, shared experts"):
    print(f"{name}: {med(name) / one:.3f} of one rank with all cores ({med(name):.1f} and {one:.1f} tokens/s)")
# What predictions are made of: one rank of one thread; how much slower a thread is when all cores work, from one rank with all; the links.
alone = next(r for r in rows if r["name"].startswith("replicas") and r["ranks"] == 1)
comm = {r["bytes"]: r for r in json.load(open(work + "/comm.json"))["rows"]}
peaks = json.load(open(work + "/peaks.json"))
micro = alone["step_s"] / alone["accum"]
flags = ["--method", "esft", "--experts", work + "/experts.json", "--seq", "512", "--batch", "1"]
step = json.loads(subprocess.run([sutor, "estimate", work + "/model", *flags, "--json"], capture_output=True, text=True, check=True).stdout)["flops_per_step"]
routed = 4 * 6 * 3 * 1024 * 704 * 512 * 7  # forward and dx: tokens x top-k x 3 matrices x 7 layers, 4 operations a weight
share = round(routed / step, 3)
# A thread's slowdown when every core works, without ranks: one rank with all cores against one with one thread, by tokens.
one_thread = cores * (alone["tokens_per_s"] / one)
open(work + "/cluster.yaml", "w").write(f"""hosts: 1
cores: {cores}
threads: 1
host: {{gbytes_per_s: {comm[1 << 20]['gbps']:.3f}, latency_us: {comm[8]['seconds'] * 1e6:.2f}}}
network: {{gbytes_per_s: {comm[1 << 20]['gbps']:.3f}, latency_us: {comm[8]['seconds'] * 1e6:.2f}}}
micro_batch_s: {micro:.4f}
step_s: 0
expert_share: {share}
busy: {max(1.0, one_thread):.3f}
memory_gbytes_per_s: {peaks['read_gbps']:.2f}
""")
predicted = json.loads(subprocess.run([sutor, "estimate", work + "/model", *flags, "--grad-accum", str(most), "--cluster", work + "/cluster.yaml", "--json"], capture_output=True, text=True, check=True).stdout)["predicted"]
print("\n| ranks of one thread | ep | step measured, s | predicted, s | predicted / measured | waiting, s | MB sent by rank 0 |\n|---:|---:|---:|---:|---:|---:|---:|")
for r in rows:
    if "of 1 thread" not in r["name"]: continue
    p = next((p for p in predicted if (p["ranks"], p["ep"]) == (r["ranks"], r["ep"])), None)
    if p: print(f"| {r['ranks']} | {r['ep']} | {r['step_s']:.3f} | {p['step_s']:.3f} | {p['step_s'] / r['step_s']:.2f} | {r['comm_s']:.3f} | {r['comm_mb']:.1f} |")
PYTHON
