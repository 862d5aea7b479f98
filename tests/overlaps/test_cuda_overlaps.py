"""The CUDA kernels of instance_iou and of the metric's update, run on the CPU, against the reference."""

from __future__ import annotations

import multiprocessing
import os
import signal

import generators
import numpy as np
import pytest
from cuda_on_cpu import check, check_iou, runner

from fastia.kernels.cuda import plan_overlaps
from fastia.kernels.cuda.plan import Masks, Tuning
from fastia.kernels.cuda.plan_overlaps import OverlapInputs
from fastia.options import OverlapOptions

PROTOCOLS = ("exact", "wacv2024")
IDS = {"background": 0, "ignore_index": 255, "instance_ignore_index": 255, "num_classes": 4}


@pytest.fixture(scope="module")
def kernels() -> runner.Kernels:
    return runner.Kernels()


@pytest.mark.parametrize("chunk", range(4))
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scenes_equal_the_reference(kernels, protocol, chunk):
    seeds = range(chunk * 40, chunk * 40 + 40)
    assert sum(check_iou.check_scenes(kernels, seed, protocol=protocol) for seed in seeds) > 170


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("schedule", range(5))
def test_nasty_predictions_equal_the_reference(kernels, schedule, protocol):
    rng = np.random.default_rng((7, schedule))
    masks = generators.nasty()
    for mask in list(masks.values())[schedule % 2 :: 2]:
        target = masks["blobs 37x70"] if mask.shape == (1, 37, 70) else mask[:, ::-1].copy()
        instances = (target.astype(np.int32) * 3 + np.arange(mask.shape[2]) // 9).astype(np.int32)
        arrays = [mask, target, instances if schedule % 3 else None]
        check_iou.check_records(kernels, arrays, IDS | {"protocol": protocol}, check.any_tuning(rng), rng, schedule)


@pytest.mark.parametrize("pattern", ["rings", "spiral", "comb", "diagonals", "sparse"])
def test_holes_across_borders_between_strips_at_every_row(kernels, pattern):
    rng = np.random.default_rng(0)
    preds, target = (generators.PATTERNS[pattern](rng, 13, 70, 3)[None].astype(np.uint8) for _ in range(2))
    for rows in range(1, 14):
        tuning = Tuning(block=32, strips=1, strip_words=(3 * rows, 3 * rows))
        options = IDS | {"protocol": "wacv2024"}
        check_iou.check_records(kernels, [preds, target, None], options, tuning, rng, rows)


def test_every_pixel_an_instance_and_a_component_fills_the_tables(kernels):
    rng = np.random.default_rng(0)
    preds = (rng.integers(0, 2, (2, 23, 40)) + 2 * (np.arange(23) % 2)[:, None] + 1).astype(np.int16)
    ids = rng.choice(2**31 - 1, preds.size, replace=False).reshape(preds.shape).astype(np.int32) + 1
    for protocol in PROTOCOLS:
        options = IDS | {"protocol": protocol, "num_classes": None, "instance_ignore_index": None}
        check_iou.check_records(kernels, [preds, preds, ids], options, Tuning(block=64, strips=3), rng, 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_updates_of_the_metric_add_up(kernels, protocol):
    checked = 0
    for seed in range(60):
        scene = generators.scene(seed)
        if scene.options["num_classes"] is None:
            continue
        arrays = [array if array is None else np.ascontiguousarray(array) for array in scene[:3]]
        tuning = check.any_tuning(np.random.default_rng(seed))
        check_iou.check_update(kernels, arrays, scene.options | {"protocol": protocol}, tuning, seed)
        checked += 1
    assert checked > 10


def test_sizes_of_instances_and_unmatched_components_in_the_metric(kernels):
    target = np.zeros((1, 200, 230), np.uint8)
    target[0, :31, :33] = target[0, 40:72, :32] = target[0, 80:175, :97] = target[0, :96, 100:196] = 1
    preds = np.where(target[:, ::-1, ::-1] == 1, 2, target).astype(np.uint8)
    options = IDS | {"protocol": "wacv2024"}
    check_iou.check_update(kernels, [preds, target, None], options, Tuning(), 0)


def test_ids_that_are_not_allowed_are_reported_by_map_and_do_no_harm(kernels):
    maps = [np.array([[[1, 70000, 1]]]), np.array([[[1, 1, 9]]]), np.array([[[5, 5, -7]]])]
    options = OverlapOptions("wacv2024", 0, 255, 255, num_classes=3, validate=True)
    error, sums, confusion = np.zeros((3, 2), np.int64), np.zeros((3, 3, 4), np.int64), np.zeros((3, 4), np.int64)
    buffers = check_iou.buffers_of(maps) | {"error": error, "tally": sums, "confusion": confusion}
    for instances in (maps[2], None):
        inputs = check_iou.inputs_of([maps[0], maps[1], instances])
        kernels.run(plan_overlaps.update(inputs, options), buffers, 0)
    assert error.tolist() == [[1, 70000], [1, 9], [1, -7]]
    assert sums[0].sum() == 2


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 0)])
def test_empty_batches_have_empty_records(kernels, shape):
    arrays, rng = [np.zeros(shape, np.uint8)] * 2 + [None], np.random.default_rng(0)
    for protocol in PROTOCOLS:
        check_iou.check_records(kernels, arrays, IDS | {"protocol": protocol}, Tuning(), rng, 0)
        check_iou.check_update(kernels, arrays, IDS | {"protocol": protocol}, Tuning(), 0)


