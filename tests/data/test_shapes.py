"""The synthetic dataset: layout, sizes, void, and predictions that are imperfect in every way."""

import numpy as np
import pytest
from PIL import Image

import fastia
from fastia.data import png, voc
from fastia.data.shapes import CLASSES, make_shapes

FOLDERS = ("SegmentationClass", "SegmentationObject", "Predictions", "PseudoMasks")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    make_shapes(root, 30)
    return root


def read(root, folder: str) -> np.ndarray:
    return np.stack([png.read_ids(root / folder / f"{name}.png") for name in voc.Dataset(root).ids("all")])


def test_layout_is_that_of_voc(root) -> None:
    dataset = voc.Dataset(root)
    names = dataset.ids("all")
    assert len(names) == 30
    assert sorted(dataset.ids("train") + dataset.ids("val")) == names
    assert len(dataset.ids("val")) == 10
    assert voc.read_lines(root / "classes.txt") == list(CLASSES)
    picture = Image.open(dataset.images / f"{names[0]}.jpg")
    assert (picture.mode, picture.size) == ("RGB", (320, 240))
    for folder in FOLDERS:
        assert {path.stem for path in (root / folder).iterdir()} == set(names)
        assert Image.open(root / folder / f"{names[0]}.png").mode == "P"
        assert read(root, folder).shape == (30, 240, 320)


def test_classes_and_instances_agree_and_are_apart_by_void(root) -> None:
    target, instances = read(root, "SegmentationClass"), read(root, "SegmentationObject")
    assert set(np.unique(target)) == {*range(len(CLASSES)), voc.VOID}
    np.testing.assert_array_equal(target == voc.VOID, instances == voc.VOID)
    np.testing.assert_array_equal(target == 0, instances == 0)
    for classes, ids in zip(target, instances, strict=True):
        kept = (ids > 0) & (ids < voc.VOID)
        pairs = np.unique(np.stack([ids[kept], classes[kept]]), axis=1)
        assert len(set(pairs[0])) == pairs.shape[1]  # one class each
        left, right = ids[:, :-1], ids[:, 1:]
        assert not ((left != right) & (left != voc.VOID) & (right != voc.VOID)).any()


def test_all_three_sizes_occur_and_objects_hide_parts_of_others(root) -> None:
    result = fastia.instance_iou(
        read(root, "Predictions"), read(root, "SegmentationClass"), read(root, "SegmentationObject"), protocol="exact"
    )
    area = result.area[result.class_id > 0]
    sizes = np.histogram(area, [0, 32**2, 96**2, np.inf])[0]
    assert (sizes > 5).all()
    assert (fastia.components(read(root, "SegmentationClass")).count > result.count).any()


def test_predictions_miss_small_objects_more_and_invent_some(root) -> None:
    result = fastia.evaluate_directory(root, "all", root / "Predictions", classes=root / "classes.txt")
    scores = result.scores
    assert 0.1 < scores["ia_miou_small"] < scores["ia_miou_medium"] < scores["ia_miou_large"] < 0.95
    assert scores["ia_miou_penalized"] < scores["ia_miou"] < scores["miou"]


def test_an_image_depends_on_seed_and_number_only(root, tmp_path) -> None:
    for name, images, seed in (("same", 2, 0), ("other", 1, 1)):
        make_shapes(tmp_path / name, images, seed=seed)
    for folder in (*FOLDERS, "JPEGImages"):
        first, second = ((root / folder / path.name) for path in sorted((tmp_path / "same" / folder).iterdir()))
        assert first.read_bytes() == (tmp_path / "same" / folder / first.name).read_bytes()
        assert second.read_bytes() == (tmp_path / "same" / folder / second.name).read_bytes()
        assert first.read_bytes() != (tmp_path / "other" / folder / first.name).read_bytes()


def test_size_may_be_chosen(tmp_path) -> None:
    make_shapes(tmp_path, 1, size=(161, 203))
    assert all(read(tmp_path, folder).shape == (1, 161, 203) for folder in FOLDERS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"size": (100, 320)}, r"size must be at least \(160, 160\), got \(100, 320\)"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_shapes(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_palette_is_that_of_voc() -> None:
    colours = voc.palette()
    assert colours[[0, 1, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
