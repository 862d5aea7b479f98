"""Turns what the benches measured, bench/results/*.json, into the tables of bench/results/cpu.md."""

import json
import statistics
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
INTRODUCTION = """\
Medians in ns per pixel. "x floor": how many times slower than the floor of that row; "x best peer": how many times
faster than the fastest other library (below 1: slower). The floor of `label` and `weights` fills a warm buffer of the
result's size, that of `instance_iou` copies its three inputs. Peers and floor run on one thread. Results are freshly
allocated on both sides, and before anything is timed every peer's answer is compared with fastia's.

Scenes are 16 x 513 x 513 uint8 unless named otherwise (bench/masks.py): `masks` many objects of 21 classes, `sparse` a
few objects, `noisy` 5 % random pixels, `white` all random, `giant` one component full of holes, `spiral` one winding
component; `coco100` are 100 real images, one a call.
"""


def row_text(cells):
    return "| " + " | ".join(cells) + " |"


def ratio(numerator, denominator):
    return f"{numerator / denominator:.1f}"


def table(benchmarks):
    """Rows by scene and threads of one operation's benchmarks, a column for each implementation."""
    cost = {}
    for benchmark in benchmarks:
        info = benchmark["extra_info"]
        key = (info["scene"], info["threads"], info["who"])
        cost[key] = statistics.median(benchmark["stats"]["data"]) / info["pixels"] * 1e9
    peers = list(dict.fromkeys(who for _, _, who in cost if who not in ("fastia", "floor")))
    yield row_text(["scene", "threads", "fastia", "x floor", "x best peer", "floor", *peers])
    yield row_text(["---", *["---:"] * (5 + len(peers))])
    for scene, threads, who in cost:
        if who != "fastia":
            continue
        ours, floor = cost[scene, threads, who], cost[scene, 1, "floor"]
        others = [cost.get((scene, 1, peer)) for peer in peers]
        best = min(filter(None, others), default=None) if threads == 1 else None
        cells = [scene, str(threads), f"{ours:.2f}", ratio(ours, floor), ratio(best, ours) if best else ""]
        yield row_text([*cells, f"{floor:.2f}", *(f"{other:.1f}" if other else "" for other in others)])


def report(results):
    machine, commit = results["machine_info"], results["commit_info"]
    state = " with uncommitted changes" if commit["dirty"] else ""
    yield f"# fastia on a CPU\n\n{INTRODUCTION}"
    yield f"- processor: {machine['cpu']['brand_raw']}, {machine['threads']} threads, {machine['instruction_set']}"
    yield f"- commit: {commit['id'][:12]}{state}, {results['datetime'][:10]}"
    versions = {"Python": machine["python_version"], **machine["versions"]}
    yield "- versions: " + ", ".join(f"{name} {version}" for name, version in versions.items())
    for operation in dict.fromkeys(benchmark["extra_info"]["operation"] for benchmark in results["benchmarks"]):
        chosen = [benchmark for benchmark in results["benchmarks"] if benchmark["extra_info"]["operation"] == operation]
        yield f"\n## {operation}\n"
        yield from table(chosen)


if __name__ == "__main__":
    lines = report(json.loads((RESULTS / "cpu.json").read_text()))
    (RESULTS / "cpu.md").write_text("\n".join(lines) + "\n")
