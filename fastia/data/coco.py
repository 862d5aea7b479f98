"""Annotation files of COCO and LVIS: read, checked from end to end, and put together image by image."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastia.data.class_maps import ClassMap
from fastia.typing import PathLike

_SHOWN_PROBLEMS = 20
_MARGIN = 1  # pixels that a polygon may reach out of its image: annotation tools round


class AnnotationError(ValueError):
    """Annotations that cannot be converted.

    Attributes:
        problems: one text for each, beginning with the path of its file.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        lines = self.problems[:_SHOWN_PROBLEMS]
        if count > len(lines):
            lines.append(f"and {count - len(lines)} more")
        super().__init__("\n  ".join([f"{count} problems of the annotations:", *lines]) if count > 1 else lines[0])


class Segment(NamedTuple):
    """Where an area of panoptic annotations is: the pixels of a PNG that hold its id."""

    path: str
    segment_id: int


class Region(NamedTuple):
    """An annotated area of an image.

    Attributes:
        annotation: its id in the file.
        class_id: its class; 0: of no class.
        crowd: whether it covers several objects that are not annotated one by one.
        thing: whether it is an object; else it is stuff, such as sky.
        shape: polygons, a run-length encoding of COCO, or a :class:`Segment`.
    """

    annotation: int
    class_id: int
    crowd: bool
    thing: bool
    shape: Any


@dataclass
class Record:
    """An image and what is annotated in it.

    Attributes:
        name: its id in the dataset.
        file_names: where its picture may lie within the folder of images.
        height, width: in pixels.
        regions: the annotated areas of some class; those of no class too where it is not ``exhaustive``.
        panoptic: PNGs whose pixels of id 0 are unlabelled.
        exhaustive: whether no file says that objects of a class were left out.
    """

    name: str
    file_names: list[str]
    height: int
    width: int
    regions: list[Region] = field(default_factory=list)
    panoptic: list[str] = field(default_factory=list)
    exhaustive: bool = True


@dataclass
class _File:
    path: str
    images: dict[Any, dict[str, Any]]
    categories: dict[Any, dict[str, Any]]
    annotations: dict[Any, list[dict[str, Any]]]  # by id of the image; of panoptic files the only one holds segments
    panoptic: bool
    masks: Path


def read_annotations(
    paths: Sequence[PathLike], class_map: ClassMap | None, panoptic_masks: PathLike | None = None
) -> tuple[ClassMap, list[Record], list[str]]:
    """Read annotation files, and put together what they say of each image.

    In each image, a class is read from the first file that has the image and a category of that class.

    Args:
        paths: JSON files of COCO or LVIS instances, or of COCO panoptic segments.
        class_map: which categories make up which class; None: each category is a class of its own.
        panoptic_masks: folder of the PNGs of panoptic files; None: beside the file, named as it without ``.json``.

    Returns:
        The class map, the images in the order of the files, and what a user of them ought to know.

    Raises:
        OSError: a file cannot be read.
        AnnotationError: a file is damaged, or annotations contradict each other.
        ValueError: a class map that does not fit the files.

    Source: https://cocodataset.org/#format-data and https://www.lvisdataset.org/dataset.
    """
    problems: list[str] = []
    files = [_read(os.fspath(path), panoptic_masks, problems) for path in paths]
    known = {category["name"]: None for file in files for category in file.categories.values()}
    if class_map is None:
        class_map = ClassMap({name: [name] for name in known})
    if not known.keys() & class_map.class_ids.keys():
        raise ValueError(f"class map: none of its categories is in {', '.join(file.path for file in files)}")

    covered = [
        {class_map.class_ids.get(category["name"], 0) for category in file.categories.values()} - {0} for file in files
    ]
    records: dict[Any, Record] = {}
    taken: dict[Any, set[int]] = {}  # classes that an earlier file gave, by image
    for file, classes in zip(files, covered, strict=True):
        for image_id, image in file.images.items():
            record = _record(image)
            first = records.setdefault(image_id, record)
            if (first.height, first.width) != (record.height, record.width):
                sizes = f"{record.width}x{record.height} here, {first.width}x{first.height} before"
                problems.append(f"{file.path}: image {image_id}: {sizes}")
                continue
            first.file_names += [name for name in record.file_names if name not in first.file_names]
            own = classes - taken.setdefault(image_id, set())
            taken[image_id] |= own
            problems += _add_regions(first, file, image_id, image, own, class_map)
    problems += _repeated_names(records.values())
    if problems:
        raise AnnotationError(problems)
    return class_map, list(records.values()), _notes(files, class_map, taken, set().union(*covered))


