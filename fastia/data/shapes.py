"""A synthetic dataset in PASCAL VOC layout: overlapping shapes of all three sizes, with imperfect predictions.

The class of an object is its outline, at which its colour hints. Small objects are therefore hard, as in real images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastia.data.png import write_ids
from fastia.data.voc import VOID
from fastia.functional import checks
from fastia.typing import PathLike

CLASSES = ("background", "disc", "square", "triangle", "star", "cross", "ring")
_AREAS = {"small": (100.0, 900.0), "medium": (1400.0, 8000.0), "large": (13000.0, 26000.0)}
_OBJECTS = {"small": (2, 6), "medium": (1, 4), "large": (0, 2)}  # per image, both ends included
_CELL = 4  # pseudo masks are drawn on a grid of this many pixels, as class activation maps are


@dataclass(frozen=True)
class _Object:
    class_id: int
    y: float
    x: float
    radius: float
    angle: float


def make_shapes(
    root: PathLike,
    images: int = 60,
    *,
    size: tuple[int, int] = (240, 320),
    noise: float = 1.0,
    seed: int = 0,
) -> None:
    """Write the dataset.

    ``JPEGImages``, ``SegmentationClass`` and ``SegmentationObject`` (void, 255, where objects meet anything else),
    ``ImageSets/Segmentation/train.txt``, ``val.txt`` (every third image) and ``all.txt``, ``classes.txt``, and two
    folders of class ids: ``Predictions``, which miss small objects, are too wide or too narrow, merge neighbours,
    confuse classes and invent objects; and ``PseudoMasks``, coarser ones with void, such as weak supervision yields.

    Args:
        root: folder to write into; made where it does not exist.
        images: number of images. An image depends on its number, ``size`` and ``seed`` only.
        size: height and width, at least 160 each.
        noise: how wrong the pseudo masks are, from 0: how often objects are dropped, the small ones above all, and how
            far they are drawn too wide, which merges neighbours, or too narrow.
        seed: of the random numbers.

    Raises:
        ValueError: ``images`` below 1, ``size`` below 160 or ``noise`` below 0.
        ModuleNotFoundError: Pillow is not installed (``pip install fastia[cli]``).

    Example:
        >>> import tempfile
        >>> from fastia.data.shapes import make_shapes
        >>> from fastia.data.voc import Dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_shapes(folder, images=3)
        ...     Dataset(folder).ids("train")
        ['000000', '000001']
    """
    from PIL import Image

    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    if min(size) < 160:
        raise ValueError(f"size must be at least (160, 160), got {size}")
    checks.number("noise", noise, 0)
    root = Path(root)
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "Predictions", "PseudoMasks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = [f"{i:06d}" for i in range(images)]
    for i, name in enumerate(names):
        rng = np.random.default_rng([seed, i])
        objects = _scene(rng, size)
        instances = _draw(objects, size)
        classes = np.array([0, *(each.class_id for each in objects)], np.uint8)
        picture = Image.fromarray(_picture(rng, objects, instances))
        picture.save(root / "JPEGImages" / f"{name}.jpg", quality=90)
        void = _borders(instances)
        visible = np.bincount(instances.ravel(), minlength=len(classes)) > 0
        instance_ids = np.r_[0, np.cumsum(visible[1:])][instances]
        write_ids(root / "SegmentationClass" / f"{name}.png", np.where(void, np.uint8(VOID), classes[instances]))
        write_ids(root / "SegmentationObject" / f"{name}.png", np.where(void, VOID, instance_ids).astype(np.uint8))
        write_ids(root / "Predictions" / f"{name}.png", _prediction(rng, objects, size))
        write_ids(root / "PseudoMasks" / f"{name}.png", _pseudo_mask(rng, objects, size, noise))
    splits = root / "ImageSets" / "Segmentation"
    splits.mkdir(parents=True, exist_ok=True)
    train = [name for i, name in enumerate(names) if i % 3 != 2]
    for split, members in (("train", train), ("val", names[2::3]), ("all", names)):
        _write_lines(splits / f"{split}.txt", members)
    _write_lines(root / "classes.txt", CLASSES)


def _scene(rng: np.random.Generator, size: tuple[int, int]) -> list[_Object]:
    """Objects in the order of painting, mostly the larger ones first; some lie beside another of their class."""
    objects: list[_Object] = []
    for name, (fewest, most) in _OBJECTS.items():
        for _ in range(rng.integers(fewest, most, endpoint=True)):
            new = _random_object(rng, size, name)
            if objects and rng.random() < 0.25:
                other = objects[rng.integers(len(objects))]
                direction, distance = rng.uniform(0, 2 * math.pi), 1.05 * (other.radius + new.radius)
                new = replace(
                    new,
                    class_id=other.class_id,
                    y=float(np.clip(other.y + distance * math.sin(direction), 0, size[0])),
                    x=float(np.clip(other.x + distance * math.cos(direction), 0, size[1])),
                )
            objects.append(new)
    return sorted(objects, key=lambda each: -each.radius * rng.uniform(0.6, 1.6))


def _random_object(rng: np.random.Generator, size: tuple[int, int], name: str) -> _Object:
    smallest, largest = _AREAS[name]
    radius = math.sqrt(math.exp(rng.uniform(math.log(smallest), math.log(largest))) / 2)  # outlines fill about 2 r²
    y, x = (rng.uniform(min(0.5 * radius, 0.3 * side), side - min(0.5 * radius, 0.3 * side)) for side in size)
    return _Object(int(rng.integers(1, len(CLASSES))), y, x, radius, rng.uniform(0, 2 * math.pi))


def _draw(objects: list[_Object], size: tuple[int, int], cell: int = 1) -> NDArray[np.int64]:
    """Number of the object that each pixel, or each cell of pixels, shows, from 1; 0 none."""
    numbers = np.zeros((-(-size[0] // cell), -(-size[1] // cell)), np.int64)
    for number, each in enumerate(objects, 1):
        y0, y1 = (int(np.clip(each.y + r, 0, size[0])) // cell for r in (-1.5 * each.radius, 1.5 * each.radius + cell))
        x0, x1 = (int(np.clip(each.x + r, 0, size[1])) // cell for r in (-1.5 * each.radius, 1.5 * each.radius + cell))
        dy = (np.arange(y0, y1)[:, None] + 0.5) * cell - each.y
        dx = (np.arange(x0, x1) + 0.5) * cell - each.x
        u = (math.cos(each.angle) * dx + math.sin(each.angle) * dy) / each.radius
        v = (math.cos(each.angle) * dy - math.sin(each.angle) * dx) / each.radius
        numbers[y0:y1, x0:x1][_inside(CLASSES[each.class_id], u, v)] = number
    return numbers


def _inside(shape: str, u: NDArray[Any], v: NDArray[Any]) -> NDArray[np.bool_]:
    """Where the unit outline of a class is filled."""
    squared = u * u + v * v
    if shape == "disc":
        return squared < 0.7
    if shape == "square":
        return np.maximum(abs(u), abs(v)) < 0.72
    if shape == "triangle":
        return np.maximum(abs(u) * math.sqrt(3) + v, -2 * v) < 1.0
    if shape == "star":
        return np.sqrt(squared) < 0.82 + 0.38 * np.cos(5 * np.arctan2(v, u))
    if shape == "cross":
        return (np.minimum(abs(u), abs(v)) < 0.3) & (np.maximum(abs(u), abs(v)) < 1.0)
    return (squared > 0.25) & (squared < 1.0)


def _borders(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Pixels beside a pixel of another object or none."""
    borders = np.zeros(numbers.shape, bool)
    for a, b in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        differs = numbers[a] != numbers[b]
        borders[a] |= differs
        borders[b] |= differs
    return borders


