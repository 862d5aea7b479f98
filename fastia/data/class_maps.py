"""Which categories of an annotation file make up which class of a dataset in PASCAL VOC layout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fastia.data import voc
from fastia.functional import checks
from fastia.typing import PathLike

# Categories of COCO and of LVIS (0.5 and 1.0) as the annotation guidelines of VOC class them: vans are cars, scooters
# are motorbikes, armchairs are chairs; stools, coffee tables, pickup trucks and single cars of a train are nothing.
# LVIS has no potted plant: that class comes from COCO alone.
VOC_CATEGORIES: Mapping[str, Sequence[str]] = {
    "aeroplane": ("airplane", "fighter_jet", "jet_plane", "seaplane"),
    "bicycle": ("bicycle",),
    "bird": (
        "bird", "chicken_(animal)", "cock", "crow", "dove", "duck", "duckling", "eagle", "falcon", "flamingo", "goose",
        "gull", "heron", "hummingbird", "mallard", "ostrich", "owl", "parakeet", "parrot", "pelican", "penguin",
        "pigeon", "puffin", "seabird", "turkey_(bird)", "vulture",
    ),
    "boat": (
        "boat", "barge", "canoe", "cargo_ship", "cruise_ship", "dinghy", "ferry", "fishing_boat", "gondola_(boat)",
        "houseboat", "kayak", "motorboat", "passenger_ship", "river_boat", "yacht",
    ),
    "bottle": ("bottle", "beer_bottle", "water_bottle", "wine_bottle"),
    "bus": ("bus", "bus_(vehicle)", "school_bus"),
    "car": (
        "car", "car_(automobile)", "cab_(taxi)", "convertible_(automobile)", "jeep", "limousine", "minivan",
        "police_cruiser", "police_van", "race_car",
    ),
    "cat": ("cat", "kitten"),
    "chair": (
        "chair", "armchair", "deck_chair", "folding_chair", "highchair", "recliner", "rocking_chair", "wing_chair",
    ),
    "cow": ("cow", "bull", "calf"),
    "diningtable": ("dining table", "dining_table", "kitchen_table"),
    "dog": ("dog", "bulldog", "Chihuahua", "dachshund", "dalmatian", "pug-dog", "puppy", "shepherd_dog"),
    "horse": ("horse", "foal", "pony"),
    "motorbike": ("motorcycle", "dirt_bike", "motor_scooter"),
    "person": ("person", "baby"),  # LVIS 0.5 has all people under "baby"
    "pottedplant": ("potted plant",),
    "sheep": ("sheep", "black_sheep", "lamb_(animal)", "ram_(animal)"),
    "sofa": ("couch", "loveseat"),
    "train": ("train_(railroad_vehicle)", "bullet_train"),
    "tvmonitor": ("tv", "monitor_(computer_equipment) computer_monitor", "television_set"),
}  # fmt: skip


class ClassMap:
    """Classes, and the categories that each consists of.

    Args:
        categories: names of categories by the name of their class; ids are given from 1 in this order.
        background: name of class 0.

    Attributes:
        classes: names of all classes, the background first.
        class_ids: class id by name of category; categories that are not in it are background.

    Raises:
        ValueError: a category in two classes, a class named as the background, or more classes than 16 bits hold.

    Example:
        >>> from fastia.data.class_maps import ClassMap
        >>> ClassMap({"vehicle": ["car", "truck"], "person": ["person"]}).class_ids
        {'car': 1, 'truck': 1, 'person': 2}
    """

    def __init__(self, categories: Mapping[str, Iterable[str]], background: str = "background") -> None:
        self.classes = (background, *categories)
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"class map: {background} is the name of class 0, which has no categories")
        if not 2 <= len(self.classes) <= checks.MAX_CLASSES - 1:
            raise ValueError(f"class map: 1 to {checks.MAX_CLASSES - 2} classes are allowed, got {len(categories)}")
        self.class_ids: dict[str, int] = {}
        for class_id, (name, members) in enumerate(categories.items(), 1):
            for category in members:
                if self.class_ids.setdefault(category, class_id) != class_id:
                    other = self.classes[self.class_ids[category]]
                    raise ValueError(f"class map: category {category!r} is in two classes, {other} and {name}")


def voc_map() -> ClassMap:
    """The 20 classes of PASCAL VOC out of the categories of COCO and LVIS, or out of their own names.

    Source: the development kit of the PASCAL VOC challenge, "Annotation guidelines", for which kinds belong to a class.
    """
    return ClassMap({name: dict.fromkeys((name, *VOC_CATEGORIES[name])) for name in voc.CLASSES[1:]})


def read_class_map(path: PathLike) -> ClassMap:
    """Read a class map from a TOML file.

    Its table ``classes`` gives the categories of each class, one name or a list of them, in the order of class ids:

    .. code-block:: toml

        [classes]
        person = "person"
        vehicle = ["car", "bus", "truck"]

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no TOML file, or has no such table. The text begins with the path.
        ModuleNotFoundError: on Python 3.10, tomli is not installed (``pip install fastia[data]``).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastia.data.class_maps import read_class_map
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "map.toml")
        ...     _ = path.write_text('[classes]\\nvehicle = ["car", "bus"]')
        ...     read_class_map(path).classes
        ('background', 'vehicle')
    """
    tomllib = checks.pip_extra_module("tomllib" if sys.version_info >= (3, 11) else "tomli", "data")
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{os.fspath(path)}: no TOML file: {error}") from None
    table = content.get("classes")
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{os.fspath(path)}: needs a table [classes] that lists the categories of each class")
    categories = {name: [members] if isinstance(members, str) else members for name, members in table.items()}
    for name, members in categories.items():
        if not isinstance(members, list) or not all(isinstance(each, str) for each in members):
            raise ValueError(f"{os.fspath(path)}: {name} must be a name or a list of names, got {members!r}")
    try:
        return ClassMap(categories)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
