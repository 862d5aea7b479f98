"""One page, for a browser, that shows an evaluation: charts, sortable tables, and pictures of the worst instances."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from fastia._version import __version__
from fastia.data.threads import in_threads
from fastia.engine.page.pixels import Instances, read_instances
from fastia.engine.result import Evaluation
from fastia.metrics.registry import SIZE_BOUNDS, SIZE_NAMES
from fastia.typing import PathLike

try:
    import jinja2
    import plotly.io
    import plotly.offline
    from markupsafe import Markup
except ModuleNotFoundError as error:
    text = f"no module {error.name}: the report needs more packages: pip install fastia[cli,report]"
    raise ModuleNotFoundError(text, name=error.name) from None

from fastia.engine.page import charts, pictures

_CONFUSIONS = 100  # rows of the table of confusions
_SIZES = ("", *(f"_{size}" for size in SIZE_NAMES))
_FOLDER = Path(__file__).parent


def write_page(result: Evaluation, path: PathLike) -> None:
    """Write the page, a single HTML file that loads nothing else.

    Reads the files of the evaluation again. ``fastia.evaluate_directory(..., report=folder)`` writes it as
    ``index.html``, under a temporary name first.

    Args:
        result: an evaluation.
        path: where to write; its folder is made where it does not exist.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: a file of the evaluation is no longer what it was.
        ModuleNotFoundError: the page needs ``pip install fastia[cli,report]``.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import fastia
        >>> from fastia.data.shapes import make_shapes
        >>> from fastia.engine.page import write_page
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_shapes(folder, images=3)
        ...     classes = f"{folder}/classes.txt"
        ...     result = fastia.evaluate_directory(folder, "all", f"{folder}/Predictions", classes=classes)
        ...     write_page(result, f"{folder}/page.html")
        ...     Path(f"{folder}/page.html").read_text()[:15]
        '<!doctype html>'
    """
    instances = read_instances(result)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    text = environment.get_template("page.html").render(
        result=result,
        version=__version__,
        sizes=_SIZES,
        size_names=SIZE_NAMES,
        side=[math.isqrt(bound) for bound in SIZE_BOUNDS],
        groups=charts.GROUPS,
        classes=[(name, row) for name, row in result.per_class.items()],
        confusions=_confusions(instances, result.classes),
        most_classes=charts.MOST_CLASSES,
        gallery=_gallery(result, instances),
        instances=instances,
        class_ids=np.unique(instances.class_id).tolist(),
        predicted=[*result.classes, "no class"],
        figures=_figures(result, instances),
        data=_data(result, instances),
        style=_source("page.css"),
        script=_source("page.js"),
        plotly=Markup(plotly.offline.get_plotlyjs()),
    )
    path = Path(path)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _figures(result: Evaluation, instances: Instances) -> dict[str, Any]:
    """Figures by the id of their place in the page."""
    figures = {
        "scores-chart": charts.scores_chart(result),
        "classes-chart": charts.classes_chart(result),
        "area-chart": charts.area_chart(),
        "confusion-chart": charts.confusion_chart(instances.confusion, result.classes),
    }
    return {name: json.loads(plotly.io.to_json(charts.plain_json(each))) for name, each in figures.items()}


def _data(result: Evaluation, instances: Instances) -> dict[str, Any]:
    """Every instance, a list per column, for the script."""
    return {
        "images": result.images,
        "classes": [*result.classes, "no class"],
        "sizes": list(SIZE_NAMES),
        "image": instances.image.tolist(),
        "class": instances.class_id.tolist(),
        "instance": instances.instance_id.tolist(),
        "area": instances.area.tolist(),
        "size": instances.size.tolist(),
        "iou": np.round(instances.iou, 4).tolist(),
        "predicted": instances.predicted.tolist(),
        "share": np.round(instances.share, 3).tolist(),
    }


def _confusions(instances: Instances, classes: list[str]) -> list[tuple[str, str, str, int, float]]:
    """The largest confusions: size, class, predicted class, pixels, share of the pixels of this size and class."""
    wrong = instances.confusion.copy()
    ids = np.arange(len(classes))
    wrong[:, ids, ids] = 0
    largest = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    rows = []
    for size, true, predicted in zip(*np.unravel_index(largest, wrong.shape), strict=True):
        pixels = int(wrong[size, true, predicted])
        if pixels:
            share = pixels / instances.confusion[size, true].sum()
            rows.append((SIZE_NAMES[size], classes[true], [*classes, "no class"][predicted], pixels, share))
    return rows


def _gallery(result: Evaluation, instances: Instances) -> list[tuple[str, str, list[pictures.Picture]]]:
    """Pictures by size and kind."""
    chosen = []
    for place, size in enumerate(SIZE_NAMES):
        worst, median = pictures.choose(instances, place)
        chosen += [(size, "worst", worst), (size, "median", median)]
    indices = [index for _, _, group in chosen for index in group]
    drawn = in_threads(lambda index: pictures.draw(result, instances, index), indices)
    return [(size, kind, [next(drawn) for _ in group]) for size, kind, group in chosen]


def _source(name: str) -> Any:
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
