#!/usr/bin/env python3
"""One engine's time for one MoE layer as one line of JSON; and the race's table. The race: bench/compare_ktransformers.sh.

    compare_ktransformers.py measure --engine sutor|kt|kt-nice|loop|grouped_mm --dtype bf16|f32 --shape a|b --tokens 512 [--threads 2]
    compare_ktransformers.py check --engine ...          # a peer's output and gradients against float64: that it computes the layer
    compare_ktransformers.py table RESULTS.jsonl

sutor: `sutor bench layer`, bf16 weights, float32 activations, the dW of all experts added to float32 gradients.
kt: KTransformers' CPU kernels as shipped: the class for bf16 of the extension that its wheel picks by /proc/cpuinfo. Backward (dX, every
expert's dW, the router weights' gradient) needs its SFT classes, which only its AVX512-BF16 and AMX builds have. kt-nice: the same with
its queue thread, which busy-waits while the pool works, at nice 7: faster where it would take a core from the pool.
loop: torch, a loop over experts, gate and up in one matrix, a Parameter each. grouped_mm: transformers' DeepseekV2Experts with those experts.
All get the same routing (token t's experts are t, t + 7, t + 14, ... : even) and seeded values. Median of --repeats calls after a first one,
fewer where they take more than --cap seconds together. flop: 6 H I K T forward, three times that with backward.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from peers import ROOT, cpu_seconds, read_jsonl

SHAPES = {"a": (2048, 1408, 64, 6), "b": (1024, 704, 64, 6)}  # hidden, width, experts, top-k: DeepSeek-V2-Lite's, and half of it
PASSES = ("forward", "forward + backward")


def timed(a, call):
    call()
    times, start = [], time.perf_counter()
    while len(times) < a.repeats and (not times or time.perf_counter() - start < a.cap):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


# --- peers: each gives {pass: function that returns what it computed} ------------------------------------------------

def inputs(shape, tokens, dtype):
    """(x, expert, weight, dy) and the weights gate, up [E,I,H], down [E,H,I]."""
    import torch
    hidden, width, experts, k = shape
    make = torch.Generator().manual_seed(1)
    normal = lambda *s: torch.randn(*s, generator=make)
    expert = (torch.arange(tokens)[:, None] + 7 * torch.arange(k)) % experts
    weight = torch.softmax(normal(tokens, k), -1)
    one = [normal(width, hidden) * hidden ** -0.5, normal(width, hidden) * hidden ** -0.5, normal(hidden, width) * width ** -0.5]
    # An expert is its neighbour turned by some elements: quick to make, and of other values everywhere.
    stack = lambda m: torch.stack([m.flatten().roll(977 * e).view_as(m) for e in range(experts)]).to(torch.bfloat16).to(dtype)
    return (normal(tokens, hidden).to(dtype), expert, weight, (0.1 * normal(tokens, hidden)).to(dtype)), [stack(m) for m in one]


def peer_torch(a, shape, batch, w, layer, params):
    import torch
    x, expert, weight, dy = batch

    def forward():
        with torch.no_grad():
            return [layer(x, expert, weight)]

    def both():
        xs, ws = x.detach().requires_grad_(), weight.detach().requires_grad_()
        y = layer(xs, expert, ws)
        for p in params:
            p.grad = None
        y.backward(dy)
        return [y.detach(), xs.grad, ws.grad, *(p.grad for p in params)]

    return dict(zip(PASSES, (forward, both)))


def loop(a, shape, batch, w):
    import torch
    from torch.nn import functional as F
    hidden, width, experts, k = shape
    gate_up = [torch.nn.Parameter(torch.cat([g, u])) for g, u in zip(w[0], w[1])]
    down = [torch.nn.Parameter(d.clone()) for d in w[2]]
    w.clear()

    def layer(x, expert, weight):
        order = expert.flatten().argsort(stable=True)
        token, scale, y = order // k, weight.flatten()[order].to(x.dtype), torch.zeros_like(x)
        for e, (t, s) in enumerate(zip(*(v.split(expert.flatten().bincount(minlength=experts).tolist()) for v in (token, scale)))):
            if len(t) == 0:
                continue
            gate, up = F.linear(x[t], gate_up[e]).chunk(2, -1)
            y.index_add_(0, t, F.linear(F.silu(gate) * up, down[e]) * s[:, None])
        return y

    return peer_torch(a, shape, batch, w, layer, gate_up + down)


def grouped_mm(a, shape, batch, w):
    import types
    import torch
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Experts
    hidden, width, experts, k = shape
    config = types.SimpleNamespace(num_experts=experts, n_routed_experts=experts, hidden_size=hidden, moe_intermediate_size=width, hidden_act="silu",
                                   _experts_implementation="grouped_mm")
    m = DeepseekV2Experts(config).to(batch[0].dtype)
    with torch.no_grad():
        m.gate_up_proj.copy_(torch.cat(w[:2], 1))
        m.down_proj.copy_(w[2])
    w.clear()
    return peer_torch(a, shape, batch, w, lambda x, expert, weight: m(x, expert, weight.to(x.dtype)), [m.gate_up_proj, m.down_proj])


def kt(a, shape, batch, w):
    import torch
    from kt_kernel import kt_kernel_ext as ext
    if a.dtype != "bf16":
        raise SystemExit("kt: bf16 alone")
    hidden, width, experts, k = shape
    x, expert, weight, dy = batch
    tokens, calls = len(x), {}
    native = next(getattr(ext.moe, c) for c in ("AMXBF16_MOE", "AVX2BF16_MOE") if hasattr(ext.moe, c))
    pool = ext.WorkerPoolConfig()
    pool.subpool_count, pool.subpool_numa_map, pool.subpool_thread_count = 1, [0], [a.threads]
    cpu = ext.CPUInfer(pool)
    config = ext.moe.MOEConfig(experts, k, hidden, width)
    config.max_len, config.layer_idx, config.pool = max(tokens, 32), 0, cpu.backend_
    config.gate_proj, config.up_proj, config.down_proj = (m.data_ptr() for m in w)
    config.gate_scale = config.up_scale = config.down_scale = 0
    moe, ids, count = native(config), torch.arange(experts), torch.tensor([tokens], dtype=torch.int32)
    y = torch.empty_like(x)
    cpu.submit(moe.load_weights_task(ids.data_ptr()))
    cpu.sync()

    def forward():
        cpu.submit(moe.forward_task(count.data_ptr(), k, expert.data_ptr(), weight.data_ptr(), x.data_ptr(), y.data_ptr(), False))
        cpu.sync()
        return [y]

    forward.keeps = (w, ids, pool)  # pointers were taken of them
    calls[PASSES[0]] = forward
    if hasattr(ext.moe, "AMXBF16_SFT_MOE"):
        from kt_kernel.sft.amx import AMXSFTMoEWrapper
        sft = AMXSFTMoEWrapper(layer_idx=0, num_experts=experts, num_experts_per_tok=k, hidden_size=hidden, moe_intermediate_size=width,
                               num_gpu_experts=0, cpuinfer_threads=a.threads, threadpool_count=1, weight_path="",
                               chunked_prefill_size=max(tokens, 32), lora_rank=0, lora_alpha=2.0, max_cache_depth=1, method="AMXBF16_SFT",
                               full_weight_grad=True)
        sft.load_weights_from_tensors(*w, ids)
        sft.init_full_weight_grad_buffers(*w)

        def both():
            out = sft.forward(x, expert, weight, save_for_backward=True)
            dx, dweight = sft.backward(dy)
            sft.release_authoritative_optimizer_grads()
            return [out, dx, dweight, sft.grad_gate_proj_buf, sft.grad_up_proj_buf, sft.grad_down_proj_buf]

        calls[PASSES[1]] = both
    if a.engine == "kt-nice":
        lower_queue_thread(forward)
    return calls


def lower_queue_thread(call):
    """nice 7 for the thread that is neither this one nor of the pool (numa_*) and burns the most."""
    def ticks(t):
        with open(f"/proc/self/task/{t}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def name(t):
        with open(f"/proc/self/task/{t}/comm") as f:
            return f.read()

    others = [t for t in map(int, os.listdir("/proc/self/task")) if t != os.getpid() and not name(t).startswith("numa_")]
    before, start = {t: ticks(t) for t in others}, time.perf_counter()
    while time.perf_counter() - start < 1:
        call()
    os.setpriority(os.PRIO_PROCESS, max(others, key=lambda t: ticks(t) - before[t]), 7)


PEERS = {"kt": kt, "kt-nice": kt, "loop": loop, "grouped_mm": grouped_mm}


def peer(a, shape, tokens):
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    import torch
    torch.set_num_threads(a.threads)
    batch, w = inputs(shape, tokens, torch.bfloat16 if a.dtype == "bf16" else torch.float32)
    return PEERS[a.engine](a, shape, batch, w)


def versions(a):
    import torch
    v = {"torch": torch.__version__}
    if a.engine.startswith("kt"):
        import kt_kernel
        v["kt"] = f"{kt_kernel.__version__} {kt_kernel.__cpu_variant__}"
    if a.engine == "grouped_mm":
        import transformers
        v["transformers"] = transformers.__version__
    return v


# --- one measurement ------------------------------------------------------------------------------------------------

def measure_sutor(a, shape):
    hidden, width, experts, k = shape
    line = [a.sutor, "bench", "layer", "--hidden", hidden, "--width", width, "--tokens", a.tokens, "--share", 100, "--repeats", a.repeats,
            "--dtype", a.dtype, "--threads", a.threads, "--json"]
    p = subprocess.run([str(x) for x in line], stdout=subprocess.PIPE, text=True)
    if p.returncode:
        raise SystemExit(f"{a.sutor} bench layer: exit code {p.returncode}")
    j = json.loads(p.stdout)
    return {PASSES[r["backward"]]: r["seconds"] for r in j["rows"]}, {"sutor": j["kernels"], "gemm_peak": j[f"{a.dtype}_gflops"], "read_peak": j["read_gbps"]}


def measure(a):
    start = cpu_seconds()
    shape = SHAPES[a.shape]
    if a.engine == "sutor":
        seconds, of = measure_sutor(a, shape)
    else:
        seconds, of = {name: timed(a, call) for name, call in peer(a, shape, a.tokens).items()}, versions(a)
    total, own = (now - then for now, then in zip(cpu_seconds(), start))
    row = {"engine": a.engine, "dtype": a.dtype, "shape": a.shape, "tokens": a.tokens, "threads": a.threads, "seconds": seconds,
           "foreign": round(max(0.0, 1 - own / total), 3), **of}
    print("\n" + json.dumps(row), flush=True)  # peers print too
    os._exit(0)  # what they do at exit is nobody's time


def check(a):
    """Relative error of everything that a peer computes, on a small layer."""
    import torch
    shape, tokens = (256, 192, 8, 3), 64
    got = {name: [t.double() for t in call()] for name, call in peer(a, shape, tokens).items()}
    (x, expert, weight, dy), w = inputs(shape, tokens, torch.bfloat16 if a.dtype == "bf16" else torch.float32)
    x, weight, gate, up, down = (t.double().requires_grad_() for t in (x, weight, *w))
    y = torch.zeros(tokens, shape[0], dtype=torch.double)
    for e in range(shape[2]):
        t, slot = (expert == e).nonzero(as_tuple=True)
        h = torch.nn.functional.silu(x[t] @ gate[e].T) * (x[t] @ up[e].T)
        y = y.index_add(0, t, h @ down[e].T * weight[t, slot, None])
    y.backward(dy.double())
    both = torch.cat([gate.grad, up.grad], 1)
    want = [y.detach(), x.grad, weight.grad, *([gate.grad, up.grad, down.grad] if a.engine.startswith("kt") else [both, down.grad])]
    for name, parts in got.items():
        if a.engine == "loop" and len(parts) > 1:  # a gradient of each expert
            n = shape[2]
            parts = parts[:3] + [torch.stack(parts[3:3 + n]), torch.stack(parts[3 + n:])]
        print(name, [f"{float((g - v).norm() / v.norm()):.1e}" for g, v in zip(parts, want)], flush=True)
    os._exit(0)


# --- the table --------------------------------------------------------------------------------------------------------

def table(a):
    rows, runs = read_jsonl(a.results), {}
    for r in rows:
        for name, s in r["seconds"].items():
            runs.setdefault((name, r["shape"], r["tokens"]), {}).setdefault(f"{r['engine']} {r['dtype']}", []).append(s)
    print("| pass | shape, tokens | engine | ms: median | min - max | runs | GFLOP/s | its time / sutor's | the fastest peer / sutor |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    for (name, shape, tokens), engines in sorted(runs.items(), key=lambda x: (PASSES.index(x[0][0]), x[0][1:])):
        hidden, width, _, k = SHAPES[shape]
        flop = 6 * hidden * width * k * tokens * (3 if name == PASSES[1] else 1)
        mid = {e: statistics.median(v) for e, v in engines.items()}
        ours = min((m for e, m in mid.items() if e.startswith("sutor")), default=None)
        best = min((m for e, m in mid.items() if not e.startswith("sutor")), default=None)
        for e, v in sorted(engines.items(), key=lambda x: mid[x[0]]):
            ratio = "" if ours is None or e.startswith("sutor") else f"{mid[e] / ours:.2f}"
            lead = f"{best / ours:.2f}" if e.startswith("sutor") and best else ""
            print(f"| {name} | {shape}, {tokens} | {e} | {1e3 * mid[e]:.1f} | {1e3 * min(v):.1f} - {1e3 * max(v):.1f} | {len(v)} | "
                  f"{1e-9 * flop / mid[e]:.0f} | {ratio} | {lead} |")
    for s, (hidden, width, experts, k) in SHAPES.items():
        print(f"\n{s}: hidden {hidden}, width {width}, {k} of {experts} experts.", end="")
    print("\n" + "; ".join(sorted({f"{k} {r[k]}" for r in rows for k in ("kt", "torch", "transformers", "sutor") if k in r})) + ".")
    busy = [r for r in rows if r["foreign"] > 0.05]
    if busy:
        print(f"\n{len(busy)} of {len(rows)} runs shared the machine (up to {max(r['foreign'] for r in busy):.0%} of the busy time): repeat them on a quiet one.")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="mode", required=True)
    for mode in ("measure", "check"):
        p = sub.add_parser(mode)
        p.add_argument("--engine", choices=[*PEERS, *(["sutor"] if mode == "measure" else [])], required=True)
        p.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
        p.add_argument("--threads", type=int, default=2)
    p = sub.choices["measure"]
    p.add_argument("--shape", choices=sorted(SHAPES), default="a")
    p.add_argument("--tokens", type=int, default=512)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--cap", type=float, default=20, help="seconds that the timed calls of a pass may take together")
    p.add_argument("--sutor", default=os.path.join(ROOT, "build", "sutor"))
    p = sub.add_parser("table")
    p.add_argument("results")
    a = ap.parse_args()
    {"measure": measure, "check": check, "table": table}[a.mode](a)


if __name__ == "__main__":
    main()
