"""Turns what the benches measured, bench/results/*.json, into the tables of bench/results/cpu.md."""

import json
import statistics
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
INTRODUCTION = """\
Medians in ns per pixel. "x floor": how many times slower than the floor of that row; "x best peer": how many times
faster than the fastest other library, on one thread (below 1: slower). The floor of `label` and `weights` fills a warm
buffer of the result's size, that of `instance_iou` copies its three inputs. Peers and floor run on one thread. Results
are freshly allocated on both sides, and before anything is timed every peer's answer is compared with fastia's.

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
    cost, pixels = {}, {}
    for benchmark in benchmarks:
        info = benchmark["extra_info"]
        median = statistics.median(benchmark["stats"]["data"])
        cost[info["scene"], info["threads"], info["who"]] = median / info["pixels"] * 1e9
        pixels[info["scene"]] = info["pixels"] / info["images"]
    peers = list(dict.fromkeys(who for _, _, who in cost if who not in ("fastia", "floor")))
    header = ["scene", "threads", "fastia", "ms an image", "x floor", "x best peer", "x one thread", "floor", *peers]
    yield row_text(header)
    yield row_text(["---", *["---:"] * (len(header) - 1)])
    for scene, threads in sorted({key[:2] for key in cost}, key=lambda key: (list(pixels).index(key[0]), key[1])):
        ours, floor = cost[scene, threads, "fastia"], cost[scene, 1, "floor"]
        others = [cost.get((scene, 1, peer)) for peer in peers]
        best = min(filter(None, others), default=None)
        speed = ["", ratio(cost[scene, 1, "fastia"], ours)] if threads > 1 else [ratio(best, ours) if best else "", ""]
        cells = [scene, str(threads), f"{ours:.2f}", f"{ours * pixels[scene] / 1e6:.3f}", ratio(ours, floor), *speed]
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


def evaluate_report(results):
    """The rows of bench_evaluate.py, and where the time goes."""
    yield f"\n## fastia evaluate\n\n{results['images']} images of {results['dataset']} from folders, without imports.\n"
    yield from (row_text(["", "threads", "ms an image"]), row_text(["---", "---:", "---:"]))
    for row in results["rows"]:
        yield row_text([row["name"], str(row["jobs"]), f"{row['ms_per_image']:.3f}"])
    yield "\nWhere the time goes, wacv2024, one thread:\n"
    yield from (row_text(["", "ms an image"]), row_text(["---", "---:"]))
    for part in results["parts"]:
        yield row_text([part["name"], f"{part['ms_per_image']:.3f}"])


def loss_table(results):
    """What bench_loss.py measured, a row for each case."""
    yield "\n## size_weighted_cross_entropy (forward + backward) and upsample_argmax\n"
    machine = results["machine"]
    yield f"One thread, {machine['instruction_set']}, torch {machine['torch']}. Logits [B, C, h, h],"
    yield "target [B, H, H] int64, weights given; ns per class and pixel of the target. Eager is `F.interpolate` and"
    yield "`F.cross_entropy` (or `argmax`), compile `torch.compile` of it; memory is the peak beyond what was in use.\n"
    found = {(row["operation"], tuple(row["shape"]), row["dtype"], row["who"]): row for row in results["rows"]}
    who = list(dict.fromkeys(row["who"] for row in results["rows"]))
    cases = list(dict.fromkeys(key[:3] for key in found))
    peers = [name for name in who if name != "fastia"]
    header = ["operation", "B, C, h, H", "dtype", *(f"{name} ns" for name in who), *(f"x {name}" for name in peers)]
    header += [*(f"{name} MB" for name in who), *(f"memory / {name}" for name in peers)]
    yield row_text(header)
    yield row_text(["---", "---", "---", *["---:"] * (len(header) - 3)])
    for operation, shape, dtype in cases:
        rows = [found.get((operation, shape, dtype, name)) for name in who]
        ours, others = rows[0], rows[1:]
        cells = [operation, ", ".join(map(str, shape)), dtype]
        cells += [f"{row['ns_per_class_pixel']:.3f}" if row else "" for row in rows]
        cells += [ratio(row["seconds"], ours["seconds"]) if row else "" for row in others]
        cells += [f"{row['peak_bytes'] / 1e6:.1f}" if row and row["peak_bytes"] else "" for row in rows]
        cells += [
            f"1/{ratio(row['peak_bytes'], ours['peak_bytes'])}" if row and row["peak_bytes"] else "" for row in others
        ]
        yield row_text(cells)


def training_table(results):
    """What bench_training.py measured, a row for each network."""
    machine = results["machine"]
    yield "\n## A training iteration\n"
    yield f"DeepLabV2 at scales 1, 0.75, 0.5 and their maximum, {machine['threads']} threads, torch {machine['torch']}:"
    yield "forward, loss, backward, SGD; ms an iteration, and medians of the ratios within a round. Eager is"
    yield "`F.interpolate` and `F.cross_entropy`; penalty is `EWC.add_penalty_gradient_`, observe `EWC.observe`. The"
    yield "losses are forward and backward on the network's outputs, `size weights` the difference of the fused two:"
    yield "whole steps vary by more.\n"
    first = results["rows"][0]
    header = ["backbone", "parameters", "batch, side", *first["seconds"], *first["ratios"]]
    yield row_text(header)
    yield row_text(["---", *["---:"] * (len(header) - 1)])
    for row in results["rows"]:
        cells = [row["backbone"], f"{row['parameters'] / 1e6:.2f} M", f"{row['batch']}, {row['side']}"]
        cells += [f"{1e3 * seconds:.1f}" for seconds in row["seconds"].values()]
        yield row_text([*cells, *(f"{ratio:.3f}" for ratio in row["ratios"].values())])


if __name__ == "__main__":
    lines = list(report(json.loads((RESULTS / "cpu.json").read_text())))
    evaluate = RESULTS / "evaluate.json"
    if evaluate.exists():
        lines += evaluate_report(json.loads(evaluate.read_text()))
    loss = RESULTS / "loss.json"
    if loss.exists():
        lines += loss_table(json.loads(loss.read_text()))
    training = RESULTS / "training.json"
    if training.exists():
        lines += training_table(json.loads(training.read_text()))
    (RESULTS / "cpu.md").write_text("\n".join(lines) + "\n")
