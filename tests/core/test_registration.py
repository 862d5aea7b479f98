"""The operations under torch.library and torch.compile."""

from collections.abc import Callable, Iterator

import pytest
import torch

import fastia
from fastia.functional import instance_overlaps

ops = torch.ops.fastia


def random_ids(*shape: int, largest: int = 3, dtype: torch.dtype = torch.uint8, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, largest + 1, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int32).to(
        dtype
    )


traces_uint16 = pytest.mark.skipif(torch.__version__ < "2.5", reason="torch 2.4 traces no uint16 of dynamic size")
MASK_DTYPES = [torch.uint8, pytest.param(torch.uint16, marks=traces_uint16)]


@pytest.mark.parametrize("dtype", MASK_DTYPES)
@pytest.mark.parametrize(
    ("operation", "options"),
    [
        (ops.label.default, (8, 0, 255, False)),
        (ops.components.default, (4, None, -1, False, None)),
        (ops.components.default, (8, 0, None, False, 5)),
        (ops.weights.default, (8, 0, 255, False, 5.0, "class", torch.bfloat16)),
    ],
)
def test_opcheck_of_operations_on_masks(
    operation: torch._ops.OpOverload, options: tuple[object, ...], dtype: torch.dtype
) -> None:
    torch.library.opcheck(operation, (random_ids(2, 14, 9, dtype=dtype)[:, ::2], *options))


@pytest.mark.parametrize(
    "options", [("exact", 0, 255, 255, None, False, None, None), ("wacv2024", None, -1, None, 4, False, 2, 2)]
)
@pytest.mark.parametrize("instances", [None, random_ids(1, 7, 9, largest=5, dtype=torch.int32, seed=2)])
def test_opcheck_of_instance_iou(options: tuple[object, ...], instances: torch.Tensor | None) -> None:
    # opcheck takes NaN for unequal to NaN, so no record may be padding: one image, and fewer records than it has
    arguments = (random_ids(1, 7, 9), random_ids(1, 7, 9, seed=1), instances, *options, None)
    torch.library.opcheck(ops.instance_iou.default, arguments)
    torch.library.opcheck(ops.instance_matches.default, arguments)


@pytest.fixture
def compile_afresh() -> Iterator[Callable[..., Callable[..., object]]]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        yield lambda function, **options: torch.compile(function, fullgraph=True, **options)
    torch._dynamo.reset()


def given_sizes(preds: torch.Tensor, target: torch.Tensor, instances: torch.Tensor) -> tuple[object, ...]:
    return (
        fastia.label(preds, connectivity=4),
        fastia.weights(preds, dtype=torch.float16) * 2,
        fastia.components(preds, max_components=preds.shape[-1]),
        fastia.instance_iou(preds, target, instances, max_instances=4, max_unmatched=5),
    )


def sizes_of_the_data(preds: torch.Tensor, target: torch.Tensor, instances: torch.Tensor) -> tuple[object, ...]:
    found = fastia.components(preds)
    records, confusion = instance_overlaps(preds, target, instances, num_classes=4, protocol="exact")
    return found, found.area.sum(-1), records, records.iou.nan_to_num().sum(-1), confusion.sum(0)


@pytest.mark.parametrize("function", [given_sizes, sizes_of_the_data])
@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("dtype", MASK_DTYPES)
def test_compiled_operations_equal_eager_ones(
    compile_afresh, function, dynamic: bool | None, dtype: torch.dtype
) -> None:
    compiled = compile_afresh(function, dynamic=dynamic, backend="aot_eager")
    for shape in ((2, 7, 9), (3, 5, 8), (6, 4)):
        preds = random_ids(*shape, dtype=dtype)
        target = random_ids(*shape, seed=1, dtype=torch.int64)
        instances = random_ids(*shape, largest=5, seed=2, dtype=torch.int32)
        result, expected = compiled(preds, target, instances), function(preds, target, instances)
        assert [type(value) for value in result] == [type(value) for value in expected]
        leaves, expected_leaves = torch.utils._pytree.tree_leaves(result), torch.utils._pytree.tree_leaves(expected)
        torch.testing.assert_close(leaves, expected_leaves, rtol=0, atol=0, equal_nan=True)


def test_inductor_compiles_through_weights(compile_afresh) -> None:
    def loss(errors: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return (errors * fastia.weights(masks)).sum()

    errors, masks = torch.rand(2, 7, 9, requires_grad=True), random_ids(2, 7, 9)
    compile_afresh(loss)(errors, masks).backward()
    torch.testing.assert_close(errors.grad, fastia.weights(masks), rtol=0, atol=0)


def test_dynamic_sizes_compile_once(compile_afresh) -> None:
    compiled = compile_afresh(fastia.weights, dynamic=True, backend="aot_eager")
    compiled(random_ids(2, 7, 9))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for shape in ((3, 5, 8), (4, 32, 33)):
            compiled(random_ids(*shape))
