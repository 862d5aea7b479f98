"""Further scores against definitions in plain NumPy and torchmetrics, and the same bits for any split of the data."""

import csv
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from generators import scene
from scipy import ndimage
from torchmetrics.detection import PanopticQuality
from typer.testing import CliRunner

import fastia
from fastia import InstanceAwareIoU, cli, reference
from fastia.data.png import read_ids
from fastia.functional import instance_matches
from fastia.metrics.further import SCORES as EXTRAS

CLASSES = 5
SQUARE = np.ones((3, 3))
pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")  # of a merged or an empty metric
Image = tuple[np.ndarray, np.ndarray, np.ndarray]


def images(count: int = 10, seed: int = 0, height: int = 110, width: int = 140) -> list[Image]:
    """Predictions, targets and instances: rectangles of all three sizes, void, and predictions more or less alike."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        target, preds, instances = np.zeros((3, height, width), np.uint8)
        for i in range(1, 9):
            y, x = rng.integers(0, height - 5), rng.integers(0, width - 5)
            h, w = rng.integers(4, (20, 30, 100)[i % 3], 2)
            class_id = rng.integers(1, CLASSES)
            target[y : y + h, x : x + w], instances[y : y + h, x : x + w] = class_id, i
            class_id = class_id if rng.random() < 0.8 else rng.integers(0, CLASSES)
            preds[y : y + h - rng.integers(0, 3), x : x + w + rng.integers(0, 3)] = class_id
        y, x = rng.integers(0, 80, 2)
        target[y : y + 12, x : x + 30], instances[y : y + 12, x : x + 30] = 255, 255
        found.append((preds, target, instances))
    return found


def score(data: list[Image], **options) -> dict[str, torch.Tensor]:
    metric = InstanceAwareIoU(options.pop("num_classes", CLASSES), extra=EXTRAS, **options)
    for image in data:
        metric.update(*image)
    return metric.compute()


def ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def mean(values: list[float]) -> float:
    present = [value for value in values if not math.isnan(value)]
    return sum(present) / len(present) if present else math.nan


def size_of(area: int) -> str:
    return "small" if area < 32 * 32 else "medium" if area < 96 * 96 else "large"


def components(mask: np.ndarray, protocol: str) -> tuple[np.ndarray, int]:
    labels, count = ndimage.label(mask if protocol == "exact" else ndimage.binary_fill_holes(mask), SQUARE)
    return labels * mask, count


def boundary(mask: np.ndarray) -> np.ndarray:
    width = max(1, round(0.02 * math.hypot(*mask.shape)))
    return mask & ~ndimage.binary_erosion(mask, SQUARE, iterations=width)


def definitions(data: list[Image], classes: int, protocol: str) -> dict[str, float]:
    """All further scores by their definitions, one class, instance and component at a time; background 0, void 255."""
    segments = defaultdict(lambda: [0, 0, 0, 0.0])  # by class and size: TP, FP, FN, sum of IoU
    weighted = {c: [0.0, 0, 0, 0] for c in range(1, classes)}  # sum of recall, instances, their pixels, FP
    image_iou, boundaries = np.full((len(data), classes), np.nan), np.zeros((classes, 2))
    instance_iou = defaultdict(list)
    for i, (preds, target, instances) in enumerate(data):
        valid = target != 255
        either = (instances == 255) | ~valid  # void of either map
        void = either if protocol == "exact" else instances == 255  # of the records
        for c in range(classes):
            truth, found = (target == c) & valid, (preds == c) & valid
            if truth.any():
                image_iou[i, c] = (truth & found).sum() / (truth | found).sum()
            edges = boundary(target == c) & valid, boundary(preds == c) & valid
            boundaries[c] += (edges[0] & edges[1]).sum(), (edges[0] | edges[1]).sum()
            if c == 0:
                continue
            masks = [(instances == k) & ~void for k in np.unique(instances[~void & (instances > 0)])]
            masks = [mask for mask in masks if (mask & valid).any() and target[mask & valid].max() == c]
            labels, count = components(preds == c, protocol)
            false_pixels = int((found & ~truth).sum())
            weighted[c][3] += false_pixels
            all_pixels = sum(int(mask.sum()) for mask in masks)
            unmatched = set(range(1, count + 1))
            for mask in masks:
                area, hit = int(mask.sum()), int((mask & (preds == c)).sum())
                weighted[c][0] += hit / area
                weighted[c][1] += 1
                weighted[c][2] += area
                instance_iou[c].append(hit / (area + area / all_pixels * false_pixels))
                segment = mask & ~either
                best = [(labels == k) & ~either for k in np.unique(labels[segment & (labels > 0)])]
                best = [((part & segment).sum() / (part | segment).sum(), part) for part in best]
                iou, part = max(best, default=(0, None), key=lambda each: each[0])
                cell = segments[c, size_of(area)]
                if iou > 0.5:
                    unmatched.discard(int(labels[part][0]))
                    cell[0] += 1
                    cell[3] += iou
                else:
                    cell[2] += 1
            for k in unmatched:
                part = labels == k
                area, hidden = int((part & ~either).sum()), int((part & either).sum())
                if area and hidden <= area:
                    segments[c, size_of(area)][1] += 1

    for c in range(1, classes):  # stuff has no segments
        if not weighted[c][1] and any(((target == c) & (target != 255)).any() for _, target, _ in data):
            for size in ("small", "medium", "large"):
                segments.pop((c, size), None)

    def cells(c: int, sizes: tuple[str, ...]) -> np.ndarray:
        return np.sum([segments[c, size] for size in sizes], 0)

    sizes = ("small", "medium", "large")
    foreground = range(1, classes)
    totals = {c: cells(c, sizes) for c in foreground}
    used = [c for c in foreground if totals[c][:3].any()]
    values = {
        "pq": mean([t[3] / (t[0] + t[1] / 2 + t[2] / 2) for t in (totals[c] for c in used)]),
        "sq": mean([t[3] / t[0] if t[0] else 0 for t in (totals[c] for c in used)]),
        "rq": mean([t[0] / (t[0] + t[1] / 2 + t[2] / 2) for t in (totals[c] for c in used)]),
        "boundary_iou": mean(
            [
                ratio(*boundaries[c]) if any((image[1] == c).any() for image in data) else math.nan
                for c in range(classes)
            ]
        ),
        "miou_instance": mean([mean(instance_iou[c]) for c in foreground]),
    }
    for suffix, chosen in (("", sizes), *((f"_{size}", (size,)) for size in sizes)):
        each = [cells(c, chosen) for c in foreground]
        values[f"component_precision{suffix}"] = mean([ratio(tp, tp + fp) for tp, fp, _, _ in each])
        values[f"component_recall{suffix}"] = mean([ratio(tp, tp + fn) for tp, _, fn, _ in each])
        values[f"component_f1{suffix}"] = mean([ratio(2 * tp, 2 * tp + fp + fn) for tp, fp, fn, _ in each])
    # Cityscapes: pixels of an instance weigh the average area of its class over its own
    iious = []
    for recall, count, pixels, false_pixels in weighted.values():
        average = ratio(pixels, count)
        positive, missed = average * recall, average * (count - recall)
        iious.append(math.nan if not count else positive / (positive + false_pixels + missed))
    values["iiou"] = mean(iious)
    by_image, by_class = [mean(list(row)) for row in image_iou], [list(column) for column in image_iou.T]
    values |= {"miou_image": mean(by_image), "miou_class": mean([mean(column) for column in by_class])}

    def worst(scores: list[float], percent: int) -> float:
        ranked = sorted(value for value in scores if not math.isnan(value))
        return mean(ranked[: max(1, int(percent / 100 * len(ranked)))])

    for percent in (1, 5):
        values[f"miou_image_worst_{percent}"] = worst(by_image, percent)
        values[f"miou_class_worst_{percent}"] = mean([worst(column, percent) for column in by_class])
    return values


# Each score against its definition


@pytest.mark.parametrize("protocol", ["wacv2024", "exact"])
def test_scores_equal_their_definitions_on_random_masks(protocol) -> None:
    data = images(20)
    found, expected = score(data, protocol=protocol), definitions(data, CLASSES, protocol)
    assert {name: found[name].item() for name in expected} == pytest.approx(expected, rel=0, abs=1e-9, nan_ok=True)
    standard = set(InstanceAwareIoU(CLASSES).compute())
    assert {name for name in found if not name.endswith("_per_class")} - standard == set(expected)


@pytest.mark.parametrize("protocol", ["wacv2024", "exact"])
def test_scores_equal_their_definitions_on_real_predictions(shared, protocol) -> None:
    root = shared / "data/coco100"
    names = sorted(path.stem for path in (root / "Predictions").glob("*.png"))[::6]
    folders = ("Predictions", "SegmentationClass", "SegmentationObject")
    data = [tuple(read_ids(root / folder / f"{name}.png") for folder in folders) for name in names]
    found, expected = score(data, num_classes=21, protocol=protocol), definitions(data, 21, protocol)
    assert {name: found[name].item() for name in expected} == pytest.approx(expected, rel=0, abs=1e-9, nan_ok=True)


def test_panoptic_quality_equals_that_of_torchmetrics() -> None:
    data = [(preds, np.where(target == 255, 0, target), instances % 255) for preds, target, instances in images(12)]
    oracle = PanopticQuality(set(range(1, CLASSES)), {0}, return_sq_and_rq=True, return_per_class=True)
    for preds, target, instances in data:
        owners = np.zeros(256, int)  # of a pixel that an instance of another class holds
        for k in np.unique(instances[instances > 0]):
            owners[k] = target[instances == k].max()
        maps = (preds, fastia.label(preds)), (owners[instances], instances)
        oracle.update(*(torch.from_numpy(np.stack(pair, -1).astype(np.int64))[None] for pair in maps))
    expected = oracle.compute()[: CLASSES - 1]  # [things, (PQ, SQ, RQ)]
    found = score(data, protocol="exact")
    for i, name in enumerate(("pq", "sq", "rq")):
        np.testing.assert_allclose(found[f"{name}_per_class"][1:], expected[:, i], rtol=1e-6)  # it is of float32


def panoptic_segments(ids: np.ndarray, instances: np.ndarray) -> dict[int, tuple[int, np.ndarray]]:
    """By number: class, the largest id under it off void, and pixels of each instance that has one."""
    found = {}
    for k in np.unique(instances[instances > 0]).tolist():
        if (instances == k).any() and (ids[instances == k] > 0).any():
            found[k] = int(ids[instances == k].max()), instances == k
    return found


def panoptic_definition(data: list[Image], classes: int, protocol: str) -> dict[int, list[float]]:
    """By class TP, FP, FN and the sum of IoU, as panopticapi counts them: segments of truth and prediction are told by
    their ids, void is the id 0 of the truth, and only its overlap with a predicted segment is known of it."""
    counts: dict[int, list[float]] = {c: [0, 0, 0, 0.0] for c in range(1, classes)}
    for preds, target, instances in data:
        void = (target == 255) | (instances == 255)
        truth = panoptic_segments(np.where(void, 0, target), np.where(void, 0, instances))
        predicted = []
        for c in range(1, classes):
            labels, count = components(preds == c, protocol)
            predicted += [(c, labels == j) for j in range(1, count + 1)]
        matched = set()
        for c, segment in predicted:
            area, on_void = int(segment.sum()), int((segment & void).sum())
            true_positive = False
            for k, (truth_class, pixels) in truth.items():
                intersection = int((segment & pixels).sum())
                union = area + int(pixels.sum()) - intersection - on_void
                if truth_class == c and intersection and intersection / union > 0.5:
                    counts[c][0] += 1
                    counts[c][3] += intersection / union
                    matched.add(k)
                    true_positive = True
            if not true_positive and on_void / area <= 0.5:
                counts[c][1] += 1
        for k, (truth_class, _) in truth.items():
            counts[truth_class][2] += k not in matched
    return counts


@pytest.mark.parametrize("protocol", ["wacv2024", "exact"])
def test_panoptic_quality_follows_panopticapi_on_void(protocol) -> None:
    checked = void_components = 0
    for seed in range(250):
        rng = np.random.default_rng((11, seed))
        (data,) = images(1, seed, *rng.integers(24, 60, 2).tolist())
        preds, target, instances = (ids.copy() for ids in data)
        for ids in (target, instances, target, instances):  # void of each map alone, and thin
            y, x = rng.integers(0, target.shape, 2)
            ids[y : y + rng.integers(1, 12), x : x + rng.integers(1, 12)] = 255
        scattered = rng.random(target.shape) < 0.05
        preds[scattered] = rng.integers(0, CLASSES, target.shape)[scattered]
        found = score([(preds, target, instances)], protocol=protocol)
        void = (target == 255) | (instances == 255)
        for c, (positive, false, missed, iou) in panoptic_definition(
            [(preds, target, instances)], CLASSES, protocol
        ).items():
            if positive + missed == 0 and ((target == c) & (target != 255)).any():
                continue  # stuff has no panoptic quality; panopticapi knows it from a list of classes
            segments = positive + false / 2 + missed / 2
            expected = iou / segments if segments else math.nan
            assert found["pq_per_class"][c].item() == pytest.approx(expected, rel=0, abs=1e-9, nan_ok=True), (seed, c)
            expected = positive / segments if segments else math.nan
            assert found["rq_per_class"][c].item() == pytest.approx(expected, rel=0, abs=1e-12, nan_ok=True)
            checked += 1
        void_components += int((void & (preds > 0)).any())
    assert checked > 700
    assert void_components > 200


@pytest.mark.parametrize("protocol", ["wacv2024", "exact"])
def test_stuff_has_no_instance_scores_and_a_perfect_prediction_scores_1(protocol) -> None:
    target, instances = np.zeros((2, 64, 64), np.uint8)
    target[:30] = 1  # sky, stuff
    target[40:60, 10:30], instances[40:60, 10:30] = 2, 1  # a car
    target[0, :9] = 255  # void in the target alone, as in Cityscapes
    metric = InstanceAwareIoU(3, protocol=protocol, extra=EXTRAS)
    metric.update(target, target, instances)
    found = metric.compute()
    ones = ("miou", "ia_miou", "ia_miou_penalized", "ia_miou_penalized_small", "pq", "sq", "rq", "component_f1")
    assert {name: found[name].item() for name in ones} == dict.fromkeys(ones, 1)
    assert torch.isnan(found["pq_per_class"][1])
    worse = target.copy()
    worse[45, 50:60] = 1  # a false piece of sky
    metric = InstanceAwareIoU(3, protocol=protocol, extra=EXTRAS)
    metric.update(worse, target, instances)
    found = metric.compute()
    assert {name: found[name].item() for name in ones[3:]} == dict.fromkeys(ones[3:], 1)
    assert found["ia_miou_penalized"] == found["ia_miou"] > 0.99  # the piece is missing in the background
    assert found["unmatched_per_class"].tolist() == [0, 1, 0]  # listed all the same
    metric.update(target, target, (target == 1).astype(np.uint8))  # one instance of it anywhere: no stuff any more
    assert metric.compute()["ia_miou_penalized"] < 1


def test_components_match_as_in_the_reference() -> None:
    matched = 0
    for seed in range(100):
        preds, target, instances, options = scene(seed, largest=24)
        options = {**options, "num_classes": options["num_classes"] or 65536}
        if options["num_classes"] > 1000:
            options["num_classes"] = max(int(target.max(initial=0)), int(preds.max(initial=0)), 255) + 1
            if options["num_classes"] > 1000:
                continue
        *_, found = instance_matches(preds, target, instances, **options)
        expected = reference.instance_matches(preds, target, instances, **options)
        assert found.count.tolist() == [len(rows) for rows in expected]
        for i, rows in enumerate(expected):
            columns = [field[i, : len(rows)].tolist() for field in found[1:]]
            assert list(zip(*columns, strict=True)) == rows
            assert (found.class_id[i, len(rows) :] == -1).all()
            matched += sum(row[4] > 0 for row in rows)
    assert matched > 50


def test_a_component_that_is_mostly_void_is_no_false_positive() -> None:
    target, instances = np.zeros((2, 10, 10), np.uint8)
    preds = np.zeros_like(target)
    preds[2:4, :6] = 1
    for void, expected in ((3, 0.0), (4, math.nan)):
        instances[:, :void] = 255
        metric = InstanceAwareIoU(2, extra=["panoptic"])
        metric.update(preds, target, instances)
        np.testing.assert_equal(metric.compute()["pq"].item(), expected)


def test_boundaries_of_thin_and_tiny_images_are_all_of_them() -> None:
    for shape in ((1, 1), (1, 50), (2, 300), (60, 2)):
        target = np.ones(shape, np.uint8)
        metric = InstanceAwareIoU(2, extra=["boundary_iou"])
        metric.update(target, target)
        assert metric.compute()["boundary_iou"] == 1
        assert metric.boundary[1].tolist() == [target.size] * 3


# State


def joined(data: list[Image]) -> Image:
    return tuple(np.stack(ids) for ids in zip(*data, strict=True))


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name].view(torch.int64), value.view(torch.int64)), name


def test_split_order_and_kind_of_input_change_no_bit() -> None:
    data = images()
    expected = score(data)
    assert_same_bits(score(data[::-1]), expected)
    assert_same_bits(score([joined(data[:7]), joined(data[7:])]), expected)
    assert_same_bits(score([tuple(map(torch.from_numpy, joined(data)))]), expected)
    merged = InstanceAwareIoU(CLASSES, extra=EXTRAS)
    for part in (data[:4], data[4:]):
        other = InstanceAwareIoU(CLASSES, extra=EXTRAS)
        for image in part:
            other.update(*image)
        merged.merge_state(other)
    assert_same_bits(merged.compute(), expected)
    forwarded = InstanceAwareIoU(CLASSES, extra=EXTRAS)
    for image in data:
        forwarded(*image)
    assert_same_bits(forwarded.compute(), expected)


def run_rank(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world_size)
    torch.save(score(images()[rank::world_size][: 2 + rank]), f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_processes_change_no_bit(tmp_path) -> None:
    torch.multiprocessing.spawn(run_rank, (2, f"{tmp_path}"), nprocs=2)
    data = images()
    expected = score(data[0::2][:2] + data[1::2][:3])
    for rank in range(2):
        assert_same_bits(torch.load(tmp_path / f"{rank}.pt"), expected)


def test_scores_that_are_not_asked_for_leave_no_state() -> None:
    metric = InstanceAwareIoU(CLASSES, extra=["iiou"], per_class=False)
    assert set(metric.metric_state) == {"tally", "confusion", "recall"}
    metric.update(*images(1)[0])
    assert "iiou" in metric.compute()
    assert "iiou_per_class" not in metric.compute()
    assert "pq" not in metric.compute()
    assert math.isnan(InstanceAwareIoU(CLASSES, extra=EXTRAS).compute()["miou_image_worst_5"])


def test_unknown_names_are_told() -> None:
    with pytest.raises(ValueError, match=r"extra must be 'panoptic' or .*, got 'pq'"):
        InstanceAwareIoU(CLASSES, extra=["pq"])
    with pytest.raises(ValueError, match="extra must be a list of names, got the text 'panoptic'"):
        InstanceAwareIoU(CLASSES, extra="panoptic")


# Evaluation of folders


def write(root: Path, data: list[Image]) -> Path:
    from fastia.data.png import write_ids

    for folder in ("SegmentationClass", "SegmentationObject", "Predictions", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for i, image in enumerate(data):
        for folder, ids in zip(("Predictions", "SegmentationClass", "SegmentationObject"), image, strict=True):
            write_ids(root / f"{folder}/{i}.png", ids)
    (root / "ImageSets/Segmentation/val.txt").write_text("".join(f"{i}\n" for i in range(len(data))))
    (root / "classes.txt").write_text("".join(f"class {c}\n" for c in range(CLASSES)))
    return root


def test_folders_score_as_the_metric_in_every_report(tmp_path) -> None:
    data = images(6)
    root = write(tmp_path, data)
    options = [f"--extra={name}" for name in EXTRAS]
    paths = [f"--json={tmp_path / 'a.json'}", f"--scores-csv={tmp_path / 'a.csv'}", "--jobs=2"]
    command = ["evaluate", f"--dataset={root}", f"--predictions={root / 'Predictions'}"]
    done = CliRunner(env={"COLUMNS": "80"}).invoke(
        cli.app, [*command, f"--classes={root / 'classes.txt'}", *options, *paths]
    )
    assert done.exit_code == 0, done.stderr
    expected = {name: value.tolist() for name, value in score(data).items()}
    found = json.loads((tmp_path / "a.json").read_text())
    rows = {(row["class"], row["score"]): row["value"] for row in csv.DictReader((tmp_path / "a.csv").open())}
    for name, value in expected.items():
        if not name.endswith("_per_class"):
            assert found["scores"][name] == (None if math.isnan(value) else value), name
            assert rows["", name] == ("" if math.isnan(value) else repr(value))
    for name in ("pq", "iiou", "boundary_iou", "image_iou"):
        for c, value in enumerate(expected[f"{name}_per_class"]):
            assert found["per_class"][f"class {c}"][name] == (None if math.isnan(value) else value)
    assert any(line.split() == ["pq", f"{100 * expected['pq']:.1f}"] for line in done.stdout.splitlines())
    assert any(line.split()[:1] == ["component_recall"] and len(line.split()) == 5 for line in done.stdout.splitlines())
