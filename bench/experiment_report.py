"""The tables of docs/experiment.md, all that follows its marker, and its plot, from the runs of experiment.py."""

import json
import subprocess
from pathlib import Path

import numpy as np
from experiment_plan import (
    ARMS,
    ENDPOINT,
    MAIN,
    NOISES,
    SEEDS,
    planned,
    run_name,
)
from matplotlib.figure import Figure
from scipy import stats

from fastia.engine.inference import holm

DOCS = Path(__file__).parents[1] / "docs"
MARKER = "<!-- written by bench/experiment_report.py from here on -->\n"
SHOWN = {
    "miou": "mIoU",
    "ia_miou": "IA",
    "ia_miou_small": "IA small",
    ENDPOINT: "penalized small",
    "ia_miou_medium": "IA medium",
    "ia_miou_large": "IA large",
    "ia_miou_penalized": "penalized",
    "false_small": "small false positives an image",
}
CONTROLLED = [
    ("size-weighted", "weights permuted"),
    ("two-phase + EWC", "two-phase + EWC, F shuffled"),
    ("two-phase + EWC", "two-phase + L2 to theta_A"),
]
PRIMARY = [("two-phase + EWC", "cross-entropy"), ("two-phase + EWC", "two-phase, lambda 0")]


def load(root, name, noise=1.0):
    """Scores in per cent of the finished runs of an arm, by seed."""
    found = {}
    for _, seed, _, options in planned(root, [name], SEEDS, [noise]):
        folder = root / "runs" / run_name(name, seed, noise, options)
        if not (folder / "result.json").exists() or not (folder / "scores.json").exists():
            continue
        result = json.loads((folder / "scores.json").read_text())
        scores = {key: 100 * value for key, value in result["scores"].items() if value is not None}
        areas = [area for image in result["images"] for _, area in image["unmatched"]]
        scores["false_small"] = sum(area < 32**2 for area in areas) / len(result["images"])
        shares = json.loads((folder / "result.json").read_text())["loss_shares"]
        scores |= {f"share_{size}": 100 * share for size, share in shares.items()}
        found[seed] = scores
    return found


def paired(first, second, score):
    """Differences over the seeds that both have, their mean, 95 % interval and p (paired t)."""
    seeds = sorted(first.keys() & second.keys())
    if len(seeds) < 3:
        return None
    differences = np.array([first[seed][score] - second[seed][score] for seed in seeds])
    half = stats.t.ppf(0.975, len(seeds) - 1) * differences.std(ddof=1) / len(seeds) ** 0.5
    return len(seeds), differences.mean(), half, stats.ttest_1samp(differences, 0).pvalue


def difference_table(rows, data, score):
    """Rows (first, second) as Markdown, p-values adjusted by Holm over all of them."""
    results = [paired(data[first], data[second], score) for first, second in rows]
    adjusted = iter(holm([each[3] for each in results if each]))
    yield "| difference | seeds | mean | 95 % interval | p | p, Holm |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for (first, second), each in zip(rows, results, strict=True):
        if each is None:
            yield f"| {first} minus {second} | not run | | | | |"
            continue
        count, mean, half, p = each
        yield (
            f"| {first} minus {second} | {count} | {mean:+.2f} | {mean - half:+.2f} to {mean + half:+.2f}"
            f" | {p:.3f} | {next(adjusted):.3f} |"
        )


def mean_text(runs, score):
    values = [scores[score] for scores in runs.values() if score in scores]
    if not values:
        return ""
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def plot(data, path):
    """Each arm's scores of small objects, a dot per seed and a bar at their mean."""
    figure = Figure(figsize=(9, 0.45 * len(data) + 1.2), dpi=120, layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for ax, score in zip(axes, ("ia_miou_small", ENDPOINT, "miou"), strict=True):
        for place, runs in enumerate(data.values()):
            values = [scores[score] for scores in runs.values()]
            if values:
                ax.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.5, markersize=4)
                ax.plot([np.mean(values)], [place], "|", color="black", markersize=14)
        ax.set_xlabel(f"{SHOWN[score]}, %")
        ax.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(data)), list(data))
    axes[0].invert_yaxis()
    figure.savefig(path)


