"""The structs that CUDA kernels take by value: their fields are the same in csrc/cuda and in fastia.kernels."""

from __future__ import annotations

import dataclasses
import os
import shlex
import struct
import subprocess
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from cuda_on_cpu import check, runner

from fastia.kernels.cuda import plan_masks, structs
from fastia.kernels.cuda.structs import Pointer, Struct, is_struct
from fastia.options import ComponentOptions


def fields_of(kind: type[Struct], prefix: str = "") -> list[tuple[str, Any]]:
    """Path and type of every field of 8 bytes, in order."""
    fields = []
    for name, field in get_type_hints(kind).items():
        fields += fields_of(field, f"{prefix}{name}.") if is_struct(field) else [(prefix + name, field)]
    return fields


def assertions(kernels: dict[str, dict[str, type[Struct]]]) -> str:
    """C++ that compiles if what kernels take has fields of the names, the places and the types of these structs."""
    text = '#include "launch.h"\n#include <cstddef>\n' + "".join(f'#include "{source}"\n' for source in kernels)
    text += "template <class Given> Given given(void (*)(Given));\n"
    for kernel, kind in (item for names in kernels.values() for item in names.items()):
        fields, type_of = fields_of(kind), f"decltype(given({kernel}))"
        text += f'static_assert(sizeof({type_of}) == {8 * len(fields)}, "{kernel}: number of fields");\n'
        for number, (name, field) in enumerate(fields):
            member = f"decltype(std::declval<{type_of}&>().{name})"
            is_kind = {
                int: f"std::is_same_v<{member}, long long>",
                float: f"std::is_same_v<{member}, double>",
            }.get(field, f"std::is_pointer_v<{member}>")
            text += f'static_assert(offsetof({type_of}, {name}) == {8 * number}, "{kernel}: place of {name}");\n'
            text += f'static_assert({is_kind}, "{kernel}: type of {name}");\n'
    return text


def compile_assertions(kernels: dict[str, dict[str, type[Struct]]], folder: Path) -> str:
    """The compiler's errors."""
    (folder / "assertions.cpp").write_text(assertions(kernels))
    command = [*shlex.split(os.environ.get("CXX", "c++")), "-std=c++17", "-fsyntax-only", "-Werror=invalid-offsetof"]
    command += [f"-I{runner.HERE}", f"-I{runner.ROOT / 'csrc/cuda'}", str(folder / "assertions.cpp")]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    assert bool(result.returncode) == ("error" in result.stderr)
    return result.stderr


def test_fields_are_the_same_in_cuda_and_in_python(tmp_path):
    assert compile_assertions(runner.KERNELS, tmp_path) == ""


def changed(**fields: Any) -> type[Struct]:
    """Merge with other fields."""
    return dataclasses.make_dataclass("Merge", fields.items(), bases=(Struct,), frozen=True, kw_only=True)


@pytest.mark.parametrize(
    ("merge", "error"),
    [
        (changed(connectivity=int, labelling=structs.Labelling), "place of connectivity"),
        (changed(labelling=structs.Labelling), "number of fields"),
        (changed(labelling=structs.Labelling, connectivity=int, background=int), "no member named 'background'"),
        (changed(labelling=structs.Labelling, conectivity=int), "no member named 'conectivity'"),
        (changed(labelling=structs.Labelling, connectivity=float), "type of connectivity"),
        (changed(labelling=structs.Labelling, connectivity=Pointer | None), "type of connectivity"),
        (changed(labelling=structs.Division, connectivity=int), "number of fields"),
    ],
    ids=["swapped", "missing", "extra", "misspelt", "double", "pointer", "other struct"],
)
def test_fields_that_differ_are_found(merge, error, tmp_path):
    assert error in compile_assertions({"core/merge.cu": {"fastia_merge_32": merge}}, tmp_path)


LABELLING = structs.Labelling.null()


@pytest.mark.parametrize(
    ("arguments", "fields", "error"),
    [
        ((), {"labelling": LABELLING}, "missing 1 required keyword-only argument: 'connectivity'"),
        ((), {"labelling": LABELLING, "connectivity": 8, "count": None}, "unexpected keyword argument 'count'"),
        ((), {"labelling": LABELLING, "conectivity": 8}, "unexpected keyword argument 'conectivity'"),
        ((LABELLING, 8), {}, "positional argument"),
    ],
    ids=["missing", "extra", "misspelt", "by position"],
)
def test_fields_go_by_name_and_all_of_them_do(arguments, fields, error):
    with pytest.raises(TypeError, match=error):
        structs.Merge(*arguments, **fields)


def test_fields_are_packed_in_order_with_the_bits_of_doubles():
    labelling = dataclasses.replace(
        LABELLING,
        division=structs.Division(height=5, width=-7, rows=3),
        words=Pointer("scratch", 256),
        arrivals=Pointer("masks", -8),
    )
    tau = float(np.nextafter(5, 6))
    weights = structs.FillWeights(
        labelling=labelling, tau=tau, word_capacity=True, run_capacity=2, weights=Pointer("out")
    )
    packed = weights.pack({"scratch": 2**40, "masks": 2**20, "out": 64})
    expected = struct.pack("qqqq", 5, -7, 3, 2**40 + 256) + bytes(8 * 11) + struct.pack("q", 2**20 - 8)
    assert packed == expected + struct.pack("dqqq", tau, 1, 2, 64)
    assert weights == dataclasses.replace(weights)
    assert hash(weights) == hash(dataclasses.replace(weights))


def test_tau_is_a_double_whatever_it_is_given_as():
    masks = check.masks_of(np.zeros((1, 2, 3), np.uint8))
    plans = [plan_masks.weights(masks, ComponentOptions(8, 0, 255), tau, "class", "float32") for tau in (5, 5.0)]
    packed = [plan.launches[-1].parameters.pack(dict.fromkeys(("scratch", "weights"), 0)) for plan in plans]
    assert packed[0] == packed[1]
    assert struct.pack("d", 5.0) in packed[0]


def test_emulator_reports_a_struct_of_another_kernel():
    kernels = runner.Kernels()
    launch = plan_masks.label(check.masks_of(np.zeros((1, 2, 3), np.uint8)), ComponentOptions(8, 0, 255)).launches[0]
    addresses = dict.fromkeys(("scratch", "masks"), 0)
    with pytest.raises(runner.KernelError, match="fastia_strips_uint8_32: got Merge, expected Strips"):
        kernels.launch(launch._replace(parameters=structs.Merge(labelling=LABELLING, connectivity=8)), addresses, 0)
    packed = launch.parameters.pack(addresses)
    for given, error in (
        ([], "got 0 arguments, expected 1"),
        ([packed, packed], "got 2 arguments, expected 1"),
        ([packed[8:]], f"argument 1: got {len(packed) - 8} bytes, expected {len(packed)}"),
    ):
        with pytest.raises(runner.KernelError, match=f"^fastia_strips_uint8_32: {error}$"):
            kernels.call(launch.kernel, 1, 32, launch.shared_bytes, given, 0)
