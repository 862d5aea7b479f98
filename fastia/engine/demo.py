"""`python -m fastia.engine.demo FOLDER`: a small dataset, weights of its pseudo masks, a report of its predictions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import fastia
from fastia.data.png import read_ids
from fastia.data.shapes import make_shapes
from fastia.data.voc import Dataset, palette


def run(folder: Path) -> None:
    """Fill the folder, and print what is in it."""
    dataset = folder / "shapes"
    make_shapes(dataset)
    draw_weights(dataset, folder / "weights.png")
    command = [sys.executable, "-m", "fastia", "evaluate", "--dataset", f"{dataset}", "--split", "all"]
    command += ["--predictions", f"{dataset / 'Predictions'}", "--classes", f"{dataset / 'classes.txt'}"]
    command += ["--json", f"{folder / 'scores.json'}", "--csv", f"{folder / 'instances.csv'}"]
    command += ["--plot", f"{folder / 'scores.png'}", "--report", f"{folder / 'report'}"]
    print(" ".join(["fastia", *command[3:]]), flush=True)
    table = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    (folder / "scores.txt").write_text(table, encoding="utf-8")
    print(table, end="")
    print(f"Wrote {folder / 'scores.txt'}: the table above")
    print(f"Wrote {folder / 'weights.png'}: pseudo masks beside their weights")


def draw_weights(dataset: Path, path: Path, images: int = 4) -> None:
    """Draw some images, their pseudo masks and the weights of those side by side."""
    from matplotlib.figure import Figure
    from PIL import Image

    layout = Dataset(dataset)
    names = layout.ids("all")[:images]
    masks = np.stack([read_ids(dataset / "PseudoMasks" / f"{name}.png") for name in names])
    weights: NDArray[np.float32] = fastia.weights(masks)  # [B, H, W]

    figure = Figure(figsize=(10, 2.6 * images), dpi=100, layout="constrained")
    axes = figure.subplots(images, 3, squeeze=False)
    for row, name, mask, weight in zip(axes, names, masks, weights, strict=True):
        row[0].imshow(Image.open(layout.images / f"{name}.jpg"))
        row[1].imshow(palette()[mask])
        colours = row[2].imshow(weight, vmin=0, vmax=5, cmap="magma", interpolation="nearest")
    for ax, title in zip(axes[0], ("image", "pseudo mask (beige: void)", "fastia.weights of the mask"), strict=True):
        ax.set_title(title)
    for ax in axes.flat:
        ax.set_axis_off()
    figure.colorbar(colours, ax=axes[:, 2], shrink=0.5, label="weight: background 1, void 0, at most 5")
    figure.savefig(path)


if __name__ == "__main__":
    run(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