def _notes(files: list[_File], class_map: ClassMap, taken: dict[Any, set[int]], covered: set[int]) -> list[str]:
    notes = []
    absent = [name for class_id, name in enumerate(class_map.classes) if class_id and class_id not in covered]
    if absent:
        notes.append(f"No annotation file has a category of {', '.join(absent)}.")
    for class_id in sorted(covered):
        lacking = sum(class_id not in classes for classes in taken.values())
        if lacking:
            notes.append(f"{class_map.classes[class_id]} is not annotated in {lacking} images: background there.")
    if any("neg_category_ids" in image for file in files for image in file.images.values()):
        notes.append("LVIS looks for some categories only in each image; objects of the others are background.")
    return notes


def _read(path: str, panoptic_masks: PathLike | None, problems: list[str]) -> _File:
    """A file and, added to ``problems``, what is wrong with single annotations, which are left out."""
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AnnotationError([f"{path}: no JSON file: {error}"]) from None
    lists = {}
    for name in ("images", "annotations", "categories"):
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise AnnotationError([f"{path}: needs a list {name!r}, as the files of COCO and LVIS have"])
        lists[name] = entries
    broken: list[str] = []
    images = _by_id(path, "image", lists["images"], ("height", "width"), broken)
    categories = _by_id(path, "category", lists["categories"], ("name",), broken)
    if not lists["images"]:
        broken.append(f"{path}: has no images")
    if broken:
        raise AnnotationError([*problems, *broken])
    panoptic = any("segments_info" in annotation for annotation in lists["annotations"])
    annotations: dict[Any, list[dict[str, Any]]] = {}
    seen: set[Any] = set()
    for number, annotation in enumerate(lists["annotations"], 1):
        name = f"{path}: annotation {annotation.get('id', annotation.get('file_name', f'number {number}'))}"
        image_id = annotation.get("image_id")
        key = image_id if panoptic else annotation.get("id")
        if not (_is_id(key) and _is_id(image_id)):
            problems.append(f"{name}: has no {'id' if _is_id(image_id) else 'image_id'}, a number")
            continue
        if key in seen:
            problems.append(f"{name}: there is more than one of it")
        elif image_id not in images:
            problems.append(f"{name}: its image {image_id} is not among the images")
        elif not panoptic and not _is_among(annotation.get("category_id"), categories):
            problems.append(f"{name}: its category {annotation.get('category_id')} is not among the categories")
        else:
            annotations.setdefault(image_id, []).append(annotation)
        seen.add(key)
    masks = Path(panoptic_masks) if panoptic_masks is not None else Path(path).with_suffix("")
    if panoptic and not masks.is_dir():
        raise AnnotationError([f"{path}: its PNGs are looked for in {masks}: no such folder"])
    return _File(path, images, categories, annotations, panoptic, masks)


def _by_id(
    path: str, kind: str, entries: list[dict[str, Any]], needed: Iterable[str], problems: list[str]
) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    for number, entry in enumerate(entries, 1):
        missing = [name for name in ("id", *needed) if name not in entry]
        if missing:
            problems.append(f"{path}: {kind} {entry.get('id', f'number {number}')}: has no {missing[0]}")
        elif not _is_id(entry["id"]):
            problems.append(f"{path}: {kind} number {number}: id must be a number, got {entry['id']!r}")
        elif entry["id"] in found:
            problems.append(f"{path}: {kind} {entry['id']}: there is more than one of it")
        elif kind == "image" and not all(isinstance(entry[side], int) and entry[side] > 0 for side in needed):
            problems.append(f"{path}: image {entry['id']}: size {entry['width']}x{entry['height']} is no size")
        elif kind == "image" and not re.fullmatch(r"[^\s.]([^\n]*\S)?", _image_name(entry)):
            problems.append(f"{path}: image {entry['id']}: has no usable file_name or coco_url")
        else:
            found[entry["id"]] = entry
    return found


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)


def _is_among(value: Any, entries: dict[Any, dict[str, Any]]) -> bool:
    return _is_id(value) and value in entries


def _record(image: dict[str, Any]) -> Record:
    file_names = [image["file_name"]] if "file_name" in image else []
    if "coco_url" in image:
        file_names.append("/".join(PurePosixPath(image["coco_url"]).parts[-2:]))  # train2017/... or val2017/...
        file_names.append(PurePosixPath(image["coco_url"]).name)
    return Record(_image_name(image), list(dict.fromkeys(file_names)), image["height"], image["width"])


