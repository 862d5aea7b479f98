"""What is wrong with the files of a dataset: reported for all of them at once, not raised at the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fastia.data.png import Ids, read_ids


class FileProblems(ValueError):
    """Files that cannot be used.

    Attributes:
        problems: one text for each offending file, beginning with its path.
    """

    def __init__(self, problems: Sequence[str], purpose: str) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        super().__init__(
            "\n  ".join([f"{count} {'file' if count == 1 else 'files'} cannot be {purpose}:", *self.problems])
        )


def read_or_report(path: str, problems: list[str]) -> Ids | None:
    """The ids of a PNG, or None and what is wrong with it."""
    try:
        return read_ids(path)
    except (OSError, ValueError) as error:
        problems.append(describe(path, error))
    return None


def read_masks(paths: Mapping[str, str], problems: list[str]) -> dict[str, Ids | None]:
    """The masks of one image by the names of their paths, of which ``target`` is one; None where one cannot be read.

    What is wrong with them, another size than that of the target too, is added to ``problems``.
    """
    masks = {name: read_or_report(path, problems) for name, path in paths.items()}
    target = masks["target"]
    for name, ids in masks.items():
        if target is not None and ids is not None and ids.shape != target.shape:
            sizes = f"size {size_text(ids.shape)} differs from {size_text(target.shape)}"
            problems.append(f"{paths[name]}: {sizes} of {paths['target']}")
    return masks


def describe(path: str, error: OSError | ValueError) -> str:
    """An error of reading a file as a text that begins with its path."""
    if isinstance(error, FileNotFoundError):
        return f"{path}: missing"
    return f"{path}: {error.strerror or error}" if isinstance(error, OSError) else str(error)


def foreign_ids(path: str, ids: Ids | None, num_classes: int, ignore_index: int | None) -> list[str]:
    """What is wrong with ids that are neither classes nor ignored, if any are."""
    if ids is None or ids.max(initial=0) < num_classes:
        return []
    foreign = ids[ids >= num_classes]
    if ignore_index is not None:
        foreign = foreign[foreign != ignore_index]
    if not foreign.size:
        return []
    values = np.unique(foreign)
    shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    ignored = "" if ignore_index is None else f" and ignore_index {ignore_index}"
    return [
        f"{path}: {'id' if len(values) == 1 else 'ids'} {shown} in {foreign.size} pixels;"
        f" allowed are the {num_classes} classes 0..{num_classes - 1}{ignored}"
    ]


def size_text(shape: tuple[int, ...]) -> str:
    """Width x height of a shape ``[H, W]``."""
    return f"{shape[1]}x{shape[0]}"
