"""Fine-grained mIoU: over images, classes and instances, and over the worst images.

Of the IoU of class c in image i, where the ground truth has c: `miou_image`, the mean over images of the mean over
classes; `miou_class`, the mean over classes of the mean over images; of each `_worst_5` and `_worst_1`, over the
worst 5 or 1 % of the images (at least one), per class for the latter; `miou_instance`, the mean over classes of the
mean over instances, where an instance answers for the share of its class's false positives in the image that its area
has of its class; and `image_iou_per_class`. The state grows by a table per image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastia.metrics.iiou import foreground_records
from fastia.metrics.registry import Columns, CountedImage, Floats, Ratio, Score, Sums, fixed, mean, quotient
from fastia.metrics.standard import class_pixels

WORST = (1, 5)  # percent of images over which the worst-case scores average


def _count_instances(image: CountedImage) -> NDArray[np.int64]:
    class_id, area, hit = foreground_records(image)
    pixels = class_pixels(image.confusion)
    all_areas = np.zeros(len(pixels), np.int64)
    np.add.at(all_areas, class_id, area)
    false = (pixels[:, 2] - pixels[:, 0])[class_id] * (area / all_areas[class_id])
    counts = np.zeros((len(pixels), 2), np.int64)
    np.add.at(counts[:, 0], class_id, fixed(hit / (area + false)))
    np.add.at(counts[:, 1], class_id, 1)
    return counts


def _of_images(columns: Columns) -> dict[str, Floats]:
    """IoU and presence of each class in each image, and both over the number of the image's classes."""
    hit, truth, predicted = (columns[f"image_{name}"] for name in ("hit", "truth", "predicted"))
    present = truth > 0
    iou = np.where(present, quotient(hit, truth + predicted - hit), 0.0)
    classes = np.maximum(present.sum(1, keepdims=True), 1)
    return {
        "class_iou": iou,
        "class_present": present.astype(np.float64),
        "image_iou": iou / classes,
        "image_share": present / classes,
    }


def _worst_cases(columns: Columns) -> dict[str, Any]:
    iou = np.where(columns["class_present"] > 0, columns["class_iou"], np.nan)  # [images, C]
    images = np.array([mean(row) for row in iou])
    values = {}
    for percent in WORST:
        values[f"miou_image_worst_{percent}"] = _worst(images, percent)
        values[f"miou_class_worst_{percent}"] = mean(np.array([_worst(column, percent) for column in iou.T]))
    return values


def _worst(values: Floats, percent: int) -> float:
    present = np.sort(values[~np.isnan(values)])
    return mean(present[: max(1, len(present) * percent // 100)])


SCORE = Score(
    "fine_grained",
    needs=(
        Sums("instance_iou", ("instance_iou", "instance_count"), _count_instances, frozenset({"instance_iou"})),
        Sums(
            "class_pixels",
            ("image_hit", "image_truth", "image_predicted"),
            lambda image: class_pixels(image.confusion),
            stacked=True,
        ),
    ),
    definition=__doc__,
    source='Wang et al., "Revisiting Evaluation Metrics for Semantic Segmentation", NeurIPS 2023 (mIoU^I, ^C and ^K).',
    ratios={
        "miou_image": Ratio({"image_iou": 1}, {"image_share": 1}, ["class_present"], "pooled"),
        "miou_class": Ratio({"class_iou": 1}, {"class_present": 1}, ["class_present"], per_class="image_iou"),
        "miou_instance": Ratio({"instance_iou": 1}, {"instance_count": 1}, ["instance_count"]),
    },
    derive=_of_images,
    others=_worst_cases,
)