def write(root):
    """Write the page and the plot."""
    tuned = json.loads((root / "tuned.json").read_text())
    names = [name for name in ARMS if name in tuned["chosen"]]
    data = {name: load(root, name) for name in names}
    data = {name: runs for name, runs in data.items() if runs}
    plot(data, DOCS / "experiment.png")
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
    lines = [f"Runs of `make experiment` at commit {commit}. Scores are in per cent, protocol `wacv2024`.", ""]
    lines += ["## Endpoint", "", "Penalized IA-IoU of small objects; paired t over seeds.", ""]
    lines += difference_table(PRIMARY, data, ENDPOINT)
    lines += [
        "",
        "## All arms",
        "",
        "Mean and standard deviation over seeds. False positives are predicted components of less",
    ]
    lines += ["than 32 x 32 pixels that meet no instance of their class.", ""]
    lines += ["| arm | rate | lambda | seeds | " + " | ".join(SHOWN.values()) + " |"]
    lines += ["| --- | ---: | ---: | ---: |" + " ---: |" * len(SHOWN)]
    for name in ARMS:
        runs, options = data.get(name, {}), tuned["chosen"].get(name, {})
        cells = [name, options.get("learning_rate", ""), options.get("ewc_lambda", ""), len(runs) or "not run"]
        lines.append("| " + " | ".join(map(str, [*cells, *(mean_text(runs, score) for score in SHOWN)])) + " |")
    others = [(name, "cross-entropy") for name in data if name != "cross-entropy"]
    lines += ["", "![scores by arm](experiment.png)", "", "### Penalized IA of small objects", ""]
    lines += difference_table(others, data, ENDPOINT)
    lines += ["", "### IA of small objects", "", *difference_table(others, data, "ia_miou_small")]
    lines += ["", "### mIoU", "", *difference_table(others, data, "miou")]
    held = [pair for pair in CONTROLLED if set(pair) <= data.keys()]
    for score in ("ia_miou_small", ENDPOINT):
        lines += ["", f"### Against controls: {SHOWN[score]}", "", *difference_table(held, data, score)]
    sizes = ("background", "small", "medium", "large")
    lines += [
        "",
        "## Share of the loss",
        "",
        "Of the plain cross-entropy on the exact masks after training, in per cent.",
        "",
    ]
    lines += ["| arm | " + " | ".join(sizes) + " |", "| --- |" + " ---: |" * len(sizes)]
    lines += [
        f"| {name} | " + " | ".join(mean_text(runs, f"share_{size}") for size in sizes) + " |"
        for name, runs in data.items()
    ]
    lines += [
        "",
        "## Noise of the pseudo masks",
        "",
        "1 is the noise of all that stands above; options are those tuned there.",
        "",
    ]
    lines += [
        "| noise | arm | seeds | " + " | ".join(SHOWN.values()) + " |",
        "| ---: | --- | ---: |" + " ---: |" * len(SHOWN),
    ]
    for noise in NOISES:
        for name in MAIN:
            runs = load(root, name, noise)
            cells = [noise, name, len(runs) or "not run", *(mean_text(runs, score) for score in SHOWN)]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [
        "",
        "## Tuning",
        "",
        "Mean endpoint on the tuning seeds, per cent.",
        "",
        "| arm | rate | lambda | endpoint |",
    ]
    lines += ["| --- | ---: | ---: | ---: |"]
    for name, tried in tuned["tried"].items():
        for each in tried:
            lines.append(
                f"| {name} | {each['learning_rate']} | {each.get('ewc_lambda', '')} | {100 * each['endpoint']:.2f} |"
            )
    page = DOCS / "experiment.md"
    prose, marker, _ = page.read_text().partition(MARKER)
    if not marker:
        raise SystemExit(f"{page} lacks the line {MARKER}")
    partial = DOCS / ".experiment.md.partial"
    partial.write_text(prose + marker + "\n" + "\n".join(lines) + "\n")
    partial.replace(page)
