"""Sensitivity of the scores: end points and closed forms of the corner cases, and removal from a perfect prediction."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import fastia
from fastia import cli
from fastia.data import png
from fastia.data.shapes import make_shapes
from fastia.evaluation import sensitivity
from fastia.evaluation.sensitivity import SCORES, corner_cases, removal

LARGE, SMALL = 160 * 160, 24 * 24


def write_dataset(root: Path, target: np.ndarray, instances: np.ndarray) -> Path:
    for folder in ("SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("a")
    png.write_ids(root / "SegmentationClass/a.png", target.astype(np.uint8))
    png.write_ids(root / "SegmentationObject/a.png", instances.astype(np.uint8))
    return root


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    make_shapes(root, 5, size=(200, 240))
    return root


@pytest.mark.parametrize("protocol", ["wacv2024", "exact"])
def test_corner_cases_follow_their_closed_forms(protocol) -> None:
    large, small, large_beside, small_beside = corner_cases(protocol=protocol)
    whole = LARGE + SMALL
    for curve, area, other in (
        (large, LARGE, 0),
        (small, SMALL, 0),
        (large_beside, LARGE, SMALL),
        (small_beside, SMALL, LARGE),
    ):
        assert (curve.x[0], curve.x[-1]) == (0, 1)
        np.testing.assert_allclose(curve.scores["miou"], (curve.x * area + other) / whole, rtol=1e-12)
        # IoU is summed in multiples of 2^-36
        expected = (curve.x + bool(other)) / 2
        np.testing.assert_allclose(curve.scores["ia_miou"], expected, rtol=0, atol=2.0**-36)
        np.testing.assert_array_equal(curve.scores["ia_miou_penalized"], curve.scores["ia_miou"])
    np.testing.assert_allclose(large_beside.scores["ia_miou_large"], large_beside.x, atol=2.0**-36)
    assert (large_beside.scores["ia_miou_small"] == 1).all()


def test_corner_cases_of_an_unknown_protocol() -> None:
    with pytest.raises(ValueError, match="protocol must be 'wacv2024' or 'exact', got 'voc'"):
        corner_cases(protocol="voc")


@pytest.mark.parametrize("protocol", ["wacv2024", "exact"])
def test_removal_falls_from_one_to_nothing(shapes, protocol) -> None:
    curve = removal(shapes, "all", classes=shapes / "classes.txt", protocol=protocol)
    for name in SCORES:
        assert curve.scores[name][0] == 1, name
        assert curve.scores[name][-1] == 0, name
        assert (np.diff(curve.scores[name]) <= 0).all(), name
    assert (np.diff(curve.x) > 0).all()
    small_gone = int(np.argmax(curve.scores["ia_miou_small"] == 0))
    assert curve.scores["ia_miou_large"][small_gone] == 1
    assert curve.scores["miou"][small_gone] > curve.scores["ia_miou"][small_gone]


@pytest.mark.parametrize("annotated", [True, False])
def test_removal_equals_an_evaluation_of_what_is_left(shapes, tmp_path, annotated) -> None:
    root = shutil.copytree(shapes, tmp_path / "data")
    if not annotated:
        shutil.rmtree(root / "SegmentationObject")
    classes = root / "classes.txt"
    curve = removal(root, "all", classes=classes, points=3)
    left = root / "Left"
    left.mkdir()
    perfect = fastia.evaluate_directory(root, "all", root / "SegmentationClass", classes=classes)
    kept = perfect.records.class_id > 0
    image = np.repeat(np.arange(5), perfect.records.count)[kept]
    smallest = np.argsort(perfect.records.area[kept], kind="stable")[: round(kept.sum() / 3)]
    for place, name in enumerate(perfect.images):
        target = png.read_ids(root / f"SegmentationClass/{name}.png").copy()
        ids = png.read_ids(root / f"SegmentationObject/{name}.png") if annotated else fastia.label(target)
        target[np.isin(ids, perfect.records.instance_id[kept][smallest][image[smallest] == place])] = 0
        png.write_ids(left / f"{name}.png", target)
    rows = list(fastia.evaluate_directory(root, "all", left, classes=classes).per_class.values())[1:]
    for name, key in {"miou": "iou", "ia_miou": "ia_iou", "ia_miou_medium": "ia_iou_medium"}.items():
        assert curve.scores[name][1] == pytest.approx(np.nanmean([row[key] for row in rows]), rel=1e-12)


def test_the_smallest_goes_first_whatever_its_class(tmp_path) -> None:
    target, instances = np.zeros((40, 40), int), np.zeros((40, 40), int)
    target[:20, :20], instances[:20, :20] = 1, 9
    target[25:30, 25:30], instances[25:30, 25:30] = 2, 4
    target[35:37, 0:2], instances[35:37, 0:2] = 1, 3
    root = write_dataset(tmp_path, target, instances)
    curve = removal(root, "val", classes=["background", "a", "b"])
    assert curve.x.tolist() == [0, 1 / 3, 2 / 3, 1]
    assert curve.scores["ia_miou"].tolist() == [1, 0.75, 0.25, 0]
    np.testing.assert_allclose(curve.scores["miou"], [1, (400 / 404 + 1) / 2, 400 / 404 / 2, 0])


def test_removal_without_a_background_predicts_no_class(tmp_path) -> None:
    target = np.zeros((8, 8), int)
    target[4:] = 1
    root = write_dataset(tmp_path, target, target + 1)
    curve = removal(root, "val", classes=["a", "b"], background=None)
    assert curve.scores["miou"].tolist() == [1, 0.5, 0]
    assert curve.scores["ia_miou"].tolist() == [1, 0.5, 0]


def test_a_split_without_instances_is_named(tmp_path) -> None:
    root = write_dataset(tmp_path, np.zeros((4, 4)), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="no instances in split val"):
        removal(root, "val")
    with pytest.raises(ValueError, match=r"points must be in 1\.\.9223372036854775807, got 0"):
        removal(root, "val", points=0)


def test_real_masks_start_at_one_and_end_at_nothing(shared) -> None:
    curve = removal(shared / "data/coco100", "all", points=5)
    for name in ("miou", "ia_miou"):
        assert curve.scores[name][[0, -1]].tolist() == [1, 0]
        assert (np.diff(curve.scores[name]) < 0).all()


def test_the_command_prints_and_writes_all_curves(shapes, tmp_path) -> None:
    table, plot = tmp_path / "curves.csv", tmp_path / "curves"
    options = ["--dataset", shapes, "--split", "all", "--classes", shapes / "classes.txt", "--points", 4]
    options += ["--csv", table, "--plot", plot]
    done = CliRunner(env={"COLUMNS": "80"}).invoke(cli.app, ["sensitivity", *map(str, options)])
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.split() == ["100", "%", "removed", "0.0", "0.0", "0.0"] for line in lines)
    assert max(map(len, lines[:-2])) <= 80
    rows = list(csv.DictReader(table.open()))
    assert len({row["analysis"] for row in rows}) == 5
    assert len([row for row in rows if row["of"] == "removed"]) == 5
    assert Image.open(plot).format == "PNG"


def test_where_no_file_can_be_is_named_before_anything_runs() -> None:
    done = CliRunner().invoke(cli.app, ["sensitivity", "--dataset", "nowhere", "--csv", "nowhere/a.csv"])
    assert done.exit_code == 2
    assert done.stderr == "Error: csv must be a file in a folder that exists, got nowhere/a.csv\n"


def test_reports_appear_together_or_not_at_all(tmp_path, monkeypatch) -> None:
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sensitivity, "write_plot", fail)
    with pytest.raises(OSError, match="No space left"):
        sensitivity.write_all(corner_cases(), csv=tmp_path / "a.csv", plot=tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
