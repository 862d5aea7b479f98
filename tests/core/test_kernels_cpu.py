"""The CPU kernels against the reference, bit for bit, on generated masks; and what a reference cannot show."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fuzz
import generators
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.testing import assert_array_equal

from fastia import reference
from fastia.kernels.cpu import launch
from fastia.kernels.cpu import masks as cpu_masks
from fastia.kernels.cpu import overlaps as cpu_overlaps
from fastia.kernels.errors import InvalidId
from fastia.options import ComponentOptions, OverlapOptions

COMPONENT_OPTIONS = {"connectivity": 8, "background": 0, "ignore_index": 255}
INSTANCE_OPTIONS = {"protocol": "exact", "background": 0, "ignore_index": 255, "instance_ignore_index": 255}
INSTRUCTION_SETS = ("neon", "scalar") if launch.instruction_set() == "neon" else ("avx512", "avx2", "sse2", "scalar")


@pytest.mark.parametrize("chunk", range(20))
def test_masks_equal_the_reference(chunk):
    assert sum(fuzz.check_masks(seed) for seed in range(chunk * 100, chunk * 100 + 100)) > 400


@pytest.mark.parametrize("chunk", range(20))
def test_scenes_equal_the_reference(chunk):
    assert sum(fuzz.check_scene(seed) for seed in range(chunk * 100, chunk * 100 + 100)) > 400


@pytest.mark.parametrize("chunk", range(8))
def test_images_cut_into_strips_equal_the_reference(chunk):
    for seed in range(chunk * 5, chunk * 5 + 5):
        fuzz.check_masks(seed, largest=300)
    for seed in range(chunk * 25, chunk * 25 + 25):
        fuzz.check_scene(seed, stretch=100)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS[INSTRUCTION_SETS.index(launch.instruction_set()) :])
def test_every_instruction_set_equals_the_reference(instruction_set):
    environment = os.environ | {"FASTIA_CPU": instruction_set}
    command = [sys.executable, fuzz.__file__, "--seeds", "0:300", "--callers", "1"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"instruction set {instruction_set}," in result.stdout


@pytest.mark.parametrize(("name", "masks"), generators.nasty().items())
@pytest.mark.parametrize("connectivity", [4, 8])
def test_nasty_masks_equal_the_reference(name, masks, connectivity):
    options = COMPONENT_OPTIONS | {"connectivity": connectivity}
    for threads in fuzz.THREADS:
        labels = np.full(masks.shape, -7, np.int32)
        cpu_masks.fill_labels(masks, labels, ComponentOptions(**options), threads=threads)
        assert_array_equal(labels, reference.label(masks, **options))
        weights = np.full(masks.shape, np.nan, np.float32)
        cpu_masks.fill_weights(masks, weights, ComponentOptions(**options), 5.0, "class", threads=threads)
        assert_array_equal(weights, reference.weights(masks, **options))


@pytest.mark.parametrize("protocol", ["wacv2024", "exact"])
def test_nasty_masks_as_predictions_equal_the_reference(protocol):
    options = INSTANCE_OPTIONS | {"protocol": protocol}
    masks = generators.nasty()
    for preds in masks.values():
        for truth in (preds, preds[:, ::-1, ::-1], masks.get(f"blobs {preds.shape[1]}x{preds.shape[2]}", preds)):
            check_instances(preds, truth, None, options)


@settings(max_examples=300)
@given(generators.mask_arrays())
def test_labels_of_any_small_mask(masks):
    for connectivity in (4, 8):
        options = COMPONENT_OPTIONS | {"connectivity": connectivity}
        labels = np.full((1, *masks.shape), -7, np.int32)
        cpu_masks.fill_labels(masks[None], labels, ComponentOptions(**options))
        assert_array_equal(labels[0], reference.label(masks, **options))


@settings(max_examples=300)
@given(generators.mask_arrays(elements=(0, 1), side=12))
def test_hole_filled_components_of_any_small_prediction(preds):
    target = np.zeros_like(preds)
    target[0] = 1
    check_instances(preds[None], target[None], None, INSTANCE_OPTIONS | {"protocol": "wacv2024"})


def check_instances(preds, target, instances, options):
    table = cpu_overlaps.instance_table(preds, target, instances, OverlapOptions(**options))
    expected = reference.instance_iou(preds, target, instances, **options)
    assert_array_equal(table.count, expected.count)
    assert_array_equal(table.unmatched_count, expected.unmatched_count)
    fields = [np.empty_like(field) for field in expected]
    table.copy(*fields[1:7])
    table.copy_unmatched(*fields[8:])
    for i in (*range(1, 7), 8, 9):
        assert_array_equal(fields[i], expected[i])


def test_image_of_a_hundred_million_pixels_in_one_row():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, 2_000_000).astype(np.uint8)
    values = values[np.append(True, values[1:] != values[:-1])]  # so that every run is a component
    values[values == 5] = 255
    lengths = rng.integers(1, 101, values.size)
    lengths[-1] += 100_000_000 - lengths.sum()
    masks = np.repeat(values, lengths).reshape(1, 1, -1)

    foreground = (values != 0) & (values != 255)
    number = np.where(foreground, np.cumsum(foreground), 0).astype(np.int32)
    labels = np.full(masks.shape, -7, np.int32)
    table = cpu_masks.component_table(masks, labels, ComponentOptions(**COMPONENT_OPTIONS))
    assert_array_equal(labels[0, 0], np.repeat(number, lengths))
    count = np.count_nonzero(foreground)
    class_id, area, bbox = (
        np.empty((1, count, *tail), t) for t, tail in ((np.int32, ()), (np.int64, ()), (np.int32, (4,)))
    )
    table.copy(class_id, area, bbox)
    ends = np.cumsum(lengths)
    assert table.count.tolist() == [count]
    assert_array_equal(class_id[0], values[foreground])
    assert_array_equal(area[0], lengths[foreground])
    assert_array_equal(bbox[0, :, 1], (ends - lengths)[foreground])
    assert_array_equal(bbox[0, :, 3], ends[foreground])

    total = np.bincount(values, weights=lengths)
    weight = np.where(foreground, np.minimum(5, total[values] / lengths), values != 255).astype(np.float32)
    weights = labels.view(np.float32)  # poisoned with labels
    cpu_masks.fill_weights(masks, weights, ComponentOptions(**COMPONENT_OPTIONS), 5.0, "class")
    assert_array_equal(weights[0, 0], np.repeat(weight, lengths))


@pytest.mark.parametrize("value", [-3, 65536, 2**40])
@pytest.mark.parametrize("position", [(0, 0, 0), (1, 20, 99), (1, 7, 63)])
def test_invalid_ids_are_named(value, position):
    masks = np.ones((2, 21, 100), np.int64)
    wrong = masks.copy()
    wrong[position] = value
    labels = np.empty(masks.shape, np.int32)
    for threads in (1, 3):
        with pytest.raises(InvalidId, match=rf"masks.*{value}\b"):
            cpu_masks.fill_labels(wrong, labels, ComponentOptions(**COMPONENT_OPTIONS), threads=threads)
        with pytest.raises(InvalidId, match=rf"masks.*{value}\b"):
            cpu_masks.component_table(wrong, labels, ComponentOptions(**COMPONENT_OPTIONS), threads=threads)
        with pytest.raises(InvalidId, match=rf"masks.*{value}\b"):
            cpu_masks.fill_weights(
                wrong, labels.view(np.float32), ComponentOptions(**COMPONENT_OPTIONS), 5.0, "class", threads=threads
            )
        with pytest.raises(InvalidId, match=rf"preds.*{value}\b"):
            cpu_overlaps.instance_table(wrong, masks, masks, OverlapOptions(**INSTANCE_OPTIONS), threads=threads)
        with pytest.raises(InvalidId, match=rf"target.*{value}\b"):
            cpu_overlaps.instance_table(masks, wrong, masks, OverlapOptions(**INSTANCE_OPTIONS), threads=threads)
        with pytest.raises(InvalidId, match=rf"target.*{value}\b"):
            cpu_overlaps.instance_table(masks, wrong, None, OverlapOptions(**INSTANCE_OPTIONS), threads=threads)


@pytest.mark.parametrize("value", [-1, 2**31, 2**40])
def test_invalid_instance_ids_are_named(value):
    masks = np.ones((1, 3, 70), np.int64)
    wrong = masks.copy()
    wrong[0, 2, 69] = value
    with pytest.raises(InvalidId, match=rf"instances.*{value}\b"):
        cpu_overlaps.instance_table(masks, masks, wrong, OverlapOptions(**INSTANCE_OPTIONS))


def test_target_outside_the_classes_is_named_and_a_prediction_is_wrong():
    masks = np.array([[[0, 4, 255, 5]]], np.uint8)
    with pytest.raises(InvalidId, match=r"target.*\b5\b"):
        cpu_overlaps.instance_table(masks, masks, None, OverlapOptions(**INSTANCE_OPTIONS, num_classes=5))
    target = np.minimum(masks, 4)
    confusion = np.full((1, 5, 6), -7)
    table = cpu_overlaps.instance_table(
        masks, target, None, OverlapOptions(**INSTANCE_OPTIONS, num_classes=5), confusion
    )
    assert table.count.tolist() == [1]
    assert confusion[0, 4].tolist() == [0, 0, 0, 0, 1, 2]
    assert confusion.sum() == 4


def test_number_of_threads_is_that_of_torch():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert launch.num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_calls_from_several_python_threads_do_not_mix():
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fuzz.check_masks, range(2000, 2100)))
        list(pool.map(fuzz.check_scene, range(2000, 2050)))


def test_child_of_a_fork_labels_as_its_parent():
    masks = generators.white(np.random.default_rng(0), 300, 2000, 5)[None].astype(np.uint8)

    def labels():
        out = np.empty(masks.shape, np.int32)
        cpu_masks.fill_labels(masks, out, ComponentOptions(**COMPONENT_OPTIONS), threads=4)
        return out

    def child(queue):
        queue.put(int(labels().sum(dtype=np.int64)))

    expected = int(labels().sum(dtype=np.int64))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join(60)
    assert process.exitcode == 0


def test_huge_image_check_holds_on_a_small_one():
    result = subprocess.run([sys.executable, Path(__file__).parents[1] / "huge.py", "--side", "1500"], text=True)
    assert result.returncode == 0
