"""The CUDA kernels, run on the CPU, against the reference: one batch of generated masks for each seed."""

from __future__ import annotations

from typing import Any

import generators
import numpy as np
from cuda_on_cpu.runner import Array, Kernels
from fuzz import BFLOAT16, Inputs, Output, pick

from fastia import reference
from fastia.kernels.cuda import plan_masks
from fastia.kernels.cuda.plan import Masks, Tuning
from fastia.options import ComponentOptions

TAUS = (1.0, 1.5, 5.0, 7.3, 1e6, np.inf)


def any_tuning(rng: np.random.Generator) -> Tuning:
    """Strips of a few rows, little shared memory, several chunks: so that small masks meet every border."""
    most = int(rng.integers(1, 20))
    return Tuning(
        block=pick(rng, (32, 64, 128)),
        strips=1,
        strip_words=(most, most),
        run_capacity=pick(rng, (1, 8, 40, 2720)),
        scratch_bytes=pick(rng, (1, 20000, 2**29)),
        wide=bool(rng.random() < 0.3),
    )


def check_masks(kernels: Kernels, seed: int, largest: int = 40) -> int:
    """Compare label, components and weights with the reference; return the number of masks."""
    rng = np.random.default_rng((4, seed))
    masks, options = generators.masks(seed, largest)
    if not masks.flags.aligned:  # no array of a GPU is
        masks = masks.copy()
    inputs = Inputs(rng, masks)
    check_labels(kernels, masks, options, any_tuning(rng), rng, seed)
    check_components(kernels, masks, options, any_tuning(rng), rng, seed)
    check_weights(kernels, masks, options, any_tuning(rng), rng, seed)
    inputs.check()
    return len(masks)


def check_labels(
    kernels: Kernels, masks: Array, options: dict[str, Any], tuning: Tuning, rng: np.random.Generator, seed: int
) -> None:
    labels = Output(rng, masks.shape, np.int32)
    kernels.run(
        plan_masks.label(masks_of(masks), ComponentOptions(**options), tuning),
        {"masks": masks, "labels": labels.values},
        seed,
    )
    labels.check(reference.label(masks, **options))


def check_components(
    kernels: Kernels, masks: Array, options: dict[str, Any], tuning: Tuning, rng: np.random.Generator, seed: int
) -> None:
    width = int(rng.integers(9))
    expected = reference.components(masks, **options, max_components=width)
    outputs = {name: Output(rng, field.shape, field.dtype) for name, field in expected._asdict().items()}
    plan = plan_masks.components(masks_of(masks), ComponentOptions(**options), width, tuning)
    kernels.run(plan, {"masks": masks} | {name: output.values for name, output in outputs.items()}, seed)
    for name, field in expected._asdict().items():
        outputs[name].check(field)


def check_weights(
    kernels: Kernels, masks: Array, options: dict[str, Any], tuning: Tuning, rng: np.random.Generator, seed: int
) -> None:
    tau, normalizer = pick(rng, TAUS), pick(rng, ("class", "foreground"))
    dtype = pick(rng, ("float16", BFLOAT16, "float32", "float64"))
    weights = Output(rng, masks.shape, dtype)
    plan = plan_masks.weights(masks_of(masks), ComponentOptions(**options), tau, normalizer, dtype, tuning)
    kernels.run(plan, {"masks": masks, "weights": weights.values}, seed)
    weights.check(reference.weights(masks, **options, tau=tau, normalizer=normalizer, dtype=dtype))


def labels_of(kernels: Kernels, masks: Array, options: dict[str, Any], tuning: Tuning, seed: int) -> Array:
    labels = np.full(masks.shape, -7, np.int32)
    kernels.run(
        plan_masks.label(masks_of(masks), ComponentOptions(**options), tuning), {"masks": masks, "labels": labels}, seed
    )
    return labels


def masks_of(masks: Array) -> Masks:
    return Masks(masks.shape, masks.strides, masks.dtype.name)
