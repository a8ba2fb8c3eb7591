#!/usr/bin/env python3
"""docs/scaling.svg from predictions: speed-up over one rank by number of ranks.

    bench/scaling_curves.py OUT.svg NAME=PREDICTED.json...

PREDICTED.json: what `sutor estimate MODEL ... --cluster FILE.yaml --json` prints. One panel for each; the dashed line is as many times as ranks.
"""
import json
import math
import sys

COLOURS = {1: "#0072b2", 2: "#d55e00", 4: "#009e73", 8: "#cc79a7", 16: "#e69f00", 32: "#56b4e9", 64: "#666666"}
W, H, LEFT, TOP = 380, 260, 56, 34


def panel(name, rows, x0):
    most = max(r["ranks"] for r in rows)
    px = lambda ranks: x0 + LEFT + (W - LEFT - 14) * math.log2(ranks) / max(1, math.log2(most))
    py = lambda s: TOP + (H - TOP - 44) * (1 - math.log2(max(0.25, s) / 0.25) / math.log2(most / 0.25))
    out = [f'<text x="{x0 + LEFT}" y="20" font-weight="bold">{name}</text>']
    for e in range(0, int(math.log2(most)) + 1, 2):
        out.append(f'<text x="{px(2**e):.1f}" y="{H - 24}" text-anchor="middle">{2**e}</text>')
        out.append(f'<text x="{x0 + LEFT - 6}" y="{py(2**e) + 4:.1f}" text-anchor="end">{2**e}x</text>')
        out.append(f'<line x1="{x0 + LEFT}" y1="{py(2**e):.1f}" x2="{px(most):.1f}" y2="{py(2**e):.1f}" stroke="#ddd"/>')
    out.append(f'<text x="{(px(1) + px(most)) / 2:.1f}" y="{H - 8}" text-anchor="middle">ranks</text>')
    out.append(f'<line x1="{px(1):.1f}" y1="{py(1):.1f}" x2="{px(most):.1f}" y2="{py(most):.1f}" stroke="#999" stroke-dasharray="4 4"/>')
    for ep in sorted({r["ep"] for r in rows}):
        points = [(r["ranks"], r["speedup"]) for r in rows if r["ep"] == ep]
        path = " ".join(f"{px(n):.1f},{py(s):.1f}" for n, s in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS.get(ep, "#000")}" stroke-width="2"><title>ep {ep}</title></polyline>')
    return out


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    out, x, eps = [], 0, set()
    for arg in sys.argv[2:]:
        name, file = arg.split("=", 1)
        rows = json.load(open(file))["predicted"]
        rows = [r for r in rows if r["ep"] in COLOURS]
        eps |= {r["ep"] for r in rows}
        out += panel(name, rows, x)
        x += W
    for i, ep in enumerate(sorted(eps)):
        out.append(f'<line x1="{LEFT + i * 96}" y1="{H + 12}" x2="{LEFT + 20 + i * 96}" y2="{H + 12}" stroke="{COLOURS[ep]}" stroke-width="3"/>')
        out.append(f'<text x="{LEFT + 25 + i * 96}" y="{H + 16}">{"replicas" if ep == 1 else f"ep {ep}"}</text>')
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {max(x, LEFT + 96 * len(eps))} {H + 26}" font-family="sans-serif" font-size="11">'
    svg += '<rect width="100%" height="100%" fill="white"/>' + "".join(out) + "</svg>\n"
    with open(sys.argv[1], "w") as f:
        f.write(svg)


main()
