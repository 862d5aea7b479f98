"""What a user would install or write instead: the operations on one [H, W] uint8 mask, as fast as each library allows.

Background is 0, void is 255, connectivity 8. `LABEL[name](mask)` returns labels (0 on background and void, numbered in
the library's own order) and `WEIGHTS[name](mask)` the float32 weights of `fastia.weights` with its default arguments.
"""

import cv2
import numpy as np
from scipy import ndimage
from skimage import measure

try:
    import cc3d
except ModuleNotFoundError:  # bench/gpu.py compares with what is installed
    cc3d = None

TAU = 5.0
EIGHT = np.ones((3, 3), bool)

cv2.setNumThreads(1)


def without_void(mask):
    return mask * (mask != 255)  # several times faster than np.where


def foreground_classes(mask):
    return [class_id for class_id in np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:255]) if class_id]


def label_cc3d(mask):
    return cc3d.connected_components(without_void(mask), connectivity=8)


def label_skimage(mask):
    return measure.label(without_void(mask), background=0, connectivity=2)


def components_opencv(mask):
    """Yields the labels of one class after the other, and the areas of these components."""
    for class_id in foreground_classes(mask):
        hit = cv2.compare(mask, int(class_id), cv2.CMP_EQ)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(hit, connectivity=8, ltype=cv2.CV_32S)
        yield labels, stats[1:, cv2.CC_STAT_AREA]


def components_scipy(mask):
    for class_id in foreground_classes(mask):
        labels, _ = ndimage.label(mask == class_id, EIGHT)
        yield labels, np.bincount(labels.ravel())[1:]


def label_by_class(mask, components):
    out = np.zeros(mask.shape, np.int32)
    count = 0
    for labels, areas in components(mask):
        np.copyto(out, labels + count, where=labels > 0)
        count += len(areas)
    return out


def weights_by_label(mask, label):
    """Areas and class of each label from NumPy, then one look-up."""
    labels = label(mask)
    area = np.bincount(labels.ravel())
    class_of = np.zeros(len(area), np.uint8)
    class_of[labels] = mask
    total = np.bincount(class_of, weights=area)
    table = np.minimum(TAU, total[class_of] / np.maximum(area, 1)).astype(np.float32)
    table[0] = 1
    return table.take(labels) * (mask != 255)


def weights_by_class(mask, components):
    out = (mask != 255).astype(np.float32)
    for labels, areas in components(mask):
        table = np.minimum(TAU, areas.sum() / areas).astype(np.float32)
        np.copyto(out, np.concatenate(([np.float32(0)], table)).take(labels), where=labels > 0)
    return out


LABEL = {
    "cc3d": label_cc3d,
    "scikit-image": label_skimage,
    "SciPy": lambda mask: label_by_class(mask, components_scipy),
    "OpenCV": lambda mask: label_by_class(mask, components_opencv),
}
if cc3d is None:
    del LABEL["cc3d"]
WEIGHTS = {
    "cc3d": lambda mask: weights_by_label(mask, label_cc3d),
    "scikit-image": lambda mask: weights_by_label(mask, label_skimage),
    "SciPy": lambda mask: weights_by_class(mask, components_scipy),
    "OpenCV": lambda mask: weights_by_class(mask, components_opencv),
}


def fill_holes(binary):
    """[H, W] 0/1 uint8 with the holes of its 8-connected components filled."""
    contours, _ = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros_like(binary), contours, -1, 1, cv2.FILLED)


def instance_iou_loop(pred, target, instances, void_instance):
    """The plain evaluation of protocol wacv2024 of one image: a loop over instances, each compared in full-image masks.

    Returns the ious of the instances in ascending order of their ids (background first).
    """
    valid = instances != void_instance
    pred_parts = {}
    for class_id in foreground_classes(pred):
        binary = (pred == class_id).astype(np.uint8)
        _, labels = cv2.connectedComponents(fill_holes(binary), connectivity=8)
        pred_parts[class_id] = labels * binary * valid
    background_pred, background = (pred == 0) & valid, (target == 0) & valid
    ious = []
    if background.any():
        ious.append(np.count_nonzero(background_pred & background) / np.count_nonzero(background_pred | background))
    for instance in np.unique(instances[valid]):
        if instance == 0:
            continue
        mask = instances == instance
        class_id = target[mask & (target != 255)].max()
        parts = pred_parts.get(class_id)
        intersection, covered = 0, 0
        for part in np.unique(parts[mask]) if parts is not None else ():
            if part == 0:
                continue
            hit = parts == part
            overlap = np.count_nonzero(hit & mask)
            other = np.count_nonzero(hit & ~mask & (target == class_id))
            rest = np.count_nonzero(hit) - overlap - other
            intersection += overlap
            covered += overlap + int(overlap / (overlap + other) * rest)
        ious.append(intersection / (np.count_nonzero(mask) + covered - intersection))
    return np.array(ious)
