"""What a run shows and records while it trains: progress bar, TensorBoard, tables and curves."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastia.data.files import replacing

Row = dict[str, float | int | str]


class Monitor:
    """Shows and records the rows of a run; in all processes but the first it does nothing.

    Args:
        output: folder of the run.
        iterations: optimizer steps of the whole run.
        active: whether this is the process that prints and writes.
        progress: whether to show a bar, or lines where there is no terminal, on the standard error stream.
        tensorboard: whether to write scalars into ``output``.

    Raises:
        ModuleNotFoundError: rich or tensorboard is not installed.
    """

    def __init__(self, output: Path, iterations: int, *, active: bool, progress: bool, tensorboard: bool) -> None:
        self.output = output
        self.iterations = iterations
        self._active = active
        self._bar: Any = _bar() if active and progress else None
        self._scalars: Any = _summary_writer(output) if active and tensorboard else None
        self._stack = ExitStack()
        self._task: Any = None
        self._printed = 0.0

    def __enter__(self) -> Monitor:
        if self._bar is not None:
            self._stack.enter_context(self._bar)
        if self._scalars is not None:
            self._stack.callback(self._scalars.close)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def show(self, iteration: int, phase: str) -> None:
        """Move the bar."""
        if self._bar is None:
            return
        if self._task is None:
            self._task = self._bar.add_task(
                phase, total=self.iterations, completed=iteration, loss=float("nan"), learning_rate=0.0, speed=0.0
            )
        self._bar.update(self._task, completed=iteration, description=phase)

    def log(self, row: Row) -> None:
        """A row of the history: iteration, phase, loss, penalty, learning_rate, images_per_second."""
        if self._bar is not None:
            self._bar.update(
                self._task, loss=row["loss"], learning_rate=row["learning_rate"], speed=row["images_per_second"]
            )
            if not self._bar.console.is_terminal and time.monotonic() - self._printed > 10:
                self._printed = time.monotonic()
                self.say(
                    f"task {row['phase']}, {row['iteration']}/{self.iterations}: loss {row['loss']:.4f}, penalty "
                    f"{row['penalty']:.3g}, {row['images_per_second']:.1f} images/s"
                )
        self._add_scalars("train", row, ("loss", "penalty", "learning_rate", "images_per_second"))

    def validated(self, row: Row) -> None:
        """Scores at an iteration."""
        self._add_scalars("validation", row, [name for name in row if name != "iteration"])
        self.say(f"validation at {row['iteration']}: {_brief(row)}")

    def say(self, text: str) -> None:
        """Print a line beside the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _add_scalars(self, group: str, row: Row, names: Sequence[str]) -> None:
        if self._scalars is not None:
            for name in names:
                self._scalars.add_scalar(f"{group}/{name}", row[name], row["iteration"])


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write rows as CSV; the file appears complete."""

    if not rows:
        return
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_curves(history: Sequence[Row], validations: Sequence[Row], switch: int, path: Path) -> None:
    """Draw loss, penalty, learning rate and scores over the iterations as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), dpi=110, layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    iterations = [row["iteration"] for row in history]
    titles = {
        "loss": "loss (task A: cross-entropy; task B: as configured)",
        "penalty": "EWC penalty, before lambda",
        "learning_rate": "learning rate",
    }
    for ax, (name, title) in zip(panels.flat, titles.items(), strict=False):
        ax.plot(iterations, [row[name] for row in history], color="#08519c", linewidth=1)
        ax.set_title(title, fontsize=10)
    scores = panels[1, 1]
    for name, colour in _CURVES.items():
        points = [100 * float(row[name]) for row in validations]
        scores.plot([row["iteration"] for row in validations], points, ".-", color=colour, label=name)
    scores.set_title("validation, %", fontsize=10)
    if validations:
        scores.legend(fontsize=8, frameon=False)
    for ax in panels.flat:
        if 0 < switch < max(map(int, iterations), default=0):
            ax.axvline(switch, color="0.6", linewidth=0.8, linestyle="--")
        ax.grid(color="0.92", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("iteration; dashed: the switch from task A to task B", fontsize=9)
    with replacing(path) as partial:
        figure.savefig(partial, format="png")


_CURVES = {
    "miou": "#636363",
    "ia_miou": "#9ecae1",
    "ia_miou_penalized": "#08519c",
    "ia_miou_penalized_small": "#d94801",
}


def _brief(row: Row) -> str:
    return ", ".join(f"{name} {100 * float(row[name]):.1f}" for name in _CURVES)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("task {task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}, lr {task.fields[learning_rate]:.1e}"),
        TextColumn("{task.fields[speed]:.1f} images/s", style="progress.data.speed"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=4,
    )


def _summary_writer(output: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise ValueError("tensorboard is true, but the package is missing: pip install fastia[tensorboard]") from None
    return SummaryWriter(output / "tensorboard")
