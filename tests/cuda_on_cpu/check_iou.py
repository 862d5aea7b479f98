"""instance_iou and the metric's update by the CUDA kernels, run on the CPU, against the reference."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import generators
import numpy as np
from cuda_on_cpu.check import any_tuning, check_masks, masks_of
from cuda_on_cpu.runner import Array, Kernels, build, sources
from fuzz import Inputs, Output

from fastia import reference
from fastia.kernels.cuda import plan_overlaps
from fastia.kernels.cuda.plan import Tuning
from fastia.kernels.cuda.plan_overlaps import OverlapInputs
from fastia.metrics import tally
from fastia.options import OverlapOptions


def check_scenes(kernels: Kernels, seed: int, largest: int = 40, **changes: Any) -> int:
    """Compare the records of a generated scene and the metric's sums with the reference; return the number of masks."""
    rng = np.random.default_rng((6, seed))
    scene = generators.scene(seed, largest)
    arrays = [a if a is None or a.flags.aligned else a.copy() for a in scene[:3]]  # no array of a GPU is unaligned
    inputs = Inputs(rng, *arrays)
    check_records(kernels, arrays, scene.options | changes, any_tuning(rng), rng, seed)
    inputs.check()
    return len(arrays[0])


def fuzz_cuda() -> Callable[[int], int]:
    """A check of one seed; one in fifty makes larger images. FASTIA_SANITIZE names sanitizers to build with."""
    flags = ["-O1", "-g"]
    if sanitizers := os.environ.get("FASTIA_SANITIZE"):
        flags += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    kernels = Kernels(build(sources(), flags=tuple(flags)))

    def check_seed(seed: int) -> int:
        largest = 300 if seed % 50 == 0 else 40
        return check_masks(kernels, seed, largest) + check_scenes(kernels, seed, largest)

    return check_seed


def check_records(
    kernels: Kernels,
    arrays: list[Array | None],
    options: dict[str, Any],
    tuning: Tuning,
    rng: np.random.Generator,
    seed: int,
) -> None:
    expected, confusion = expected_records(arrays, options, int(rng.integers(9)), int(rng.integers(9)))
    outputs = {name: Output(rng, field.shape, field.dtype) for name, field in expected._asdict().items()}
    added = np.ones_like(confusion)
    width, unmatched = expected.class_id.shape[1], expected.unmatched_class_id.shape[1]
    plan = plan_overlaps.instance_iou(inputs_of(arrays), OverlapOptions(**options), width, unmatched, tuning)
    buffers = buffers_of(arrays) | {name: output.values for name, output in outputs.items()} | {"confusion": added}
    kernels.run(plan, buffers, seed)
    for name, field in expected._asdict().items():
        outputs[name].check(field)
    np.testing.assert_array_equal(added, confusion + 1)


def check_update(
    kernels: Kernels, arrays: list[Array | None], options: dict[str, Any], tuning: Tuning, seed: int
) -> None:
    expected, confusion = expected_records(arrays, options, None, None)
    classes = {name: options[name] for name in ("num_classes", "background")}
    sums = np.ones((3, options["num_classes"], 4), np.int64)
    added = np.ones(confusion.shape[1:], np.int64)
    plan = plan_overlaps.update(inputs_of(arrays), OverlapOptions(**options), tuning)
    kernels.run(plan, buffers_of(arrays) | {"tally": sums, "confusion": added}, seed)
    np.testing.assert_array_equal(sums, 1 + tally(expected, **classes))
    np.testing.assert_array_equal(added, 1 + confusion.sum(0))


def expected_records(
    arrays: list[Array | None], options: dict[str, Any], max_instances: int | None, max_unmatched: int | None
) -> tuple[Any, Array]:
    limits = {"max_instances": max_instances, "max_unmatched": max_unmatched}
    if options["num_classes"] is not None:
        return reference.instance_overlaps(*arrays, **options, **limits)
    options = {name: value for name, value in options.items() if name != "num_classes"}
    return reference.instance_iou(*arrays, **options, **limits), np.zeros((len(arrays[0]), 0, 1), np.int64)


def inputs_of(arrays: list[Array | None]) -> OverlapInputs:
    return OverlapInputs(*(None if array is None else masks_of(array) for array in arrays))


def buffers_of(arrays: list[Array | None]) -> dict[str, Array]:
    names = ("preds", "target", "instances")
    return {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
