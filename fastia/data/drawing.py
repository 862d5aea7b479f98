"""Annotated areas of an image drawn as a map of classes and a map of instances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastia.data.coco import Record, Region, Segment
from fastia.data.png import Ids

_CLASSLESS, _STUFF, _CROWD, _THING = range(4)  # each is drawn over those before it


def draw(record: Record, void: int = 255) -> tuple[Ids, Ids, list[list[int]]]:
    """Draw the annotated areas of an image.

    Args:
        record: the image.
        void: id of void pixels in both maps, 255 or 65535.

    Returns:
        Class ids and instance ids ``[H, W]``, uint8 or uint16; and per object, in the order of annotations, the ids
        of annotation, instance (0: hidden) and class, and its area in pixels before and after overlap.

    Raises:
        ValueError: a PNG of panoptic segments that is missing, damaged, or does not fit the annotations.
    """
    from pycocotools import mask as coco_mask

    regions, size = record.regions, (record.height, record.width)
    segments = {path: _read_segments(path, size) for path in record.panoptic}
    _check_segments(segments, regions)
    shapes = [None if isinstance(r.shape, Segment) else _encode(r.shape, size) for r in regions]
    areas = [
        int(np.count_nonzero(segments[region.shape.path] == region.shape.segment_id))
        if isinstance(region.shape, Segment)
        else int(coco_mask.area(shape))
        for region, shape in zip(regions, shapes, strict=True)
    ]
    layers = [_layer(region) for region in regions]
    numbers = np.zeros(size, np.int64, order="F")  # of the region on top, from 1; as pycocotools lays its masks out
    for i in sorted(range(len(regions)), key=lambda i: (layers[i], -areas[i], i)):
        shape = regions[i].shape
        covered = (
            segments[shape.path] == shape.segment_id if isinstance(shape, Segment) else coco_mask.decode(shapes[i])
        )
        numbers[covered.view(bool)] = i + 1
    unlabelled = len(regions) + 1
    for ids in segments.values():
        numbers[(numbers == 0) & (ids == 0)] = unlabelled

    visible = np.bincount(numbers.ravel(order="K"), minlength=unlabelled + 1).tolist()
    class_ids, instance_ids, rows = [0 if record.exhaustive else void], [0 if record.exhaustive else void], []
    free = iter(i for i in range(1, 65536) if i != void)
    for region, layer, area, seen in zip(regions, layers, areas, visible[1:-1], strict=True):
        instance = 0
        if region.class_id and layer == _THING:
            instance = next(free) if seen else 0
            rows.append([region.annotation, instance, region.class_id, area, seen])
        is_void = region.class_id and layer == _CROWD
        class_ids.append(void if is_void else region.class_id)
        instance_ids.append(void if is_void else instance)
    kind = np.uint8 if void == 255 else np.uint16
    instance_kind = np.uint16 if max(instance_ids) > 255 else kind
    numbers = np.ascontiguousarray(numbers)
    return (
        np.array([*class_ids, void], kind)[numbers],
        np.array([*instance_ids, void], instance_kind)[numbers],
        rows,
    )


def _layer(region: Region) -> int:
    if region.class_id == 0:
        return _CLASSLESS
    return _CROWD if region.crowd else _THING if region.thing else _STUFF


def _encode(shape: Any, size: tuple[int, int]) -> Any:
    """The run-length encoding that pycocotools works with, of polygons or of either form of encoding."""
    from pycocotools import mask as coco_mask

    if isinstance(shape, list):
        return coco_mask.merge(coco_mask.frPyObjects(shape, *size))
    return coco_mask.frPyObjects(shape, *size) if isinstance(shape["counts"], list) else shape


def _read_segments(path: str, size: tuple[int, int]) -> NDArray[np.int64]:
    """Ids of the segments that a panoptic PNG holds as colours: red + 256 green + 65536 blue."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            colours = np.asarray(image.convert("RGB"), np.int64)
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, zlib.error, its own and more
        raise ValueError(f"{path}: {error}") from None
    if colours.shape[:2] != size:
        shown = f"{colours.shape[1]}x{colours.shape[0]}"
        raise ValueError(f"{path}: size {shown} differs from {size[1]}x{size[0]} of the annotations")
    return np.asfortranarray(colours @ np.array([1, 256, 65536]))


def _check_segments(segments: dict[str, NDArray[np.int64]], regions: list[Region]) -> None:
    for path, ids in segments.items():
        known = [r.shape.segment_id for r in regions if isinstance(r.shape, Segment) and r.shape.path == path]
        foreign = np.setdiff1d(ids, [0, *known])
        if foreign.size:
            raise ValueError(f"{path}: segment {foreign[0]} is not in the annotations")
