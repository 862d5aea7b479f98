"""What is counted by class and size, and the scores that come of it."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import fastia
from fastia.functional import instance_overlaps
from fastia.metrics import scores, tally


def squares(*sides: int) -> np.ndarray:
    """A mask with a square of class 1 for each side, apart from each other."""
    mask = np.zeros((max(sides) + 2, sum(sides) + 2 * len(sides)), np.uint8)
    x = 1
    for side in sides:
        mask[1 : 1 + side, x : x + side] = 1
        x += side + 2
    return mask


def test_sizes_begin_at_32_and_96_pixels_a_side() -> None:
    mask = squares(31, 32, 95, 96)
    count, unmatched, _ = tally(fastia.instance_iou(np.zeros_like(mask), mask), num_classes=2, background=0)
    assert count.tolist() == [[1, 0, 0, 0], [0, 1, 2, 1]]
    assert not unmatched.any()
    count, unmatched, _ = tally(fastia.instance_iou(mask, np.zeros_like(mask)), num_classes=2, background=0)
    assert unmatched.tolist() == [[0, 0, 0, 0], [0, 1, 2, 1]]


def test_background_has_no_size_under_wacv2024_and_is_no_instance_under_exact() -> None:
    target = np.zeros((40, 40), np.uint8)
    instances = np.zeros((40, 40), np.int32)
    instances[:10] = 1  # an annotated object whose pixels are all background
    for protocol, expected in (("wacv2024", [[2, 0, 0, 0], [0, 0, 0, 0]]), ("exact", [[0] * 4] * 2)):
        result = fastia.instance_iou(target, target, instances, protocol=protocol)
        assert tally(result, num_classes=2, background=0)[0].tolist() == expected


def test_without_background_class_0_has_sizes() -> None:
    target = np.zeros((40, 40), np.uint8)
    result = fastia.instance_iou(target, target, background=None)
    assert tally(result, num_classes=1, background=None)[0].tolist() == [[0, 0, 1, 0]]


def test_tally_of_tensors_equals_that_of_arrays_and_of_single_images() -> None:
    rng = np.random.default_rng(0)
    preds, target, instances = rng.integers(0, 4, (3, 5, 20, 30))
    arguments = {"num_classes": 4, "background": 0}
    whole = tally(fastia.instance_iou(*map(torch.from_numpy, (preds, target, instances))), **arguments)
    assert isinstance(whole, torch.Tensor)
    images = zip(preds, target, instances, strict=True)
    arrays = [tally(fastia.instance_iou(*image), **arguments) for image in images]
    assert all(isinstance(array, np.ndarray) and array.dtype == np.int64 for array in arrays)
    np.testing.assert_array_equal(sum(arrays), whole)
    assert whole[0].sum() == 5 * 4


def test_class_with_false_positives_alone_scores_0_in_the_penalized_mean() -> None:
    sums = np.zeros((3, 3, 4), np.int64)
    sums[0, 1, 1], sums[2, 1, 1] = 1, 2**36  # class 1: a small instance of IoU 1
    sums[1, 2, 2] = 1  # class 2: an unmatched component of medium size
    result = scores(sums, np.zeros((3, 4), np.int64))
    assert result["ia_miou"] == 1
    assert result["ia_miou_penalized"] == 0.5
    assert result["ia_miou_penalized_small"] == 1
    assert result["ia_miou_penalized_medium"] == 0
    assert result["ia_iou_per_class"].isnan().tolist() == [True, False, True]
    assert result["unmatched_per_class"].tolist() == [0, 0, 1]


def test_pixel_scores_of_a_confusion_matrix() -> None:
    confusion = np.array([[6, 1, 0, 1], [2, 8, 0, 0], [0, 0, 0, 0]])  # class 2 has no ground truth
    result = scores(np.zeros((3, 3, 4), np.int64), confusion)
    assert result["iou_per_class"][:2].tolist() == pytest.approx([6 / 10, 8 / 11])
    assert math.isnan(result["iou_per_class"][2])
    assert result["miou"].item() == pytest.approx((6 / 10 + 8 / 11) / 2)
    assert result["pixel_accuracy"].item() == pytest.approx(14 / 18)
    assert result["mean_accuracy"].item() == pytest.approx((6 / 8 + 8 / 10) / 2)
    assert result["fw_iou"].item() == pytest.approx(8 / 18 * 6 / 10 + 10 / 18 * 8 / 11)


def test_predictions_outside_the_classes_are_wrong_and_no_component() -> None:
    target = np.array([[0, 1, 1, 255]], np.uint8)
    for preds, expected in (([[0, 1, 255, 1]], [[1, 0, 0], [0, 1, 1]]), ([[7, 1, 9, 1]], [[0, 0, 1], [0, 1, 1]])):
        records, confusion = instance_overlaps(np.array(preds, np.uint8), target, num_classes=2, protocol="exact")
        assert confusion.tolist() == expected
        assert records.unmatched_count == 0


def test_importing_fastia_and_its_scores_does_not_import_torchmetrics() -> None:
    code = "import sys, fastia, fastia.metrics; sys.exit('torchmetrics' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
