"""The scores that `extra=` names: each is registered here with one line, and everything else follows from that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastia.fields import Array
from fastia.functional import checks
from fastia.metrics import boundary_iou, components, fine_grained, iiou, panoptic, registry
from fastia.metrics.registry import CountedImage, Score, Sums
from fastia.metrics.standard import standard_columns

SCORES: dict[str, Score] = {
    score.name: score
    for score in (panoptic.SCORE, components.SCORE, iiou.SCORE, fine_grained.SCORE, boundary_iou.SCORE)
}

Counts = dict[str, NDArray[np.int64]]  # by name of the sums


def chosen(extra: Sequence[str]) -> tuple[str, ...]:
    """The names in the order of :data:`SCORES`, each once.

    Raises:
        ValueError: a name that is none of them.
    """
    if isinstance(extra, str):
        raise ValueError(f"extra must be a list of names, got the text {extra!r}")
    for name in extra:
        checks.choice("extra", name, tuple(SCORES))
    return tuple(name for name in SCORES if name in extra)


def needs(extra: Iterable[str]) -> dict[str, Sums]:
    """The sums that the named scores need, by name."""
    return {sums.name: sums for name in extra for sums in SCORES[name].needs}


def count(extra: Iterable[str], image: CountedImage) -> Counts:
    """Count one image: int64 ``[C, K]`` for each of the sums that the named scores need."""
    return {name: sums.count(image) for name, sums in needs(extra).items()}


def further_scores(extra: Sequence[str], counts: Mapping[str, Array], tally: Array, confusion: Array) -> dict[str, Any]:
    """The named scores, NaN where there is nothing to average.

    Args:
        extra: names of :data:`SCORES`.
        counts: of :func:`count`, added up over images ``[C, K]``, or kept for each image ``[images, C, K]``.
        tally, confusion: as in :func:`fastia.metrics.scores`.

    Returns:
        Floats, and float64 ``[C]`` for what is per class.
    """
    columns = dict(standard_columns(tally, confusion))
    for name, sums in needs(extra).items():
        table = sums.values(np.asarray(counts[name]))
        table = table if sums.stacked else table[None]  # [images, C, K]
        columns |= {column: table[..., k] for k, column in enumerate(sums.columns)}
    found: dict[str, Any] = {}
    kept = registry.without_stuff(columns, needs(extra).values())
    for name in extra:
        found |= SCORES[name].values(kept)
    return found


def definitions() -> str:
    """What each name of `extra=` stands for, as text.

    Example:
        >>> from fastia.metrics import definitions
        >>> print(definitions().splitlines()[0])
        panoptic: Panoptic quality, and the matches of components and instances that it counts.
    """
    texts = [f"{score.name}: {score.definition}Source: {score.source}\n" for score in SCORES.values()]
    return "\n".join(texts)
