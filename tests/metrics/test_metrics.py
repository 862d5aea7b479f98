"""InstanceAwareIoU: golden numbers, the same bits for any split of the data, and the manners of a Metric."""

import copy
import json
import multiprocessing
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from fastia import InstanceAwareIoU
from fastia.metrics.registry import SIZE_NAMES

CLASSES = 5
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def batches(count: int = 8, height: int = 60, width: int = 70, seed: int = 0) -> list[Batch]:
    """Single images of predictions, target and instances: rectangles of all three sizes, imperfectly predicted."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        target, preds, instances = np.zeros((3, 1, height, width), np.int32)
        for i in range(1, 9):
            y, x = rng.integers(0, height), rng.integers(0, width)
            h, w = rng.integers(2, 45, 2)
            class_id = rng.integers(1, CLASSES)
            target[0, y : y + h, x : x + w] = class_id
            instances[0, y : y + h, x : x + w] = i
            preds[0, y : y + h - 1, x : x + w + 2] = class_id if rng.random() < 0.8 else rng.integers(0, CLASSES)
        target[0, 5], instances[0, 7] = 255, 255
        result.append(tuple(torch.from_numpy(ids) for ids in (preds, target, instances)))
    return result


def score(data: list[Batch], **options: object) -> dict[str, torch.Tensor]:
    metric = InstanceAwareIoU(CLASSES, **options)
    for batch in data:
        metric.update(*batch)
    return metric.compute()


def joined(data: list[Batch]) -> Batch:
    return tuple(torch.cat(ids) for ids in zip(*data, strict=True))


def assert_same_bits(result: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        assert result[name].dtype == torch.float64
        assert torch.equal(result[name].view(torch.int64), value.view(torch.int64)), name


# Golden numbers


@pytest.mark.parametrize("protocol", ["wacv2024", "exact"])
@pytest.mark.parametrize("dataset", ["voc3", "coco100"])
def test_scores_equal_the_released_evaluation(shared: Path, dataset: str, protocol: str) -> None:
    image = pytest.importorskip("PIL.Image")
    root = shared / "data" / dataset
    golden = json.loads((shared / "golden" / f"{dataset}.json").read_text())
    metric = InstanceAwareIoU(21, protocol=protocol)
    folders = ("Predictions", "SegmentationClass", "SegmentationObject")
    for name in sorted(path.stem for path in (root / "Predictions").glob("*.png")):
        metric.update(*(np.array(image.open(root / folder / f"{name}.png")) for folder in folders))
    result = metric.compute()
    expected = (
        golden["scores"] | (golden["exact_scores"] if protocol == "exact" else {}) | golden["penalized"][protocol]
    )
    assert len(expected) == 12
    assert {name: result[name].item() for name in expected} == pytest.approx(expected, rel=0, abs=1e-9)
    counts = np.bincount([record[1] for record in golden[f"instances_{protocol}"]], minlength=21)
    np.testing.assert_array_equal(result["instances_per_class"], counts)
    unmatched = np.bincount([record[1] for record in golden["unmatched"][protocol]], minlength=21)
    np.testing.assert_array_equal(result["unmatched_per_class"], unmatched)


# The same bits for every split


@pytest.mark.parametrize("protocol", ["wacv2024", "exact"])
def test_batch_split_and_order_do_not_change_scores(protocol: str) -> None:
    data = batches(100, 30, 35)
    expected = score([joined(data)], protocol=protocol)
    assert_same_bits(score(data, protocol=protocol), expected)
    assert_same_bits(score(data[::-1], protocol=protocol), expected)
    assert_same_bits(score([joined(data[3:]), joined(data[:3])], protocol=protocol), expected)


def test_kind_of_input_does_not_change_scores() -> None:
    data = batches()
    expected = score(data)
    assert_same_bits(score([tuple(ids.numpy() for ids in batch) for batch in data]), expected)
    assert_same_bits(score([tuple(ids[0] for ids in batch) for batch in data]), expected)


def test_threads_do_not_change_scores() -> None:
    data = [joined(batches())]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = score(data)
        torch.set_num_threads(2)
        assert_same_bits(score(data), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "cast",
    [
        lambda metric: metric.half(),
        lambda metric: metric.float(),
        lambda metric: metric.double(),
        lambda metric: metric.bfloat16(),
        lambda metric: metric.to(torch.float16),
        lambda metric: metric.type(torch.float16),
        lambda metric: metric.set_dtype(torch.float16),
        lambda metric: torch.nn.ModuleList([metric]).half()[0],
        lambda metric: torch.nn.ModuleList([metric]).type(torch.float16)[0],
    ],
    ids=["half", "float", "double", "bfloat16", "to", "type", "set_dtype", "parent.half", "parent.type"],
)
def test_casts_leave_the_integers_alone(cast) -> None:
    data = batches()
    metric = InstanceAwareIoU(CLASSES)
    metric.update(*data[0])
    metric = cast(metric)
    for batch in data[1:]:
        metric.update(*batch)
    assert metric.tally.dtype == metric.confusion.dtype == torch.int64
    assert_same_bits(metric.compute(), score(data))
    metric.reset()
    assert metric.tally.dtype == metric.confusion.dtype == torch.int64


def run_rank(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world_size)
    data = batches()[rank::world_size][: 1 + rank]  # ranks that see different numbers of images
    torch.save(score(data), f"{folder}/{rank}.pt")
    torch.distributed.barrier()  # torch 2.4 may hang when the group is destroyed while tensors of a gather are freed
    torch.distributed.destroy_process_group()


def test_four_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    world_size = 4
    multiprocessing.set_forkserver_preload(["fastia"])  # torch is imported once, not by each process
    torch.multiprocessing.start_processes(run_rank, (world_size, str(tmp_path)), world_size, start_method="forkserver")
    data = [batch for rank in range(world_size) for batch in batches()[rank::world_size][: 1 + rank]]
    expected = score(data)
    for rank in range(world_size):
        assert_same_bits(torch.load(tmp_path / f"{rank}.pt"), expected)


# What the scores mean


def test_false_positives_are_seen_by_the_penalized_score_only() -> None:
    """A grid of tiles of the image's classes against a prediction that is right about one instance in four."""
    height, width, side = 120, 160, 20
    target = np.zeros((height, width), np.uint8)
    for row, y in enumerate(range(5, height - side, 40)):
        for column, x in enumerate(range(5, width - side, 40)):
            target[y : y + side, x : x + side] = 1 + (row + column) % 2
    better = np.where(np.arange(width) < width // 4, target, 0).astype(np.uint8)
    tiles = np.zeros_like(target)
    for row, y in enumerate(range(0, height, 4)):
        for column, x in enumerate(range(0, width, 4)):
            tiles[y : y + 3, x : x + 3] = 1 + (row + column) % 2
    result = {}
    for name, preds in (("tiles", tiles), ("better", better)):
        metric = InstanceAwareIoU(3, protocol="exact")
        metric.update(preds, target)
        result[name] = metric.compute()
    assert result["better"]["miou"] > result["tiles"]["miou"]
    assert result["tiles"]["ia_miou"] > result["better"]["ia_miou"]
    assert result["tiles"]["ia_miou_penalized"] < result["better"]["ia_miou_penalized"]


def test_nothing_to_average_is_nan() -> None:
    metric = InstanceAwareIoU(3)
    metric.update(np.zeros((0, 4, 5), np.uint8), np.zeros((0, 4, 5), np.uint8))
    result = metric.compute()
    assert not result.pop("instances_per_class").any()
    assert not result.pop("unmatched_per_class").any()
    assert all(value.isnan().all() for value in result.values())


# Manners of a metric


def test_entries_are_those_documented() -> None:
    sizes = ("", *(f"_{size}" for size in SIZE_NAMES))
    names = ["miou", *(f"ia_miou{size}" for size in sizes), *(f"ia_miou_penalized{size}" for size in sizes)]
    names += ["pixel_accuracy", "mean_accuracy", "fw_iou"]
    result = score(batches(1), per_class=False)
    assert list(result) == names
    assert all(value.shape == () for value in result.values())
    rows = ["iou", *(f"ia_iou{size}" for size in sizes), "instances", "unmatched"]
    result = score(batches(1))
    assert list(result) == names + [f"{row}_per_class" for row in rows]
    assert all(result[f"{row}_per_class"].shape == (CLASSES,) for row in rows)


@pytest.mark.parametrize("leading", [(2,), ()])
def test_logits_are_upsampled_to_the_target(leading: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, CLASSES, (*leading, 30, 41), generator=generator)
    logits = torch.randn(*leading, CLASSES, 8, 11, generator=generator)
    upsampled = torch.nn.functional.interpolate(logits.reshape(-1, CLASSES, 8, 11), (30, 41), mode="bilinear")
    expected = score([(upsampled.argmax(1), target.reshape(-1, 30, 41))])
    assert_same_bits(score([(logits, target)]), expected)
    half = logits.to(torch.bfloat16)
    assert_same_bits(score([(half, target)]), score([(half.float(), target)]))


def test_batch_without_images_adds_nothing() -> None:
    metric = InstanceAwareIoU(CLASSES)
    metric.update(*batches(1)[0])
    before = metric.compute()
    empty = torch.zeros(0, 30, 41, dtype=torch.uint8)
    metric.update(empty, empty)
    metric.update(torch.zeros(0, CLASSES, 8, 11), empty)
    assert_same_bits(metric.compute(), before)


def test_merged_states_equal_one_metric() -> None:
    data = batches()
    first, second = InstanceAwareIoU(CLASSES), InstanceAwareIoU(CLASSES)
    for batch in data[:3]:
        first.update(*batch)
    for batch in data[3:]:
        second.update(*batch)
    first.merge_state(second)
    assert_same_bits(first.compute(), score(data))


def test_reset_forgets() -> None:
    data = batches()
    metric = InstanceAwareIoU(CLASSES)
    metric.update(*data[0])
    metric.reset()
    assert not metric.tally.any()
    assert not metric.confusion.any()
    metric.update(*data[1])
    assert_same_bits(metric.compute(), score(data[1:2]))


def test_update_goes_on_outside_of_inference_mode() -> None:
    data = batches()
    metric = InstanceAwareIoU(CLASSES)
    with torch.inference_mode():
        metric.update(*data[0])
        metric.reset()
        metric.update(*data[0])
    metric.update(*data[1])
    assert_same_bits(metric.compute(), score(data[:2]))


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric)), InstanceAwareIoU.clone]
)
def test_copies_go_on_from_the_same_state(copied) -> None:
    data = batches()
    metric = InstanceAwareIoU(CLASSES, protocol="exact")
    metric.update(*data[0])
    twin = copied(metric)
    metric.update(*data[1])
    twin.update(*data[1])
    assert_same_bits(twin.compute(), metric.compute())


