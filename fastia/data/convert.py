"""Annotations of COCO and LVIS as a dataset in PASCAL VOC layout."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastia._version import __version__
from fastia.data import voc
from fastia.data.class_maps import ClassMap, read_class_map, voc_map
from fastia.data.coco import AnnotationError, Record, read_annotations
from fastia.data.drawing import draw
from fastia.data.files import write_lines
from fastia.data.png import write_ids
from fastia.data.threads import cores
from fastia.functional import checks
from fastia.progress import progress_bar
from fastia.typing import PathLike

_FOLDERS = ("SegmentationClass", "SegmentationObject", "JPEGImages")


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert_coco` returns.

    Attributes:
        images: names of the images.
        classes: names of the classes, the background first.
        void: id of void pixels: 255, or 65535 where there are more than 255 classes.
        instances: number of instances that can be seen.
        notes: what a user of the dataset ought to know.
    """

    images: list[str]
    classes: list[str]
    void: int
    instances: int
    notes: list[str]


def convert_coco(
    annotations: PathLike | Sequence[PathLike],
    root: PathLike,
    split: str = "val",
    *,
    class_map: PathLike | ClassMap | Literal["voc", "categories"] = "voc",
    images: PathLike | None = None,
    link: bool = False,
    panoptic_masks: PathLike | None = None,
    jobs: int | None = None,
    progress: bool = False,
) -> Conversion:
    """Convert annotations of COCO or LVIS to the layout that :func:`fastia.evaluate_directory` reads.

    Writes ``SegmentationClass``, ``SegmentationObject``, ``ImageSets/Segmentation/SPLIT.txt``, ``classes.txt``, with
    ``images`` also ``JPEGImages``, and ``SPLIT_instances.csv``: the annotation behind each instance, its area in
    pixels as annotated, and the part of it that can be seen (``instance`` is 0 where none can).

    - Polygons and run-length encodings are drawn by pycocotools. Where objects overlap, the smaller one is on top.
    - Crowds are void where no object lies on them. So is what a panoptic file leaves unlabelled, and, in an image of
      which LVIS says that objects of some class were left out (``not_exhaustive_category_ids``), all that is not
      annotated.
    - A category of no class is background, and hides nothing. Stuff of panoptic files has a class, but no instance.
    - An image of more than 254 instances gets a 16-bit ``SegmentationObject``, in which 255 is void as ever.
    - Of several files, each image takes a class from the first that has both. So ``[lvis, coco]`` has all classes from
      LVIS but potted plants, of which LVIS has none, from COCO.

    All annotations are checked before anything is written, and files appear when all are complete. A conversion that
    was interrupted goes on where it stopped when it is called again in the same way.

    Args:
        annotations: JSON files of COCO or LVIS instances, or of COCO panoptic segments.
        root: folder of the dataset; made where it does not exist.
        split: name of the split to write; there must be none of that name yet.
        class_map: ``"voc"``: the 20 classes of PASCAL VOC; ``"categories"``: each category is a class of its own; a
            TOML file, as :func:`fastia.data.class_maps.read_class_map` reads it; or a class map.
        images: folder of the JPEG files that the annotations name; None: no pictures in the dataset.
        link: link the pictures instead of copying them.
        panoptic_masks: folder of the PNGs of panoptic files; None: beside the file, named as it without ``.json``.
        jobs: number of threads; None: number of cores.
        progress: whether to show a bar with images per second on the standard error stream.

    Returns:
        :class:`Conversion`.

    Raises:
        fastia.data.coco.AnnotationError: a :class:`ValueError` with all that is wrong with the annotations.
        ValueError: a split that exists, images that another split has, or an option that is not allowed.
        OSError: a file cannot be read or written.
        ModuleNotFoundError: pycocotools is not installed (``pip install fastia[data]``).

    Example:
        >>> import json
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastia.data.convert import convert_coco
        >>> from fastia.data.png import read_ids
        >>> content = {
        ...     "images": [{"id": 1, "file_name": "a.jpg", "height": 2, "width": 5}],
        ...     "categories": [{"id": 7, "name": "cat"}],
        ...     "annotations": [
        ...         {"id": 1, "image_id": 1, "category_id": 7, "segmentation": [[0, 0, 3, 0, 3, 2, 0, 2]]},
        ...     ],
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "instances.json").write_text(json.dumps(content))
        ...     _ = convert_coco(f"{folder}/instances.json", f"{folder}/dataset")
        ...     read_ids(f"{folder}/dataset/SegmentationClass/a.png")
        array([[8, 8, 8, 0, 0],
               [8, 8, 8, 0, 0]], dtype=uint8)

    Source: https://cocodataset.org/#format-data; Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance
    Segmentation", CVPR 2019, for which categories an image is searched.
    """
    paths = [annotations] if isinstance(annotations, str | os.PathLike) else list(annotations)
    if not paths:
        raise ValueError("annotations must name a file or more, got none")
    checks.pip_extra_module("pycocotools.mask", "data")
    checks.integer("jobs", jobs, 1)
    if Path(split).name != split or split.startswith("."):
        raise ValueError(f"split must be a name, got {split!r}")
    if images is not None and not Path(images).is_dir():
        raise ValueError(f"images {os.fspath(images)}: no such folder")
    if panoptic_masks is not None and not Path(panoptic_masks).is_dir():
        raise ValueError(f"panoptic_masks {os.fspath(panoptic_masks)}: no such folder")
    classes, records, notes = read_annotations(paths, _class_map(class_map), panoptic_masks)
    pictures = {} if images is None else _pictures(records, Path(images))

    staging = _Staging(Path(root), split, list(classes.classes))
    staging.begin(_fingerprint(paths, classes, images, link, panoptic_masks), [record.name for record in records])
    converter = _Converter(staging.folder, 255 if len(classes.classes) <= 255 else 65535, pictures, link)
    todo = [record for record in records if record.name not in staging.done]
    with staging, progress_bar(len(records), shown=progress) as advance:
        advance(len(records) - len(todo))
        problems = []
        for record, outcome in zip(todo, _in_threads(converter, todo, jobs), strict=True):
            if isinstance(outcome, str):
                problems.append(outcome)
            else:
                staging.add(record.name, outcome)
            advance(1)
        if problems:
            raise AnnotationError(problems)
        staging.publish()

    rows = [row for record in records for row in staging.done[record.name]]
    hidden = sum(instance == 0 for _, instance, *_ in rows)
    incomplete = sum(not record.exhaustive for record in records)
    if incomplete:
        notes.append(f"In {incomplete} images objects of a class were left out: what is not annotated there is void.")
    if hidden:
        notes.append(f"{hidden} of {len(rows)} annotated objects have no pixel, or hide under smaller ones.")
    if converter.void != 255:
        notes.append(f"Void is {converter.void}: evaluate with --ignore-index {converter.void}.")
    return Conversion([r.name for r in records], list(classes.classes), converter.void, len(rows) - hidden, notes)


