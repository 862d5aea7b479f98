"""Evaluation of folders: the golden numbers, the reports, and every kind of bad file."""

import csv
import io
import json
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastia
from fastia.data import png, voc
from fastia.data.shapes import make_shapes
from fastia.evaluation import report
from fastia.evaluation.comparison import compare
from fastia.evaluation.result import Evaluation
from fastia.evaluation.run import EvaluationError
from fastia.evaluation.stability import across_sets

NAMES = ("one", "two", "three")


def write_dataset(root: Path, size: tuple[int, int] = (40, 50)) -> Path:
    """Three images of a square of class 1 and, in the second, one of class 2; predicted perfectly."""
    for folder in ("SegmentationClass", "SegmentationObject", "Predictions", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for i, name in enumerate(NAMES):
        target, instances = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        target[2:12, 2 : 12 + i], instances[2:12, 2 : 12 + i] = 1, 1
        if i == 1:
            target[20:30, 20:30], instances[20:30, 20:30] = 2, 2
        write_image(root, name, target, instances, target)
    (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(NAMES) + "\n")
    return root


def write_image(root: Path, name: str, target: np.ndarray, instances: np.ndarray, prediction: np.ndarray) -> None:
    png.write_ids(root / f"SegmentationClass/{name}.png", target)
    png.write_ids(root / f"SegmentationObject/{name}.png", instances)
    png.write_ids(root / f"Predictions/{name}.png", prediction)


def score(root: Path, **options) -> Evaluation:
    options = {"split": "val", "predictions": root / "Predictions", "classes": ["background", "a", "b"], **options}
    return fastia.evaluate_directory(root, **options)


def problems(root: Path, **options) -> list[str]:
    """What an evaluation complains of, after a look that it left no report."""
    reports = {"json": root / "scores.json", "csv": root / "instances.csv", "plot": root / "scores.png"}
    with pytest.raises(EvaluationError) as raised:
        score(root, **reports, **options)
    left = [path.name for path in root.iterdir() if path.is_file()]
    assert left == []
    assert all(problem in str(raised.value) for problem in raised.value.problems)
    return raised.value.problems


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path)


@pytest.mark.parametrize("protocol", ["wacv2024", "exact"])
@pytest.mark.parametrize(("name", "split"), [("coco100", "all"), ("voc3", "val")])
def test_folders_of_real_masks_score_as_the_released_evaluation(shared, tmp_path, name, split, protocol) -> None:
    golden = json.loads((shared / "golden" / f"{name}.json").read_text())
    root = shared / "data" / name
    path = tmp_path / "scores.json"
    fastia.evaluate_directory(root, split, root / "Predictions", protocol=protocol, json=path)
    found = json.loads(path.read_text())
    scores = golden["scores"] | golden["penalized"][protocol]
    scores |= golden["exact_scores"] if protocol == "exact" else {}
    assert found["scores"] == pytest.approx(scores, rel=0, abs=1e-9)
    instances = [[image["id"], *row] for image in found["images"] for row in image["instances"]]
    expected = golden[f"instances_{protocol}"]
    assert [row[:4] for row in instances] == [row[:4] for row in expected]
    np.testing.assert_allclose([row[4] for row in instances], [row[4] for row in expected], rtol=0, atol=1e-12)
    unmatched = [[image["id"], *row] for image in found["images"] for row in image["unmatched"]]
    assert unmatched == golden["unmatched"][protocol]


def test_scores_equal_those_of_the_metric(dataset) -> None:
    rng = np.random.default_rng(0)
    metric = fastia.InstanceAwareIoU(3)
    for name in NAMES:
        target, prediction = rng.integers(0, 3, (2, 9, 11)).astype(np.uint8)
        instances = rng.integers(0, 5, (9, 11)).astype(np.uint8)
        write_image(dataset, name, target, instances, prediction)
        metric.update(prediction, target, instances)
    result = score(dataset)
    computed = metric.compute()
    for name, value in result.scores.items():
        np.testing.assert_equal(value, computed[name].item(), err_msg=name)
    for class_id, row in enumerate(result.per_class.values()):
        for name in ("iou", "ia_iou", "ia_iou_small", "instances", "unmatched"):
            np.testing.assert_equal(row[name], computed[f"{name}_per_class"][class_id].item(), err_msg=name)