def _image_name(image: dict[str, Any]) -> str:
    """The same for an image of COCO and of LVIS: LVIS 0.5 has other file names, LVIS 1.0 has none."""
    if image.get("coco_url"):
        return PurePosixPath(str(image["coco_url"])).stem
    return os.path.splitext(str(image.get("file_name", "")))[0].replace("/", "_")


def _repeated_names(records: Iterable[Record]) -> Iterator[str]:
    names: set[str] = set()
    for record in records:
        if record.name in names:
            yield f"{record.file_names[0]}: two images would both be named {record.name}"
        names.add(record.name)


def _add_regions(
    record: Record, file: _File, image_id: Any, image: dict[str, Any], own: set[int], class_map: ClassMap
) -> Iterator[str]:
    """Add what a file says of its own classes in an image; yields problems."""
    if not own:
        return
    incomplete = image.get("not_exhaustive_category_ids", ())
    names = [file.categories[key]["name"] for key in incomplete if key in file.categories]
    exhaustive = not any(class_map.class_ids.get(name) in own for name in names)
    record.exhaustive &= exhaustive
    annotations = file.annotations.get(image_id, [])
    if file.panoptic:
        if not annotations:
            yield f"{file.path}: image {image_id}: has no annotation, though the file is a panoptic one"
            return
        path = f"{file.masks / str(annotations[0].get('file_name'))}"
        if not os.path.isfile(path):
            yield f"{path}: missing"
        record.panoptic.append(path)
        segments = annotations[0].get("segments_info")
        if not isinstance(segments, list) or not all(isinstance(each, dict) for each in segments):
            yield f"{file.path}: image {image_id}: needs a list 'segments_info'"
            return
        annotations = segments
    for annotation in annotations:
        known = _is_among(annotation.get("category_id"), file.categories)
        where = f"{file.path}: {'image' if file.panoptic else 'annotation'}"
        where += f" {image_id}: segment {annotation.get('id')}" if file.panoptic else f" {annotation['id']}"
        if not known:
            yield f"{where}: its category {annotation.get('category_id')} is not among the categories"
            continue
        category = file.categories[annotation["category_id"]]
        class_id = class_map.class_ids.get(category["name"], 0)
        if file.panoptic:
            if not isinstance(annotation.get("id"), int):
                yield f"{where}: id must be a number"
                continue
            shape: Any = Segment(path, annotation["id"])
        elif class_id not in own and exhaustive:
            continue
        else:
            shape = annotation.get("segmentation")
            problem = _shape_problem(shape, record.height, record.width)
            if problem:
                yield f"{where}: {problem}"
        kept = class_id if class_id in own else 0
        thing = bool(category.get("isthing", 1))
        record.regions.append(Region(annotation["id"], kept, bool(annotation.get("iscrowd", 0)), thing, shape))


def _shape_problem(shape: Any, height: int, width: int) -> str | None:
    """What is wrong with polygons or a run-length encoding; pycocotools would read some of it as something else."""
    if isinstance(shape, dict):
        if shape.get("size") != [height, width]:
            return f"its mask has the size {shape.get('size')}, its image {[height, width]}"
        counts = _counts(shape.get("counts"))
        if counts is None or min(counts, default=-1) < 0:
            return "its run-length encoding is damaged"
        if sum(counts) != height * width:
            return f"its run-length encoding has {sum(counts)} pixels, its image {height * width}"
        return None
    if not isinstance(shape, list) or not shape:
        return "has no segmentation"
    for polygon in shape:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            return "a polygon must be a list of x and y of three points or more"
        points: NDArray[Any]
        try:
            points = np.asarray(polygon).reshape(-1, 2)
        except ValueError:  # lists of several lengths
            points = np.empty(0, object)
        if points.dtype.kind not in "iuf" or not np.isfinite(points).all():
            return "a polygon holds something that is no number"
        for name, low, high, size in zip("xy", points.min(0), points.max(0), (width, height), strict=True):
            if low < -_MARGIN or high > size + _MARGIN:
                value = low if low < -_MARGIN else high
                return f"a polygon reaches {name} = {value:g}, out of its image of {width}x{height}"
    return None


def _counts(counts: Any) -> list[int] | None:
    """Run lengths; in the compressed form, groups of 5 bits, from the third on as difference to the last but one."""
    if isinstance(counts, list):
        return counts if all(isinstance(count, int) for count in counts) else None
    if not isinstance(counts, str):
        return None
    runs: list[int] = []
    value = shift = 0
    for byte in counts.encode("latin-1", "replace"):
        group = byte - 48
        if not 0 <= group < 64:
            return None
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs
