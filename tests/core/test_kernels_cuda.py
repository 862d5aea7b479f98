"""The CUDA backend without a GPU: CPU tensors stand in for CUDA ones, and kernels run as in tests/cuda_on_cpu."""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import generators
import numpy as np
import pytest
import torch
from cuda_on_cpu import check, check_iou, runner
from numpy.testing import assert_array_equal
from torch._subclasses.fake_tensor import FakeTensorMode

import fastia
from fastia import reference
from fastia.functional import checks
from fastia.functional.overlaps import instance_overlaps
from fastia.kernels.cuda import launch as cuda
from fastia.kernels.cuda import masks as cuda_masks
from fastia.kernels.cuda import overlaps as cuda_overlaps
from fastia.kernels.cuda import plan, plan_masks, plan_overlaps
from fastia.kernels.cuda.plan import Launch, Masks
from fastia.metrics import tally
from fastia.ops import overlaps as ops_overlaps
from fastia.options import ComponentOptions, OverlapOptions

OPTIONS = ComponentOptions()
VALIDATED = ComponentOptions(validate=True)
STREAM = 4321


class CuPy(ModuleType):
    """What the backend uses of CuPy, with the kernels of tests/cuda_on_cpu; `launched` names kernels in order."""

    def __init__(self, kernels: runner.Kernels) -> None:
        super().__init__("cupy")
        self.kernels = kernels
        self.launched: list[str] = []
        self.compiled: list[str] = []
        self.entered: list[Any] = []  # the device, then the stream
        streams = SimpleNamespace(from_external=lambda stream: self._enter(stream.__cuda_stream__()))
        self.cuda = SimpleNamespace(Stream=streams)

    @contextlib.contextmanager
    def _enter(self, what: Any) -> Any:
        self.entered.append(what)
        try:
            yield
        finally:
            assert self.entered.pop() == what

    def RawModule(self, *, code: str, options: tuple[str, ...]) -> Any:
        assert "#include" not in code
        assert "#pragma once" not in code
        assert options == ("-std=c++17", "--fmad=false")

        def get_function(name: str) -> Any:
            self.compiled.append(name)
            assert f"fastia_{name.split('_')[1]}" in code
            return Kernel(self, name)

        return SimpleNamespace(get_function=get_function)


class Kernel:
    def __init__(self, cupy: CuPy, name: str) -> None:
        self.cupy, self.name = cupy, name

    @property
    def kernel(self) -> None:
        """Compiled."""

    def __call__(self, grid: Any, block: Any, arguments: Any, *, shared_mem: int) -> None:
        assert self.cupy.entered == [torch.device("cpu"), (0, STREAM)]
        for argument in arguments:  # CuPy passes the bytes of an array by value, if it has one element
            assert type(argument) is np.ndarray
            assert argument.size == 1
        packed = [argument.tobytes() for argument in arguments]
        self.cupy.kernels.call(self.name, *grid, *block, shared_mem, packed, len(self.cupy.launched))
        self.cupy.launched.append(self.name)


@pytest.fixture(scope="module")
def kernels() -> runner.Kernels:
    return runner.Kernels()


@pytest.fixture
def cupy(kernels, monkeypatch) -> CuPy:
    module = CuPy(kernels)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(torch.cuda, "device", module._enter)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=STREAM))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(cuda, "_loaded", {})
    cuda._module.cache_clear()
    yield module
    cuda._module.cache_clear()


def generated(seed: int) -> tuple[np.ndarray, torch.Tensor, dict[str, Any], ComponentOptions]:
    masks, options = generators.masks(seed)
    tensor = torch.from_numpy(masks if min(masks.strides) >= 0 and masks.flags.aligned else masks.copy())
    return masks, tensor, options, ComponentOptions(**options)


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("part", range(3))
def test_operations_equal_the_reference(cupy, part):
    for seed in range(part * 30, part * 30 + 30):
        masks, tensor, options, arguments = generated(seed)
        assert_array_equal(cuda_masks.label(tensor, arguments), reference.label(masks, **options))

        width = None if seed % 2 else seed % 7
        found = cuda_masks.components(tensor, arguments, width)
        for field, expected in zip(found, reference.components(masks, **options, max_components=width), strict=True):
            assert_array_equal(field, expected)

        normalizer, dtype = ("class", "foreground")[seed % 2], ("float16", "float32", "float64")[seed % 3]
        weights = cuda_masks.weights(tensor, arguments, 5.0, normalizer, getattr(torch, dtype))
        expected = reference.weights(masks, **options, tau=5.0, normalizer=normalizer, dtype=dtype)
        assert_array_equal(weights, expected)


def test_components_of_unknown_number_are_found_once(cupy):
    masks = torch.from_numpy(generators.nasty()["white 37x70"])
    cuda_masks.components(masks, OPTIONS, 500)
    given, cupy.launched = cupy.launched, []
    cuda_masks.components(masks, OPTIONS, None)
    assert cupy.launched == given


def test_components_of_unknown_number_in_several_chunks(cupy, monkeypatch):
    tuning = plan.Tuning(scratch_bytes=1)
    planned = lambda masks, options, width: plan_masks.components(masks, options, width, tuning)  # noqa: E731
    monkeypatch.setattr(cuda_masks, "_plan_components", planned)
    masks = np.concatenate([generators.nasty()["white 37x70"], generators.nasty()["blobs 37x70"]])
    found = cuda_masks.components(torch.from_numpy(masks), OPTIONS, None)
    for field, expected in zip(found, reference.components(masks), strict=True):
        assert_array_equal(field, expected)


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 0)])
def test_empty_batches(cupy, shape):
    masks = torch.zeros(shape, dtype=torch.uint8)
    assert cuda_masks.label(masks, VALIDATED).shape == shape
    assert cuda_masks.weights(masks, OPTIONS, 5.0, "class", torch.float32).shape == shape
    for width in (None, 3):
        found = cuda_masks.components(masks, OPTIONS, width)
        for field, expected in zip(found, reference.components(masks.numpy(), max_components=width), strict=True):
            assert_array_equal(field, expected)


def test_validate_names_an_id_that_is_not_allowed(cupy):
    masks = torch.tensor([[[1, 0, 70000]]])
    text = re.escape("masks holds the id 70000, but ids must lie in 0..65535 or equal ignore_index (255)")
    for call in (
        lambda: cuda_masks.label(masks, VALIDATED),
        lambda: cuda_masks.components(masks, VALIDATED, None),
        lambda: cuda_masks.components(masks, VALIDATED, 2),
        lambda: cuda_masks.weights(masks, VALIDATED, 5.0, "class", torch.float32),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    assert cuda_masks.label(masks, OPTIONS).tolist() == [[[1, 0, 0]]]
    assert cuda_masks.label(masks, ComponentOptions(8, 0, 70000, True)).tolist() == [[[1, 0, 0]]]


def test_kernels_are_loaded_once_by_many_threads(cupy):
    masks = torch.ones(1, 5, 70, dtype=torch.uint8)
    threads = [threading.Thread(target=cuda._load, args=(launch, masks.device)) for launch in plan_of(masks) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cuda._module.cache_info().misses == len({launch.source for launch in plan_of(masks)})
    cupy.compiled.clear()
    cuda_masks.label(masks, OPTIONS)
    assert cupy.compiled == []


def plan_of(masks: torch.Tensor) -> list[Launch]:
    return plan_masks.label(Masks(tuple(masks.shape), masks.stride(), "uint8"), OPTIONS).launches


def test_first_use_within_a_cuda_graph_is_refused(cupy, monkeypatch):
    masks = torch.ones(1, 5, 7, dtype=torch.uint8)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        with pytest.raises(RuntimeError, match="fastia_strips_uint8_32 is used for the first time, and a CUDA graph"):
            cuda_masks.label(masks, OPTIONS)
    cuda_masks.label(masks, OPTIONS)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    cuda_masks.label(masks, OPTIONS)


def test_gpu_that_is_too_old_is_named(cupy, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    with pytest.raises(RuntimeError, match=r"need a GPU of compute capability 7\.0 or later, got 6\.1 on cpu"):
        cuda_masks.label(torch.ones(1, 5, 7, dtype=torch.uint8), OPTIONS)


def test_older_cupy_gets_an_external_stream(cupy):
    del cupy.cuda.Stream.from_external
    cupy.cuda.ExternalStream = lambda address, device: cupy._enter((0, address))
    assert cuda_masks.label(torch.ones(1, 1, 1, dtype=torch.uint8), OPTIONS).item() == 1


@pytest.mark.parametrize(("version", "extra"), [("12.8", "cuda12"), ("13.0", "cuda13")])
def test_missing_cupy_is_named(monkeypatch, version, extra):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(torch.version, "cuda", version)
    masks = torch.ones(1, 5, 7, dtype=torch.uint8)
    text = rf"masks that are CUDA tensors need CuPy: pip install 'fastia\[{extra}\]'"
    with pytest.raises(ModuleNotFoundError, match=text):
        cuda_masks.label(masks, OPTIONS)


def test_missing_nvrtc_is_named(cupy, monkeypatch):
    def fail(self):
        raise RuntimeError('Failure finding "libnvrtc.so.13 or libnvrtc.so.12"')

    monkeypatch.setattr(Kernel, "kernel", property(fail))
    with pytest.raises(ImportError, match=r"CuPy finds no NVRTC, which comes with: pip install 'fastia\[cuda12\]'"):
        cuda_masks.label(torch.ones(1, 5, 7, dtype=torch.uint8), OPTIONS)


class CuPyArray:
    """Stands in for an array of CuPy, which is told by its module."""

    __module__ = "cupy"

    def __init__(self, array: Any) -> None:
        self.array = np.from_dlpack(array)
        self.strides = self.array.strides

    def copy(self) -> Any:
        return CuPyArray(self.array.copy())

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_cupy_arrays_give_cupy_arrays(cupy):
    cupy.from_dlpack = CuPyArray
    masks = np.array([[1, 0, 1], [2, 2, 255]], np.uint8)
    for array in (masks, masks[::-1, ::-1]):
        labels = fastia.label(CuPyArray(array))
        assert type(labels) is CuPyArray
        assert_array_equal(labels.array, fastia.label(array))
        weights = fastia.weights(CuPyArray(array), dtype=np.float16)
        assert_array_equal(weights.array, fastia.weights(array, dtype=np.float16), strict=True)
        for field, expected in zip(fastia.components(CuPyArray(array)), fastia.components(array), strict=True):
            assert_array_equal(field.array, expected, strict=True)
    with pytest.raises(TypeError, match="dtype must be float16, float32 or float64 for a CuPy array"):
        fastia.weights(CuPyArray(masks), dtype=torch.bfloat16)


def test_cuda_tensors_pass_the_checks():
    with FakeTensorMode():
        masks = torch.empty(2, 5, 7, device="cuda", dtype=torch.uint8)
        assert fastia.label(masks).device.type == "cuda"
        assert fastia.weights(masks, dtype=torch.bfloat16).device.type == "cuda"
        assert fastia.components(masks, max_components=3).bbox.shape == (2, 3, 4)


def test_rocm_is_refused(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.2")
    with FakeTensorMode(), pytest.raises(NotImplementedError, match="masks is on cuda:0 of ROCm, but only CPU tensors"):
        fastia.label(torch.empty(2, 5, 7, device="cuda", dtype=torch.uint8))


def scene_of(seed: int) -> tuple[list[torch.Tensor | None], dict[str, Any]]:
    scene = generators.scene(seed)
    dense = [None if array is None else torch.from_numpy(np.array(array, order="C")) for array in scene[:3]]
    return dense, scene.options


def expected_of(
    arrays: list[torch.Tensor | None], options: dict[str, Any], **limits: int | None
) -> tuple[Any, np.ndarray]:
    return check_iou.expected_records(
        [None if array is None else array.numpy() for array in arrays],
        options,
        limits.get("max_instances"),
        limits.get("max_unmatched"),
    )


@pytest.mark.parametrize("part", range(3))
def test_instances_equal_the_reference(cupy, part):
    for seed in range(part * 30, part * 30 + 30):
        arrays, options = scene_of(seed)
        widths = (None, None) if seed % 3 == 0 else (seed % 7, None) if seed % 3 == 1 else (seed % 7, seed % 5)
        fields = cuda_overlaps.instance_iou(*arrays, OverlapOptions(**options), *widths, None)
        limits = dict(zip(("max_instances", "max_unmatched"), widths, strict=True))
        records, confusion = expected_of(arrays, options, **limits)
        for field, expected in zip(fields, (*records, confusion), strict=True):
            assert_array_equal(field, expected, strict=True)


def test_instances_of_unknown_number_in_several_chunks(cupy, monkeypatch):
    tuning = plan.Tuning(scratch_bytes=1)
    planned = lambda inputs, options, *widths: plan_overlaps.instance_iou(inputs, options, *widths, tuning)  # noqa: E731
    monkeypatch.setattr(cuda_overlaps, "_plan_instance_iou", planned)
    for seed in range(12):
        arrays, options = scene_of(seed)
        fields = cuda_overlaps.instance_iou(*arrays, OverlapOptions(**options), None, None, None)
        records, confusion = expected_of(arrays, options)
        for field, expected in zip(fields, (*records, confusion), strict=True):
            assert_array_equal(field, expected, strict=True)


def test_instances_of_unknown_number_are_counted_once(cupy):
    preds, target = (torch.from_numpy(generators.nasty()[name]) for name in ("white 37x70", "blobs 37x70"))
    options = OverlapOptions(num_classes=4)
    cuda_overlaps.instance_iou(preds, target, None, options, 500, 500, None)
    given, cupy.launched = cupy.launched, []
    cuda_overlaps.instance_iou(preds, target, None, options, None, 500, None)
    assert cupy.launched == [*given, given[-1]]  # but for records of width 0


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 0)])
def test_instances_of_empty_batches(cupy, shape):
    masks = torch.zeros(shape, dtype=torch.uint8)
    options = {"protocol": "exact", "background": 0, "ignore_index": 255, "instance_ignore_index": 255}
    options["num_classes"] = 3
    for widths in ((None, None), (2, 3)):
        fields = cuda_overlaps.instance_iou(masks, masks, None, OverlapOptions(**options, validate=True), *widths, None)
        limits = dict(zip(("max_instances", "max_unmatched"), widths, strict=True))
        records, confusion = expected_of([masks, masks, None], options, **limits)
        for field, expected in zip(fields, (*records, confusion), strict=True):
            assert_array_equal(field, expected, strict=True)


def test_instances_are_added_to_sums_in_place(cupy):
    added = 0
    for seed in range(60):
        arrays, options = scene_of(seed)
        if options["num_classes"] is None:
            continue
        records, confusion = expected_of(arrays, options)
        chosen = {name: options[name] for name in ("num_classes", "background")}
        sums = [torch.ones(3, options["num_classes"], 4, dtype=torch.int64), torch.ones(confusion.shape[1:]).long()]
        cuda_overlaps.add_instances(*arrays, OverlapOptions(**options, validate=seed % 2 == 0), *sums)
        assert_array_equal(sums[0], 1 + tally(records, **chosen))
        assert_array_equal(sums[1], 1 + confusion.sum(0))
        added += 1
    assert added > 10


@pytest.mark.parametrize(
    ("argument", "value", "text"),
    [
        (0, 70000, "preds holds the id 70000, but ids must lie in 0..65535 or equal ignore_index (255)"),
        (1, -3, "target holds the id -3, but ids must lie in 0..65535 or equal ignore_index (255)"),
        (1, 9, "target holds the id 9, but ids must be below num_classes (3) or equal ignore_index (255)"),
        (2, -7, "instances holds the id -7, but ids must lie in 0..2147483647 or equal instance_ignore_index (254)"),
    ],
)
def test_validate_names_the_map_of_an_id(cupy, argument, value, text):
    maps = [torch.ones(1, 2, 3, dtype=torch.int64) for _ in range(3)]
    maps[argument][0, 1, 1] = value
    options = OverlapOptions("exact", 0, 255, 254, 3, validate=True)
    sums = torch.zeros(3, 3, 4, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.int64)
    for call in (
        lambda: cuda_overlaps.instance_iou(*maps, options, None, None, None),
        lambda: cuda_overlaps.instance_iou(*maps, options, 2, 2, None),
        lambda: cuda_overlaps.add_instances(*maps, options, *sums),
    ):
        with pytest.raises(ValueError, match=re.escape(text)):
            call()
    assert not any(values.any() for values in sums)
    with pytest.raises(ValueError, match=re.escape(text)):  # the CPU says the same
        instance_overlaps(*maps, num_classes=3, protocol="exact", instance_ignore_index=254)


def test_metric_on_a_gpu_adds_in_place_and_reads_nothing_back():
    with FakeTensorMode():
        metric = fastia.InstanceAwareIoU(3)
        for name in ("tally", "confusion"):  # a torch without CUDA cannot move them
            setattr(metric, name, torch.zeros(getattr(metric, name).shape, dtype=torch.int64, device="cuda"))
        masks, sums = torch.empty(2, 5, 7, device="cuda", dtype=torch.uint8), metric.tally
        metric.update(masks, masks)
        metric.update(torch.empty(2, 3, 3, 3, device="cuda"), masks, masks)
        assert metric.tally is sums
        with pytest.raises(ValueError, match="same device, got cuda:0 and cpu"):
            metric.update(masks, masks.cpu())


def test_opcheck_of_adding_to_sums(cupy):
    library = torch.library.Library("fastia", "IMPL")
    library.impl("add_instances", ops_overlaps._implementation(cuda_overlaps.add_instances), "CPU")
    try:
        masks = torch.randint(0, 4, (2, 5, 7), dtype=torch.uint8)
        sums = torch.zeros(3, 4, 4, dtype=torch.int64), torch.zeros(4, 5, dtype=torch.int64)
        arguments = (masks, masks, None, *OverlapOptions("exact", num_classes=4), *sums)
        torch.library.opcheck(torch.ops.fastia.add_instances.default, arguments)
    finally:
        library._destroy()


def test_components_are_matched_on_the_cpu_only():
    preds = SimpleNamespace(device="cuda:0")
    with pytest.raises(NotImplementedError, match=r"on the CPU only: pass preds\.cpu\(\), target\.cpu\(\)$"):
        cuda_overlaps.instance_matches(preds, preds, None)


def test_names_of_dtypes_are_those_of_the_plan():
    assert {cuda.dtype_name(dtype) for dtype in checks.MASK_DTYPES} == set(plan.MASK_DTYPES)
    assert {cuda.dtype_name(dtype) for dtype in checks.WEIGHT_DTYPES} == set(plan.WEIGHT_BYTES)
    masks = check.masks_of(np.zeros((2, 3, 4), np.int16).transpose(0, 2, 1))
    assert cuda.masks_of(torch.zeros(2, 3, 4, dtype=torch.int16).transpose(1, 2)) == masks


@pytest.mark.parametrize("source", runner.KERNELS)
def test_nvrtc_compiles_every_kernel(source):
    """With the options that CuPy adds."""
    nvrtc = load_nvrtc()
    program, log = ctypes.c_void_p(), ctypes.create_string_buffer(100_000)
    options = [*cuda.OPTIONS, "-ftz=true", "--device-as-default-execution-space", "-arch=sm_90"]
    text = cuda.source_text(source).encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, source.encode(), 0, None, None) == 0
    encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    size = ctypes.c_size_t()
    assert nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
    cubin = ctypes.create_string_buffer(size.value)
    assert nvrtc.nvrtcGetCUBIN(program, cubin) == 0
    assert all(f".text.{kernel}".encode() in cubin.raw for kernel in runner.KERNELS[source])


def load_nvrtc() -> ctypes.CDLL:
    installed = [path for root in sys.path for path in Path(root).glob("nvidia/*/lib/libnvrtc.so.*")]
    for library in ("libnvrtc.so.13", "libnvrtc.so.12", *installed):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(str(library))
    pytest.skip("needs NVRTC: pip install nvidia-cuda-nvrtc-cu12")