def test_number_of_threads_changes_nothing(tmp_path) -> None:
    make_shapes(tmp_path, 20, size=(160, 160))
    options = {"classes": tmp_path / "classes.txt", "split": "all"}
    one, four = (report.as_dict(score(tmp_path, jobs=jobs, **options)) for jobs in (1, 4))
    assert one == four


def test_absent_classes_of_folders_and_of_their_comparison(dataset) -> None:
    target = np.zeros((20, 30), np.uint8)
    target[:9] = 1
    preds = target.copy()
    preds[15, :3] = 2  # absent from the ground truth
    for name in NAMES:
        write_image(dataset, name, target, target, preds)
    paths = {}
    for absent_classes, classes in (("skip", 2), ("zero", 3)):
        paths[absent_classes] = dataset / f"{absent_classes}.json"
        found = score(dataset, json=paths[absent_classes], absent_classes=absent_classes)
        assert found.scores["miou"] == pytest.approx((327 / 330 + 1) / classes)
        assert compare({"ours": paths[absent_classes]}, resamples=99).scores["ours"]["miou"].value == pytest.approx(
            found.scores["miou"]
        )
    on_one = across_sets([paths["zero"]], [NAMES[:1]]).on_sets["miou"]
    assert on_one == pytest.approx((327 / 330 + 1) / 3)
    with pytest.raises(ValueError, match="differ in absent_classes: skip against zero"):
        compare(paths)


def test_json_holds_scores_and_the_contribution_of_each_image(dataset) -> None:
    target = png.read_ids(dataset / "SegmentationClass/two.png").copy()
    target[20:30, 20:30], target[35, 40:43], target[0, 0] = 0, 1, 255
    png.write_ids(dataset / "Predictions/two.png", target)
    score(dataset, json=dataset / "scores.json")
    found = json.loads((dataset / "scores.json").read_text())
    assert list(found) == ["scores", "per_class", "images", "protocol", "classes", "size_bounds"]
    assert found["protocol"] == "wacv2024"
    assert found["classes"] == ["background", "a", "b"]
    assert found["size_bounds"] == [1024, 9216]
    assert found["scores"]["ia_miou_large"] is None
    assert found["scores"]["ia_miou_small"] == 0.5
    assert found["scores"]["ia_miou_penalized_small"] == pytest.approx((3 / 4 + 0) / 2)
    assert found["per_class"]["a"]["ia_iou"] == 1
    assert found["per_class"]["a"]["ia_iou_penalized_small"] == 3 / 4
    assert found["per_class"]["a"]["ia_iou_medium"] is None
    assert found["images"][1] == {
        "id": "two",
        "classes": [[0, 1786, 1790, 1886], [1, 110, 110, 113], [2, 0, 100, 0]],
        "instances": [[0, 0, 1790, 1786 / 1890], [1, 1, 110, 1.0], [2, 2, 100, 0.0]],
        "unmatched": [[1, 3]],
    }


def test_csv_holds_a_row_for_each_instance(dataset) -> None:
    score(dataset, csv=dataset / "instances.csv")
    rows = list(csv.reader(io.StringIO((dataset / "instances.csv").read_text())))
    assert rows[0] == ["image", "class", "instance", "area", "size", "iou"]
    assert rows[1:3] == [["one", "background", "0", "1900", "", "1.0"], ["one", "a", "1", "100", "small", "1.0"]]
    assert len(rows) == 8


def test_exact_lists_no_instance_of_the_background(dataset) -> None:
    instances = png.read_ids(dataset / "SegmentationObject/one.png").copy()
    instances[30:35, 30:35] = 7
    png.write_ids(dataset / "SegmentationObject/one.png", instances)
    images = report.as_dict(score(dataset, protocol="exact"))["images"]
    assert [row[:2] for row in images[0]["instances"]] == [[1, 1]]
    assert [row[:2] for row in images[1]["instances"]] == [[1, 1], [2, 2]]


def test_plot_is_a_png_whatever_its_name(dataset) -> None:
    score(dataset, plot=dataset / "plot")
    assert Image.open(dataset / "plot").format == "PNG"


