"""The Triton kernels without a GPU: interpreted, compiled ahead of time, and keyed for the JIT cache; and with one."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import fastia

pytest.importorskip("triton", reason="needs Triton, which ships for Linux alone")

import triton
from test_losses import check_error_against_eager, random_configuration, random_problem
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastia.kernels.triton import logits as kernels
from fastia.kernels.triton import walk
from fastia.kernels.triton.pixel_losses import PIXEL_LOSSES
from fastia.options import LossOptions

ARCHITECTURES = (80, 90, 100)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KERNELS = ("forward", "argmax", "pixel", "backward", "backward_same_size")
LOOPS = ("forward", "backward")  # most of the time is spent here
OPTIONAL = ("weights", "class_weight", "class_weight_sum", "class_factor")  # tensors that may be absent
POINTERS = {"target": "i64", "labels": "i16", "row_used": "i32", "out": "u8", "lse": "fp64"}

pytestmark = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="TRITON_INTERPRET=1 leaves nothing to compile")


def test_interpreted_kernels_agree_with_eager():
    """A process of its own: the interpreter is chosen when Triton is imported."""
    path = Path(__file__).with_name("triton_interpreted.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, cwd=path.parents[2], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert re.search(r"^\d+ passed", run.stdout, re.MULTILINE), run.stdout[-500:]


def resource_usage(kernel, architecture, dtype, absent, **constants) -> dict[str, int]:
    """Registers, stack and local memory of a kernel, compiled to a cubin for a GPU that need not be there."""
    signature = {}
    constants |= dict.fromkeys(absent)
    for parameter in kernel.params:
        if parameter.is_constexpr or parameter.name in absent:
            signature[parameter.name] = "constexpr"
        elif parameter.annotation_type:
            signature[parameter.name] = parameter.annotation_type
        else:
            logits = parameter.name in ("logits", "grad_logits")
            signature[parameter.name] = "*" + (dtype if logits else POINTERS.get(parameter.name, "fp32"))
    constants = {name: value for name, value in constants.items() if signature.get(name) == "constexpr"}
    compiled = triton.compile(
        ASTSource(kernel, signature, constants),
        target=GPUTarget("cuda", architecture, 32),
        options=kernels.CELL_OPTIONS if "CELLS" in constants else kernels.PIXEL_OPTIONS,
    )
    assert not re.search(r"(?<![\w.])(ld\.local|st\.local|atom|red)\b", compiled.asm["ptx"])  # spills, atomics
    return dump_resource_usage(compiled.asm["cubin"])


def dump_resource_usage(cubin: bytes) -> dict[str, int]:
    path = Path(os.environ["TRITON_CACHE_DIR"], "kernel.cubin")
    path.write_bytes(cubin)
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}


@pytest.fixture
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def variants():
    """Every kernel, class block, dtype and GPU, and 64-bit offsets; all combinations with FASTIA_TRITON_ALL=1."""
    for architecture, own_dtype in zip(ARCHITECTURES, DTYPES, strict=True):
        for name in KERNELS:
            for block in kernels.CELLS:
                for wide in (False, True):
                    for dtype in DTYPES:
                        telling = dtype == own_dtype and (block == 16 or (name in LOOPS and not wide))
                        if os.environ.get("FASTIA_TRITON_ALL") or (telling and (not wide or architecture == 90)):
                            yield architecture, dtype, name, block, wide, False
                            if name != "argmax" and architecture == 90 and not wide:
                                yield architecture, dtype, name, block, wide, True


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize(("architecture", "dtype", "name", "block", "wide", "plain"), list(variants()))
def test_kernel_compiles_without_stack_or_local_memory(architecture, dtype, name, block, wide, plain):
    loss = PIXEL_LOSSES["cross_entropy"]
    usage = resource_usage(
        getattr(walk, f"{name}_kernel"),
        architecture,
        dtype,
        ("logits",) * (name == "pixel") + OPTIONAL * plain,
        FORWARD=loss.forward,
        BACKWARD=loss.backward,
        ALIGN_CORNERS=block == 8,
        WIDE=wide,
        CLASSES=block,
        PIXELS=kernels.PIXELS,
        CELLS=kernels.CELLS[block],
    )
    kind = f"{name} block {block} {'64' if wide else '32'} bits{' plain' if plain else ''}"
    print(f"sm_{architecture} {dtype} {kind}: {usage['REG']} registers")
    assert usage["STACK"] == usage["LOCAL"] == 0


class Device:
    """Stands for a driver and its GPU: enough of one for Triton to find the key of a compilation."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def compilations(monkeypatch):
    """The (kernel, key) pairs that launches would compile; nothing is compiled or run."""
    keys = set()

    def record(*, key, fn, **_):
        keys.add((fn.name, str(key)))
        return True

    monkeypatch.setattr(triton.runtime.driver, "_active", Device())
    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", record)
    for name in KERNELS:
        getattr(walk, f"{name}_kernel").device_caches.clear()
    yield keys
    for name in KERNELS:
        getattr(walk, f"{name}_kernel").device_caches.clear()


def launch(b, c, h, w, height, width, *, dtype=torch.float32, align_corners=False, plain=False, offset=0):
    """Everything once, on tensors of which only shapes, strides and addresses matter."""
    logits = torch.empty(b * c * h * w + offset, dtype=dtype)[offset:].view(b, c, h, w)
    target = torch.empty(b * height * width + offset, dtype=torch.uint8)[offset:].view(b, height, width)
    weights = None if plain else torch.empty(b, width, height).transpose(1, 2)
    options = LossOptions(
        "cross_entropy",
        (0.0 if plain else 0.1,),
        ignore_index=None if plain else -(2**40),
        align_corners=align_corners,
    )
    class_weight = None if plain else torch.ones(c)
    _, lse, _ = kernels.upsample_loss(logits, target, weights, class_weight, options)
    grad = torch.ones(()) if plain else torch.ones(b, height, width)
    kernels.upsample_loss_backward(grad, logits, target, weights, class_weight, lse, options)
    kernels.upsample_argmax(logits, (height, width), align_corners=align_corners)