def _picture(rng: np.random.Generator, objects: list[_Object], numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """RGB ``[H, W, 3]``: a striped or plain colour on each object and behind them, blotches and noise over all."""
    height, width = numbers.shape
    behind = 0.35 + 0.3 * _colour(rng.uniform())  # paler than objects
    colours = np.array([behind, *(_colour(rng.normal(each.class_id / 6, 0.05)) for each in objects)])
    picture = colours.astype(np.float32)[numbers]
    for number in range(len(colours)):
        pixels = np.nonzero(numbers == number)
        direction, frequency, contrast = rng.uniform(0, math.pi), rng.uniform(0.1, 0.8), rng.choice([0.0, 0.1, 0.2])
        phase = frequency * (math.sin(direction) * pixels[0] + math.cos(direction) * pixels[1])
        picture[pixels] += (contrast * np.sin(phase))[:, None]
    for points in (4, 16, 48):
        blotches = 0.08 * rng.standard_normal((points, points, 3), np.float32)
        blotches = _stretch(_stretch(blotches, height).swapaxes(0, 1), width).swapaxes(0, 1)
        picture += np.where(numbers > 0, np.float32(0.5), np.float32(1.0))[..., None] * blotches
    picture += 0.05 * rng.standard_normal(picture.shape, np.float32)
    return (255 * picture.clip(0, 1)).astype(np.uint8)


def _stretch(grid: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Linear interpolation of the first axis to another length."""
    places = np.linspace(0, len(grid) - 1, length, dtype=np.float32)
    below = np.minimum(places.astype(int), len(grid) - 2)
    fraction = (places - below.astype(np.float32))[:, None, None]
    return grid[below] * (1 - fraction) + grid[below + 1] * fraction


def _colour(hue: float) -> NDArray[np.float64]:
    return 0.5 + 0.3 * np.cos(2 * math.pi * (hue + np.array([0, 1 / 3, 2 / 3])))


def _prediction(rng: np.random.Generator, objects: list[_Object], size: tuple[int, int]) -> NDArray[np.uint8]:
    kept = []
    for each in objects:
        if rng.random() < min(0.7, 8.0 / each.radius):  # the smaller, the likelier it is missed
            continue
        class_id = int(rng.integers(1, len(CLASSES))) if rng.random() < 2.0 / each.radius else each.class_id
        shift = rng.normal(0, 1.5, 2)
        scale = rng.uniform(0.9, 1.15) + rng.normal(0, 1.5) / each.radius
        kept.append(_Object(class_id, each.y + shift[0], each.x + shift[1], each.radius * scale, each.angle))
    for name in ("small", "small", "medium"):
        if rng.random() < 0.4:
            kept.append(_random_object(rng, size, name))
    return np.array([0, *(each.class_id for each in kept)], np.uint8)[_draw(kept, size)]


def _pseudo_mask(
    rng: np.random.Generator, objects: list[_Object], size: tuple[int, int], noise: float
) -> NDArray[np.uint8]:
    drawn = [
        replace(each, radius=each.radius * math.exp(noise * rng.uniform(-0.3, 0.3)))
        for each in objects
        if rng.random() > noise * min(0.8, 10.0 / each.radius)
    ]
    cells = _draw(drawn, size, _CELL)
    uncertain = _borders(cells) & (rng.random(cells.shape) < 0.4)
    ids = np.where(uncertain, np.uint8(VOID), np.array([0, *(each.class_id for each in drawn)], np.uint8)[cells])
    return ids.repeat(_CELL, 0).repeat(_CELL, 1)[: size[0], : size[1]]


def _write_lines(path: Path, lines: Any) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