class _Staging:
    """Where files lie until all are complete, with a journal of the images that are.

    The first line of the journal holds the arguments of the conversion, each further one an image and its instances.
    """

    def __init__(self, root: Path, split: str, classes: list[str]) -> None:
        self.root = root
        self.classes = classes
        self.split = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        self.table = root / f"{split}_instances.csv"
        self.folder = root / f".{split}.partial"
        self.done: dict[str, list[list[int]]] = {}
        self.names: list[str] = []
        self.created: list[Path] = []

    def begin(self, fingerprint: str, names: list[str]) -> None:
        """Go on with what an earlier call has left, or begin."""
        self.names = names
        if self.split.exists():
            raise ValueError(f"{self.split} exists: choose another split or folder, or remove it")
        path = self.root / "classes.txt"
        if path.exists() and voc.read_lines(path) != self.classes:
            raise ValueError(f"{path} has other classes: choose another folder")
        journal = self.folder / "journal"
        lines = journal.read_text(encoding="utf-8").split("\n")[:-1] if journal.exists() else []
        if lines[:1] == [fingerprint]:
            entries = dict(json.loads(line) for line in lines[1:])
            self.done = {name: rows for name, rows in entries.items() if self._has(name)}
        elif self.folder.exists():
            shutil.rmtree(self.folder)
        taken = [name for name in names if name not in self.done and self._final(name).exists()]
        if taken:
            raise ValueError(
                f"{self._final(taken[0])} exists, as do {len(taken) - 1} more of {len(names)}: choose another folder"
            )
        self.created = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        for folder in _FOLDERS:
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
        kept = [fingerprint, *(json.dumps(entry) for entry in self.done.items())]  # without half a line at its end
        write_lines(journal, kept)
        self.journal = journal.open("a", encoding="utf-8")

    def __enter__(self) -> _Staging:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.journal.close()
        if error is None or isinstance(error, AnnotationError):
            shutil.rmtree(self.folder)
        if isinstance(error, AnnotationError):
            for folder in self.created:
                folder.rmdir()

    def add(self, name: str, rows: list[list[int]]) -> None:
        """Note that the files of an image are complete."""
        self.done[name] = rows
        self.journal.write(json.dumps([name, rows]) + "\n")
        self.journal.flush()

    def publish(self) -> None:
        """Move all files to where they belong, the split last."""
        for folder in _FOLDERS:
            staged = list((self.folder / folder).iterdir())
            if staged:
                (self.root / folder).mkdir(exist_ok=True)
            for path in staged:
                os.replace(path, self.root / folder / path.name)
        self.split.parent.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "instances.csv"
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("image", "instance", "class", "annotation", "area", "visible"))
            for name in self.names:
                for annotation, instance, class_id, area, visible in self.done[name]:
                    writer.writerow((name, instance, self.classes[class_id], annotation, area, visible))
        os.replace(partial, self.table)
        write_lines(self.root / "classes.txt", self.classes)
        write_lines(self.split, self.names)

    def _has(self, name: str) -> bool:
        staged = self.folder / "SegmentationClass" / f"{name}.png"
        return staged.exists() or self._final(name).exists()

    def _final(self, name: str) -> Path:
        return self.root / "SegmentationClass" / f"{name}.png"


