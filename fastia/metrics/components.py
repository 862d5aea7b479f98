"""F1, precision and recall of predicted components, by size.

`component_f1`, `component_precision`, `component_recall`, also `_small`, `_medium` and `_large`: of the matches of
`panoptic`; a true positive and a missed instance count in the size of the instance, a false positive in its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastia.metrics.panoptic import MATCHES
from fastia.metrics.registry import EVERY_SIZE, Ratio, Score


def _ratios(suffix: str, sizes: Sequence[str]) -> dict[str, Ratio]:
    found, false, wanted = ([f"{kind}_{size}" for size in sizes] for kind in ("matched", "false", "count"))
    predicted, both = [*found, *false], [*found, *false, *wanted]
    return {
        f"component_f1{suffix}": Ratio(dict.fromkeys(found, 2), dict.fromkeys(both, 1), both),
        f"component_precision{suffix}": Ratio(dict.fromkeys(found, 1), dict.fromkeys(predicted, 1), predicted),
        f"component_recall{suffix}": Ratio(dict.fromkeys(found, 1), dict.fromkeys(wanted, 1), wanted),
    }


SCORE = Score(
    "components",
    needs=(MATCHES,),
    definition=__doc__,
    source="the lesion-wise detection scores of medical imaging, and COCO's sizes.",
    ratios={name: ratio for suffix, sizes in EVERY_SIZE.items() for name, ratio in _ratios(suffix, sizes).items()},
)