def test_sizes_strides_and_options_share_one_compilation(compilations):
    launch(2, 21, 65, 65, 129, 129)
    launch(1, 21, 8, 8, 8, 8)  # the same size: the one kernel of its own
    first = set(compilations)
    assert sorted(name for name, _ in first) == sorted(f"{name}_kernel" for name in KERNELS)
    launch(1, 9, 1, 1, 1, 7)
    launch(3, 24, 16, 32, 64, 128, offset=1)
    launch(1, 16, 5, 6, 5, 6, offset=3)
    assert compilations == first
    launch(16, 9, 1, 100, 3, 17, plain=True)
    launch(1, 16, 5, 6, 5, 6, plain=True, offset=3)
    plain = set(compilations)
    assert sorted(name for name, _ in plain - first) == sorted(f"{name}_kernel" for name in KERNELS if name != "argmax")
    launch(2, 21, 65, 65, 129, 129, plain=True)
    launch(1, 21, 8, 8, 8, 8, plain=True, offset=1)
    assert compilations == plain


def test_blocks_of_classes_dtypes_and_align_corners_compile_once_each(compilations):
    for c in (2, 3, 4, 5, 21, 24, 25, 150, 1203):
        for dtype in DTYPES.values():
            for align_corners in (False, True):
                launch(1, c, 3, 3, 5, 5, dtype=dtype, align_corners=align_corners)
    counts = {name: sum(other == name for other, _ in compilations) for name, _ in compilations}
    # argmax: one more per block and dtype where classes need int32; the pixel kernel knows nothing of logits.
    assert counts == {"forward_kernel": 18, "backward_kernel": 18, "argmax_kernel": 24, "pixel_kernel": 1}


def test_offsets_and_positions_beyond_32_bits_take_one_more_compilation(compilations):
    """No memory of that size is touched: the strides alone are large."""
    argmax = partial(kernels.upsample_argmax, align_corners=False)
    argmax(torch.empty(5, 9, 1, 4), (2, 2))
    assert len(compilations) == 1
    for stride in (2**29, 2**29 + 5, 2**33):
        argmax(torch.empty_strided((5, 9, 1, 4), (stride, 4, 4, 1), device="meta"), (2, 2))
    argmax(torch.empty(1, 9, 2**16, 1), (2**15, 1))
    assert len(compilations) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestOnGpu:
    @pytest.mark.parametrize("part", range(4))
    def test_error_is_no_larger_than_that_of_eager_torch(self, part):
        rng = np.random.default_rng(part)
        for _ in range(500):
            problem, options = random_configuration(rng)
            if problem["dtype"] == torch.float64:
                problem["dtype"] = torch.float32
            check_error_against_eager(problem, options, rng, "cuda")

    @pytest.mark.parametrize("dtype", DTYPES.values())
    def test_large_problems_agree_with_the_cpu(self, dtype):
        for classes, low, high in ((21, 65, 513), (150, 64, 256), (1203, 9, 40)):
            logits, target, weights = random_problem(0, (2, classes, low, low), (high, high), dtype)
            grads = []
            for device in ("cpu", "cuda"):
                z = logits.to(device).requires_grad_()
                loss = fastia.size_weighted_cross_entropy(z, target.to(device), weights.to(device))
                grads.append(torch.autograd.grad(loss, z)[0].cpu())
            torch.testing.assert_close(grads[1], grads[0], rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-9)
            ids = fastia.upsample_argmax(logits.cuda(), (high, high)).cpu()
            assert (ids != fastia.upsample_argmax(logits, (high, high))).float().mean() < 1e-4

    def test_nothing_waits_for_the_device_and_bits_repeat(self):
        logits, target, weights = (t.cuda() for t in random_problem(0, (2, 21, 33, 33), (129, 129)))
        logits.requires_grad_()
        results = []
        torch.cuda.set_sync_debug_mode("error")  # a copy from the host would wait, too
        try:
            for _ in range(2):
                loss = fastia.size_weighted_cross_entropy(logits, target, weights, label_smoothing=0.1)
                results.append((loss, torch.autograd.grad(loss, logits)[0]))
                fastia.upsample_argmax(logits.detach(), (129, 129))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))

    def test_ids_and_weights_out_of_range_are_ignored_unless_validated(self):
        logits, target, weights = (t.cuda() for t in random_problem())
        target[0, 0, 0] = 1
        ignored, spoilt, negative = target.clone(), target.clone(), weights.clone()
        ignored[0, 0, 0], spoilt[0, 0, 0], negative[0, 0, 0] = 255, 7, -1
        expected = fastia.size_weighted_cross_entropy(logits, ignored, weights)
        assert torch.equal(fastia.size_weighted_cross_entropy(logits, spoilt, weights), expected)
        assert torch.equal(fastia.size_weighted_cross_entropy(logits, target, negative), expected)
        with pytest.raises(ValueError, match="target holds the id 7"):
            fastia.size_weighted_cross_entropy(logits, spoilt, weights, validate=True)
        with pytest.raises(ValueError, match="weights must not be negative"):
            fastia.size_weighted_cross_entropy(logits, target, negative, validate=True)