def test_update_of_a_validation_batch_takes_seven_launches_and_bounded_memory():
    masks = Masks((16, 513, 513), (513 * 513, 513, 1), "uint8")
    inputs = OverlapInputs(masks, masks, masks)
    plan = plan_overlaps.update(inputs, OverlapOptions("exact", 0, 255, 255, 21))
    assert len(plan.launches) == 7
    assert len(plan_overlaps.update(inputs, OverlapOptions("wacv2024", 0, 255, 255, 21)).launches) == 10
    large = Masks((64, 1024, 2048), (1024 * 2048, 2048, 1), "uint8")
    options = OverlapOptions("wacv2024", 0, 255, 255)
    assert plan_overlaps.instance_iou(OverlapInputs(large, large, None), options, 100, 100).scratch_bytes <= 2**31


def test_image_beyond_32_bit_positions_is_an_error():
    masks = Masks((1, 2**16, 2**15), (2**31, 2**15, 1), "uint8")
    with pytest.raises(ValueError, match="at most 2147483647 pixels"):
        plan_overlaps.instance_iou(OverlapInputs(masks, masks, None), OverlapOptions("exact", 0, 255, 255), 1, 1)


# Mistakes that a kernel may hold: file, text, what it becomes.
PLANTED = {
    "pixels of a component added up without an atomic": (
        "overlaps/overlap_count.cu",
        "atomicAdd(&(labelled ? sizes.area : sizes.unlabelled)[segment.component], pixels);",
        "{ const Span<unsigned> sum(labelled ? sizes.area : sizes.unlabelled, 1u << 31);"
        " sum[segment.component] += pixels; }",
    ),
    "pixels on instances of the class added up without an atomic": (
        "overlaps/overlap_records.cu",
        "atomicAdd(&sizes.matched[component], tables.pixels[overlap]);",
        "{ const Span<unsigned> sum(sizes.matched, 1u << 31); sum[component] += tables.pixels[overlap]; }",
    ),
    "a component on void taken for a false one": (
        "overlaps/overlaps.cuh",
        "return area[slot] && !hit[slot] && !matched[slot] && void_area[slot] <= area[slot];",
        "return area[slot] && !hit[slot] && !matched[slot];",
    ),
    "a component that its class's pixels meet taken for a false one": (
        "overlaps/overlaps.cuh",
        "return area[slot] && !hit[slot] && !matched[slot] && void_area[slot] <= area[slot];",
        "return area[slot] && !matched[slot] && void_area[slot] <= area[slot];",
    ),
    "pixels that the target alone ignores left out of a share": (
        "overlaps/overlap_records.cu",
        "const unsigned pixels = tables.pixels[overlap] + tables.unlabelled[overlap];",
        "const unsigned pixels = tables.pixels[overlap];",
    ),
    "key put into its slot without an atomic": (
        "overlaps/overlaps.cuh",
        "found = atomicCAS(&keys[slot], kNone, key);",
        "keys.store(slot, key);",
    ),
    "probe beyond the table": ("overlaps/overlaps.cuh", "if (++slot == slots) slot = 0;", "++slot;"),
    "no barrier between the steps of a sort": (
        "overlaps/overlap_records.cu",
        "            __syncthreads();\n        }\n    }\n}",
        "        }\n    }\n}",
    ),
    "tip of a run left open": ("overlaps/contours.cu", "bool tip = y == 0 || y == last;", "bool tip = y == 0;"),
    "gap between upper runs taken for an edge": (
        "overlaps/contours.cu",
        "u > 0 && u >= lower_begin &&",
        "u > 0 && u > lower_begin &&",
    ),
    "siblings of an enclosed component left out": ("overlaps/contours.cu", "find(sibling, outermost)", "outermost"),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_planted_mistakes_are_caught(mistake):
    file, old, new = PLANTED[mistake]
    sources = runner.sources()
    assert sources[file].count(old) == 1
    sources[file] = sources[file].replace(old, new)
    kernels = {name: runner.KERNELS[name] for name in ("core/merge.cu", *plan_overlaps.KERNELS)}
    library = runner.build(sources, kernels, flags=("-O0", "-w"))
    # In a process of its own, since it may write anywhere.
    child = multiprocessing.get_context("fork").Process(target=exit_with_1_where_wrong, args=(library,))
    child.start()
    child.join(60)
    assert child.exitcode == 1 or child.exitcode in (-signal.SIGSEGV, -signal.SIGABRT)


def exit_with_1_where_wrong(library):
    kernels = runner.Kernels(library)
    try:
        # 409: an enclosed component with siblings; 310, 500: a gap between upper runs
        for seed in (310, 409, 500, *range(200)):
            if generators.scene(seed).instances is not None:  # else kernels of other files take part
                check_iou.check_scenes(kernels, seed)
    except (AssertionError, runner.KernelError):
        os._exit(1)
    except BaseException:
        os._exit(2)
    os._exit(0)