def test_table_shows_penalized_scores_beside_plain_ones_in_80_columns(dataset) -> None:
    from rich.console import Console

    (dataset / "Predictions/two.png").unlink()
    shutil.copy(dataset / "Predictions/one.png", dataset / "Predictions/two.png")
    console = Console(width=80, file=io.StringIO())
    console.print(report.table(score(dataset)))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert "class inst. unm. IoU all pen. small pen. medium pen. large pen." in lines
    assert "b 1 0 0.0 0.0 0.0 0.0 0.0 - - - -" in lines
    assert "…" not in console.file.getvalue()
    console = Console(width=80, file=io.StringIO())
    console.print(report.table(score(dataset, classes=["background", "a name that is far too long", "b"])))
    assert "…" not in console.file.getvalue()


def test_components_of_the_ground_truth_serve_without_instances_and_it_says_so(dataset) -> None:
    expected = score(dataset).scores
    shutil.rmtree(dataset / "SegmentationObject")
    result = score(dataset)
    np.testing.assert_equal(result.scores, expected)
    assert "No folder SegmentationObject" in result.notes[0]


def test_instance_maps_of_16_bits_hold_more_than_255_instances(dataset) -> None:
    instances = np.arange(1, 2001, dtype=np.uint16).reshape(40, 50) + 300
    target = np.ones((40, 50), np.uint8)
    write_image(dataset, "one", target, instances, target)
    result = score(dataset)
    assert result.records.count.tolist()[0] == 2000
    assert result.records.instance_id[:2000].tolist() == list(range(301, 2301))
    assert "ids above 255" in result.notes[0]
    assert score(dataset, instance_ignore_index=None).notes == []


def test_class_ids_of_16_bits(dataset) -> None:
    for name in NAMES:
        for folder in ("SegmentationClass", "Predictions"):
            ids = png.read_ids(dataset / f"{folder}/{name}.png").astype(np.uint16)
            png.write_ids(dataset / f"{folder}/{name}.png", np.where(ids == 2, 299, ids))
    result = score(dataset, classes=[f"{i}" for i in range(300)])
    assert result.per_class["299"]["ia_iou"] == 1


def test_ignore_index_may_stand_in_a_prediction(dataset) -> None:
    png.write_ids(dataset / "Predictions/one.png", np.full((40, 50), 255, np.uint8))
    assert score(dataset).per_class["a"]["ia_iou"] == pytest.approx(2 / 3)


def test_background_none_counts_class_0_as_any_class(dataset) -> None:
    assert score(dataset, background=None).per_class["background"]["instances"] == 0
    assert score(dataset).per_class["background"]["instances"] == 3