@dataclass(frozen=True)
class _Converter:
    """Writes the files of one image; called by several threads at once."""

    folder: Path
    void: int
    pictures: dict[str, Path]
    link: bool

    def __call__(self, record: Record) -> list[list[int]] | str:
        """Annotation, instance, class, area and visible area of each object; or what is wrong."""
        try:
            classes, instances, rows = draw(record, self.void)
        except ValueError as error:
            return str(error)
        write_ids(self.folder / "SegmentationClass" / f"{record.name}.png", classes)
        write_ids(self.folder / "SegmentationObject" / f"{record.name}.png", instances)
        if record.name in self.pictures:
            copy = self.folder / "JPEGImages" / f"{record.name}.jpg"
            copy.unlink(missing_ok=True)
            if self.link:
                copy.symlink_to(self.pictures[record.name].resolve())
            else:
                shutil.copyfile(self.pictures[record.name], copy)
        return rows


def _class_map(class_map: Any) -> ClassMap | None:
    if isinstance(class_map, ClassMap):
        return class_map
    if class_map == "categories":
        return None
    return voc_map() if class_map == "voc" else read_class_map(class_map)


def _pictures(records: list[Record], folder: Path) -> dict[str, Path]:
    """The file of each picture."""
    found, problems = {}, []
    for record in records:
        path = next((folder / name for name in record.file_names if (folder / name).is_file()), None)
        if path is None:
            problems.append(f"{folder / record.file_names[0]}: missing")
        elif path.suffix.lower() not in (".jpg", ".jpeg"):
            problems.append(f"{path}: no JPEG file, which the layout of PASCAL VOC needs")
        else:
            found[record.name] = path
    if problems:
        raise AnnotationError(problems)
    return found


def _fingerprint(paths: Sequence[PathLike], classes: ClassMap, *options: Any) -> str:
    """What a conversion has to have in common with one that it goes on with."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    digest.update(repr((__version__, classes.classes, sorted(classes.class_ids.items()), options)).encode())
    return digest.hexdigest()


def _in_threads(converter: _Converter, records: list[Record], jobs: int | None) -> Iterator[list[list[int]] | str]:
    with ThreadPoolExecutor(jobs or cores()) as pool:
        try:
            yield from pool.map(converter, records)
        finally:
            pool.shutdown(cancel_futures=True)
