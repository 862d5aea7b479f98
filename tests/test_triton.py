"""The Triton kernels without a GPU: run by Triton's interpreter, compiled ahead of time, and keyed for the JIT cache."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="needs Triton, which ships for Linux alone")

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastia.kernels import triton as kernels
from fastia.kernels import triton_kernels

ARCHITECTURES = (80, 90, 100)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
KERNELS = ("forward", "argmax", "pixel", "backward", "backward_same_size")
POINTERS = {"target": "i64", "labels": "i16", "row_used": "i32", "out": "u8", "log_sum_exp": "fp64"}

pytestmark = pytest.mark.skipif(triton.knobs.runtime.interpret, reason="TRITON_INTERPRET=1 leaves nothing to compile")


def test_interpreted_kernels_agree_with_eager():
    """A process of its own: the interpreter is chosen when Triton is imported."""
    path = Path(__file__).with_name("triton_interpreted.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, cwd=path.parents[1], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert re.search(r"^\d+ passed", run.stdout, re.MULTILINE), run.stdout[-500:]


def resource_usage(kernel, architecture, dtype, **constants) -> dict[str, int]:
    """Registers, stack and local memory of a kernel, compiled to a cubin for a GPU that need not be there."""
    signature = {}
    for parameter in kernel.params:
        if parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
        elif parameter.annotation_type:
            signature[parameter.name] = parameter.annotation_type
        else:
            logits = parameter.name in ("logits", "grad_logits")
            signature[parameter.name] = "*" + (dtype if logits else POINTERS.get(parameter.name, "fp32"))
    constants = {name: value for name, value in constants.items() if signature.get(name) == "constexpr"}
    warps = 1 if "CELLS" in constants else 4
    compiled = triton.compile(
        ASTSource(kernel, signature, constants),
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": warps, **kernels.OPTIONS},
    )
    for spill in ("ld.local", "st.local", "atom.", "red."):
        assert not re.search(rf"\b{re.escape(spill)}", compiled.asm["ptx"])
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
    for name in KERNELS:
        for block in (4, 8, 16) if name in ("forward", "backward") else (16,):
            yield name, block, False
        yield name, 16, True


@pytest.mark.usefixtures("_own_cache")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile_ahead_of_time_without_stack_or_local_memory(architecture, dtype):
    for name, block, wide in variants():
        usage = resource_usage(
            getattr(triton_kernels, f"{name}_kernel"),
            architecture,
            dtype,
            ALIGN_CORNERS=block == 8,
            WIDE=wide,
            CLASSES=block,
            PIXELS=kernels.PIXELS,
            CELLS=kernels.CELLS[block],
        )
        print(f"sm_{architecture} {dtype} {name} block {block} {'64' if wide else '32'} bits: {usage['REG']} registers")
        assert usage["STACK"] == usage["LOCAL"] == 0, (name, block, wide)
        assert usage["REG"] <= 255


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
        getattr(triton_kernels, f"{name}_kernel").device_caches.clear()
    yield keys
    for name in KERNELS:
        getattr(triton_kernels, f"{name}_kernel").device_caches.clear()


def launch(b, c, h, w, height, width, *, dtype=torch.float32, align_corners=False, plain=False, offset=0):
    """Everything once, on tensors of which only shapes, strides and addresses matter."""
    logits = torch.empty(b * c * h * w + offset, dtype=dtype)[offset:].view(b, c, h, w)
    target = torch.empty(b * height * width + offset, dtype=torch.uint8)[offset:].view(b, height, width)
    weights = None if plain else torch.empty(b, width, height).transpose(1, 2)
    options = {
        "label_smoothing": 0.0 if plain else 0.1,
        "ignore_index": None if plain else -(2**40),
        "align_corners": align_corners,
    }
    class_weight = None if plain else torch.ones(c)
    _, lse, _ = kernels.upsample_cross_entropy(logits, target, weights, class_weight, **options)
    grad = torch.ones(()) if plain else torch.ones(b, height, width)
    kernels.upsample_cross_entropy_backward(grad, logits, target, weights, class_weight, lse, **options)
    kernels.upsample_argmax(logits, (height, width), align_corners=align_corners)


def test_sizes_strides_and_options_share_one_compilation(compilations):
    launch(2, 21, 65, 65, 129, 129)
    launch(1, 21, 8, 8, 8, 8)  # the same size: the one kernel of its own
    first = set(compilations)
    assert sorted(name for name, _ in first) == sorted(f"{name}_kernel" for name in KERNELS)
    launch(1, 9, 1, 1, 1, 7)
    launch(3, 24, 16, 32, 64, 128, offset=1)
    launch(16, 9, 1, 100, 3, 17, plain=True)
    launch(1, 16, 5, 6, 5, 6, plain=True, offset=3)
    assert compilations == first


def test_blocks_of_classes_dtypes_and_align_corners_compile_once_each(compilations):
    for c in (2, 3, 4, 5, 21, 24, 25, 150, 1203):
        for dtype in DTYPES.values():
            for align_corners in (False, True):
                launch(1, c, 3, 3, 5, 5, dtype=dtype, align_corners=align_corners)
    counts = {name: sum(other == name for other, _ in compilations) for name, _ in compilations}
    # argmax: one more per block and dtype where classes need int32; the pixel kernel knows nothing of logits.
    assert counts == {"forward_kernel": 18, "backward_kernel": 18, "argmax_kernel": 24, "pixel_kernel": 1}


def test_offsets_beyond_32_bits_take_one_more_compilation(compilations):
    """No memory of that size is touched: the strides alone are large."""
    for stride in (2**29, 2**29 + 5, 2**33):
        logits = torch.empty(1).as_strided((1, 9, 1, 4), (0, 0, 0, 0)).as_strided((5, 9, 1, 4), (0, 0, 0, 0))
        logits = _with_strides(logits, (stride, 4, 4, 1))
        kernels.upsample_argmax(logits, (2, 2), align_corners=False)
        launch(1, 9, 2, 2, 3, 3)
    assert sum(name == "argmax_kernel" for name, _ in compilations) == 2


def _with_strides(logits: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    return (
        torch.empty(0, device="meta")
        .new_empty(1)
        .as_strided(logits.shape, (0, 0, 0, 0))
        .as_strided(logits.shape, strides)
    )