def test_class_names_come_from_a_file(dataset, tmp_path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("background\n  cat \n\ndog")
    assert list(score(dataset, classes=path).per_class) == ["background", "cat", "dog"]
    assert list(score(dataset, classes=None).per_class) == list(voc.CLASSES)
    path.rename(dataset / "classes.txt")
    assert list(score(dataset, classes=None).per_class) == ["background", "cat", "dog"]


def test_all_missing_files_are_listed(dataset) -> None:
    (dataset / "Predictions/one.png").unlink()
    (dataset / "SegmentationClass/two.png").unlink()
    (dataset / "SegmentationObject/three.png").unlink()
    assert problems(dataset) == [
        f"{dataset}/Predictions/one.png: missing",
        f"{dataset}/SegmentationClass/two.png: missing",
        f"{dataset}/SegmentationObject/three.png: missing",
    ]


def test_every_kind_of_bad_file_is_listed_at_once(dataset) -> None:
    path = dataset / "Predictions/one.png"
    path.write_bytes(path.read_bytes()[:-20])
    Image.new("RGB", (50, 40)).save(dataset / "Predictions/two.png")
    png.write_ids(dataset / "Predictions/three.png", np.zeros((40, 51), np.uint8))
    png.write_ids(dataset / "SegmentationClass/three.png", np.full((40, 50), 77, np.uint8))
    assert problems(dataset) == [
        f"{dataset}/Predictions/one.png: truncated PNG",
        f"{dataset}/Predictions/two.png: RGB image; ids need a palette or grey PNG",
        f"{dataset}/Predictions/three.png: size 51x40 differs from 50x40 of {dataset}/SegmentationClass/three.png",
        f"{dataset}/SegmentationClass/three.png: id 77 in 2000 pixels; allowed are the 3 classes 0..2 and"
        " ignore_index 255",
    ]


@pytest.mark.parametrize("folder", ["Predictions", "SegmentationClass"])
def test_an_id_that_is_no_class_is_a_bad_file(dataset, folder) -> None:
    ids = png.read_ids(dataset / f"{folder}/two.png").copy()
    ids[0, :3], ids[5, 5], ids[6, :] = 3, 9, 255
    png.write_ids(dataset / f"{folder}/two.png", ids)
    allowed = "allowed are the 3 classes 0..2"
    assert problems(dataset) == [f"{dataset}/{folder}/two.png: ids 3, 9 in 4 pixels; {allowed} and ignore_index 255"]
    assert problems(dataset, ignore_index=None, instance_ignore_index=255) == [
        f"{dataset}/{folder}/two.png: ids 3, 9, 255 in 54 pixels; {allowed}"
    ]


def test_a_bad_id_of_a_prediction_under_void_is_found_too(dataset) -> None:
    png.write_ids(dataset / "SegmentationClass/one.png", np.full((40, 50), 255, np.uint8))
    png.write_ids(dataset / "Predictions/one.png", np.full((40, 50), 3, np.uint8))
    assert len(problems(dataset)) == 1


def test_an_instance_map_of_another_size_is_a_bad_file(dataset) -> None:
    png.write_ids(dataset / "SegmentationObject/two.png", np.zeros((50, 40), np.uint8))
    (problem,) = problems(dataset)
    assert problem.startswith(f"{dataset}/SegmentationObject/two.png: size 40x50 differs from 50x40 of")


def test_missing_predictions_may_be_skipped_and_are_counted(dataset) -> None:
    (dataset / "Predictions/one.png").unlink()
    result = score(dataset, allow_missing=True)
    assert result.missing == ["one"]
    assert result.images == ["two", "three"]
    assert result.notes == ["1 of 3 images skipped, for there is no prediction of them: one"]
    assert [image["id"] for image in report.as_dict(result)["images"]] == ["two", "three"]


def test_a_missing_prediction_may_be_skipped_but_no_bad_one(dataset) -> None:
    (dataset / "Predictions/one.png").unlink()
    (dataset / "Predictions/two.png").write_bytes(b"")
    assert problems(dataset, allow_missing=True) == [f"{dataset}/Predictions/two.png: empty file"]


def test_no_prediction_at_all_is_an_error_even_if_they_may_be_missing(dataset) -> None:
    for name in NAMES:
        (dataset / f"Predictions/{name}.png").unlink()
    assert problems(dataset, allow_missing=True) == [
        f"{dataset}/Predictions: no prediction of any of the 3 images of val.txt"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "voc"}, "protocol must be 'wacv2024' or 'exact', got 'voc'"),
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"split": "test"}, "test.txt: no such split; splits of this dataset: val"),
        ({"predictions": "nowhere"}, "predictions nowhere: no such folder"),
        ({"classes": []}, "classes: no class names"),
        ({"classes": ["a", "b", "a"]}, "classes: named more than once: a"),
        ({"json": "nowhere/scores.json"}, "json must be a file in a folder that exists, got nowhere/scores.json"),
        ({"plot": "."}, "plot must be a file in a folder that exists, got ."),
        ({"background": -1}, "background must be None or in 0..65535, got -1"),
    ],
)
def test_bad_options_are_named(dataset, options, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        score(dataset, **options)


@pytest.mark.parametrize(("text", "message"), [("", "empty split"), ("one\ntwo\none\n", "more than once: one")])
def test_bad_splits_are_named(dataset, text, message) -> None:
    (dataset / "ImageSets/Segmentation/val.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        score(dataset)


def test_missing_dataset_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        score(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no folder SegmentationClass in it"):
        score(tmp_path)


def test_reports_appear_together_or_not_at_all(dataset, monkeypatch) -> None:
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_plot", fail)
    (dataset / "scores.json").write_text("earlier")
    with pytest.raises(OSError, match="No space left"):
        score(dataset, json=dataset / "scores.json", csv=dataset / "new.csv", plot=dataset / "new.png")
    assert (dataset / "scores.json").read_text() == "earlier"
    assert [path.name for path in dataset.iterdir() if path.is_file()] == ["scores.json"]


def test_an_unreadable_file_is_listed(dataset) -> None:
    (dataset / "Predictions/one.png").unlink()
    (dataset / "Predictions/one.png").mkdir()
    assert problems(dataset) == [f"{dataset}/Predictions/one.png: Is a directory"]
    assert os.path.isdir(dataset / "Predictions/one.png")


def test_nothing_to_average_is_nan(dataset) -> None:
    assert math.isnan(score(dataset).scores["ia_miou_large"])
