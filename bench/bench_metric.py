"""`instance_iou` beside a plain NumPy/OpenCV loop over instances, and beside the floor: a copy of the three maps."""

import functools
from pathlib import Path

import cc3d
import numpy as np
import peers
import pytest
import torch
from PIL import Image
from scenes import NAMES, scene

import fastia

COCO100 = Path(__file__).parents[2] / "shared/data/coco100"
FEW_INSTANCES = ("masks", "sparse", "masks, batch 1", "coco100")  # the loop takes minutes where there are thousands
THREADS = sorted({1, torch.get_num_threads()})
VOID = -1  # the instance id of void pixels

every_protocol = pytest.mark.parametrize("protocol", ["wacv2024", "exact"])
every_scene = pytest.mark.parametrize("name", [*NAMES, "coco100"])


def coco100():
    if not COCO100.exists():
        pytest.skip(f"needs {COCO100}")
    for name in (COCO100 / "ImageSets/Segmentation/all.txt").read_text().split():
        folders = ("Predictions", "SegmentationClass", "SegmentationObject")
        preds, target, instances = (np.array(Image.open(COCO100 / folder / f"{name}.png")) for folder in folders)
        yield preds[None], target[None], np.where(instances == 255, VOID, instances.astype(np.int32))[None]


@functools.cache
def batches(name):
    """-> list of (preds, target [B, H, W] uint8, instances [B, H, W] int32); a scene is predicted 4 pixels away."""
    if name == "coco100":
        return list(coco100())
    target = scene(name)
    clean = peers.without_void(target)
    instances = np.stack([cc3d.connected_components(image, out_dtype=np.uint32) for image in clean]).astype(np.int32)
    instances[target == 255] = VOID
    return [(np.roll(clean, (4, 4), axis=(1, 2)), target, instances)]


def info(protocol, name, who):
    targets = [target for _, target, _ in batches(name)]
    pixels, images = sum(target.size for target in targets), sum(len(target) for target in targets)
    return {"operation": f"instance_iou, {protocol}", "scene": name, "who": who, "pixels": pixels, "images": images}


@pytest.mark.parametrize("name", FEW_INSTANCES)
def test_loop_gives_the_same_answer(name):
    for batch in batches(name):
        result = fastia.instance_iou(*batch, instance_ignore_index=VOID)
        for image, count, ious in zip(zip(*batch, strict=True), result.count, result.iou, strict=True):
            assert np.allclose(peers.instance_iou_loop(*image, VOID), ious[:count], rtol=0, atol=1e-12)


@every_protocol
@pytest.mark.parametrize("threads", THREADS)
@every_scene
def test_fastia(measure, name, threads, protocol):
    if name == "coco100" and threads > 1:
        pytest.skip("one small image a call: one thread")
    arguments = {"protocol": protocol, "instance_ignore_index": VOID}
    images = batches(name)
    measure(
        lambda: [fastia.instance_iou(*batch, **arguments) for batch in images],
        threads,
        **info(protocol, name, "fastia"),
    )


@every_protocol
@every_scene
def test_floor(measure, name, protocol):
    sources = [array for batch in batches(name) for array in batch]
    warm = [source.copy() for source in sources]
    measure(lambda: [np.copyto(*pair) for pair in zip(warm, sources, strict=True)], **info(protocol, name, "floor"))


@pytest.mark.parametrize("name", FEW_INSTANCES)
def test_loop(measure, name):
    images = [image for batch in batches(name) for image in zip(*batch, strict=True)]
    measure(
        lambda: [peers.instance_iou_loop(*image, VOID) for image in images],
        **info("wacv2024", name, "NumPy/OpenCV loop"),
    )
