"""Pictures of single instances for a page: a piece of the image, and outlines as paths of SVG."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from fastia.data import voc
from fastia.engine.masks import read_masks
from fastia.engine.page.pixels import Instances
from fastia.engine.result import Evaluation

PICTURES = 6  # worst, and as many median instances, of each size
_MARGIN = 0.6  # around an instance, of its longer side
_SMALLEST_MARGIN = 16
_LONGEST_SIDE = 360  # of a picture, in pixels; a page shows no more


@dataclass(frozen=True)
class Picture:
    """One instance; all in pixels of the image.

    Attributes:
        index: place of the instance in :class:`Instances`.
        x, y, width, height: the piece of the image that is shown.
        source: a data URI, or None where the dataset has no such image.
        truth, prediction, others: outlines of the instance, of its class in the prediction, of other predicted classes.
    """

    index: int
    x: int
    y: int
    width: int
    height: int
    source: str | None
    truth: str
    prediction: str
    others: str


def choose(instances: Instances, size: int, count: int = PICTURES) -> tuple[list[int], list[int]]:
    """The worst instances of a size, by IoU and the largest first, and those around the median of the same order."""
    members = np.flatnonzero(instances.size == size)
    order = members[np.lexsort((-instances.area[members], instances.iou[members]))].tolist()
    worst, rest = order[:count], order[count:]
    begin = min(max(len(order) // 2 - count // 2 - count, 0), max(len(rest) - count, 0))
    return worst, rest[begin : begin + count]


def draw(result: Evaluation, instances: Instances, index: int) -> Picture:
    """Cut the piece around an instance out of its image, and outline it.

    Raises:
        OSError, ValueError: a file can no longer be read.
    """
    masks = read_masks(result, int(instances.image[index]))
    truth = masks.ids == instances.instance_id[index]
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    margin = max(int(_MARGIN * longer), _SMALLEST_MARGIN)
    y0, x0 = max(int(rows[0]) - margin, 0), max(int(columns[0]) - margin, 0)
    window = np.s_[y0 : int(rows[-1]) + 1 + margin, x0 : int(columns[-1]) + 1 + margin]
    piece = masks.prediction[window]
    class_id = instances.class_id[index]
    no_class = piece >= len(result.classes)
    if result.background is not None:
        no_class |= piece == result.background
    return Picture(
        index=index,
        x=x0,
        y=y0,
        width=piece.shape[1],
        height=piece.shape[0],
        source=_cut(result, int(instances.image[index]), truth.shape, (x0, y0, *piece.shape[::-1])),
        truth=outline(truth[window].astype(np.uint8), y0, x0),
        prediction=outline((piece == class_id).astype(np.uint8), y0, x0),
        others=outline(np.where(no_class | (piece == class_id), 0, piece.astype(np.int64) + 1), y0, x0),
    )


def outline(ids: NDArray[np.integer], y0: int = 0, x0: int = 0) -> str:
    """The edges of pixels between different ids, as the path of an SVG whose unit is a pixel; none along the border.

    Example:
        >>> import numpy as np
        >>> from fastia.engine.page.pictures import outline
        >>> outline(np.array([[0, 1, 1]]))
        'M1 0v1'
    """
    paths = []
    for command, differs in (("h", ids[1:] != ids[:-1]), ("v", (ids[:, 1:] != ids[:, :-1]).T)):
        steps = np.diff(np.pad(differs.astype(np.int8), ((0, 0), (1, 1))), axis=1)
        line, begin = np.nonzero(steps == 1)
        end = np.nonzero(steps == -1)[1]
        x, y = (begin + x0, line + 1 + y0) if command == "h" else (line + 1 + x0, begin + y0)
        paths += [f"M{a} {b}{command}{c}" for a, b, c in zip(x, y, end - begin, strict=True)]
    return "".join(paths)


def _cut(result: Evaluation, place: int, shape: tuple[int, ...], box: tuple[int, int, int, int]) -> str | None:
    from PIL import Image

    path = voc.Dataset(result.dataset).images / f"{result.images[place]}.jpg"
    if not path.is_file():
        return None
    x, y, width, height = box
    try:
        with Image.open(path) as image:
            if image.size != shape[::-1]:
                return None  # an image of another size than its masks shows another place
            picture = image.convert("RGB").crop((x, y, x + width, y + height))
    except OSError as error:
        raise OSError(f"{path}: {error}") from None
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = BytesIO()
    picture.save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
