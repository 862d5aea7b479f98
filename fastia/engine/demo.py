"""`python -m fastia.engine.demo FOLDER`: a small dataset, weights of its pseudo masks, training, a report."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastia.data.png import read_ids
from fastia.data.shapes import make_shapes
from fastia.data.voc import Dataset, palette
from fastia.functional import weights


def run(folder: Path) -> None:
    """Fill the folder, and print what is in it."""
    dataset, trained = folder / "shapes", folder / "run"
    make_shapes(dataset, 90)
    draw_weights(dataset, folder / "weights.png")
    shutil.rmtree(trained, ignore_errors=True)
    _command(["train", "--config", "shapes", f"dataset={dataset}", f"output={trained}"])
    command = ["evaluate", "--dataset", f"{dataset}", "--predictions", f"{trained / 'predictions'}"]
    command += ["--protocol", "exact", "--json", f"{folder / 'scores.json'}"]
    command += ["--csv", f"{folder / 'instances.csv'}"]
    command += ["--plot", f"{folder / 'scores.png'}", "--report", f"{folder / 'report'}"]
    _command(command)
    print(f"{folder / 'report' / 'index.html'}: charts, tables and pictures")
    print(f"{folder / 'weights.png'}: pseudo masks beside their weights")
    print(f"{trained / 'curves.png'}: loss, penalty, learning rate and scores while training")


def draw_weights(dataset: Path, path: Path, images: int = 4) -> None:
    """Draw some images, their pseudo masks and the weights of those side by side."""
    from matplotlib.figure import Figure
    from PIL import Image

    layout = Dataset(dataset)
    names = layout.ids("all")[:images]
    masks = np.stack([read_ids(dataset / "PseudoMasks" / f"{name}.png") for name in names])
    mask_weights: NDArray[np.float32] = weights(masks)  # [B, H, W]

    figure = Figure(figsize=(10, 2.6 * images), dpi=100, layout="constrained")
    axes = figure.subplots(images, 3, squeeze=False)
    for row, name, mask, weight in zip(axes, names, masks, mask_weights, strict=True):
        row[0].imshow(Image.open(layout.images / f"{name}.jpg"))
        row[1].imshow(palette()[mask])
        colours = row[2].imshow(weight, vmin=0, vmax=5, cmap="magma", interpolation="nearest")
    for ax, title in zip(axes[0], ("image", "pseudo mask (beige: void)", "fastia.weights of the mask"), strict=True):
        ax.set_title(title)
    for ax in axes.flat:
        ax.set_axis_off()
    figure.colorbar(colours, ax=axes[:, 2], shrink=0.5, label="weight: background 1, void 0, at most 5")
    figure.savefig(path)


def _command(arguments: list[str]) -> None:
    print(" ".join(["\nfastia", *arguments]), flush=True)
    subprocess.run([sys.executable, "-m", "fastia", *arguments], check=True)


if __name__ == "__main__":
    run(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