def test_state_dict_holds_the_sums_when_persistent() -> None:
    data = batches()
    metric = InstanceAwareIoU(CLASSES)
    metric.update(*data[0])
    assert not metric.state_dict()
    metric.persistent(True)
    twin = InstanceAwareIoU(CLASSES)
    twin.persistent(True)
    twin.load_state_dict(metric.state_dict())
    twin.update(*data[1])
    assert_same_bits(twin.compute(), score(data[:2]))


def test_forward_returns_the_score_of_the_batch_and_adds_it() -> None:
    data = batches()
    metric = InstanceAwareIoU(CLASSES)
    for batch in data:
        assert_same_bits(metric(*batch), score([batch]))
    assert_same_bits(metric.compute(), score(data))


def test_works_in_a_collection() -> None:
    data = batches(2)
    protocols = ("wacv2024", "exact")
    collection = MetricCollection(
        {name: InstanceAwareIoU(CLASSES, protocol=name, per_class=False) for name in protocols}
    )
    for batch in data:
        collection.update(*batch)
    result = collection.compute()
    assert result["exact_ia_miou"] == score(data, protocol="exact")["ia_miou"]
    assert result["wacv2024_ia_miou"] == score(data)["ia_miou"]


def test_overflow_is_an_error() -> None:
    metric = InstanceAwareIoU(CLASSES)
    metric.update(*batches(1)[0])
    metric.tally[0, 3, 1:3] += 2**26
    with pytest.raises(OverflowError, match=r"class 3 has \d+ instances"):
        metric.compute()
    metric.reset()
    metric.update(*batches(1)[0])
    metric.confusion[1, 1] = -(2**62)
    with pytest.raises(OverflowError, match="number of pixels"):
        metric.compute()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: InstanceAwareIoU(0), ValueError, "num_classes must be in 1..65536, got 0"),
        (lambda: InstanceAwareIoU(2.0), TypeError, "num_classes must be an int, got 2.0"),
        (lambda: InstanceAwareIoU(3, protocol="voc"), ValueError, "protocol must be 'wacv2024' or 'exact', got 'voc'"),
        (lambda: InstanceAwareIoU(3, background=-1), ValueError, "background must be None or in 0..65535, got -1"),
        (
            lambda: InstanceAwareIoU(3, instance_ignore_index="none"),
            TypeError,
            "instance_ignore_index must be an int or None, got 'none'",
        ),
        (
            lambda: InstanceAwareIoU(3).update(torch.zeros(2, 4, 8, 9), torch.zeros(2, 8, 9, dtype=torch.uint8)),
            ValueError,
            "preds must have num_classes = 3 channels, got shape (2, 4, 8, 9)",
        ),
        (
            lambda: InstanceAwareIoU(3).update(torch.zeros(2, 8, 9), torch.zeros(2, 8, 9, dtype=torch.uint8)),
            TypeError,
            "preds must be of dtype bool, uint8, int16, uint16, int32, int64, got torch.float32",
        ),
    ],
)
def test_bad_arguments_are_named_with_value_and_what_is_allowed(call, error: type, text: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        call()


def test_target_outside_the_classes_is_an_error_and_adds_nothing() -> None:
    metric = InstanceAwareIoU(3)
    with pytest.raises(ValueError, match=r"target.*3"):
        metric.update(np.zeros((4, 5), np.uint8), np.full((4, 5), 3, np.uint8))
    assert not metric.tally.any()
    assert not metric.confusion.any()


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot

    yield matplotlib.pyplot
    matplotlib.pyplot.close("all")


def test_plot_draws_a_bar_per_score(pyplot) -> None:
    metric = InstanceAwareIoU(CLASSES)
    metric.update(*batches(1)[0])
    figure, axes = metric.plot()
    assert axes in figure.axes
    assert len(axes.patches) == 12
    assert {label.get_text() for label in axes.get_xticklabels()} >= {"ia_miou", "ia_miou_penalized"}


def test_plot_draws_classes_and_sizes_on_given_axes(pyplot) -> None:
    metric = InstanceAwareIoU(CLASSES)
    metric.update(*batches(1)[0])
    axes = pyplot.subplots()[1]
    assert metric.plot(metric.compute(), axes, per_class=True) == (axes.figure, axes)
    assert len(axes.patches) == 3 * CLASSES
    with pytest.raises(ValueError, match="per_class must be True"):
        metric.plot(score(batches(1), per_class=False), per_class=True)


def test_plot_draws_several_results_over_their_steps(pyplot) -> None:
    steps = [score([batch]) for batch in batches(3)]
    _, axes = InstanceAwareIoU(CLASSES).plot(steps)
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    np.testing.assert_array_equal(lines["miou"], [step["miou"] for step in steps])


def test_absent_classes_are_skipped_or_count_as_zero() -> None:
    target, preds = np.zeros((2, 8, 8), np.uint8)
    target[:4], preds[:4] = 1, 1
    preds[6, 6] = 2  # predicted, but absent from the ground truth; class 3 is in neither
    for absent_classes, iou_of_2 in (("skip", np.nan), ("zero", 0.0)):
        metric = InstanceAwareIoU(4, absent_classes=absent_classes)
        metric.update(preds, target)
        found = metric.compute()
        expected = [31 / 32, 1.0, iou_of_2, np.nan]
        np.testing.assert_array_equal(found["iou_per_class"], expected)
        assert found["miou"].item() == pytest.approx(np.nanmean(expected))
        assert found["mean_accuracy"].item() == pytest.approx((31 / 32 + 1) / 2)
    with pytest.raises(ValueError, match="absent_classes must be 'skip' or 'zero', got 'none'"):
        InstanceAwareIoU(4, absent_classes="none")
