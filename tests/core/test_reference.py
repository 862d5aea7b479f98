"""The reference against the released evaluation's numbers on real predictions, and against cases worked out by hand."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
import torch
from generators import mask_arrays
from hypothesis import given
from scipy import ndimage

from fastia import functional, reference

SPLITS = {"coco100": "all", "voc3": "val"}
SIZES = ("small", "medium", "large")
VOID = 255


def mask(text: str) -> np.ndarray:
    """Rows of ids; `.` is 0 and `x` is void."""
    return np.array(
        [[VOID if id == "x" else int(id.replace(".", "0")) for id in row] for row in text.split()], np.uint8
    )


@pytest.fixture(scope="module", params=[(name, protocol) for name in SPLITS for protocol in ("wacv2024", "exact")])
def golden(request, shared):
    """What the released evaluation says of a data set under a protocol, and what the reference says."""
    image = pytest.importorskip("PIL.Image")
    name, protocol = request.param
    root = shared / "data" / name
    rows, unmatched, confusion = [], [], 0
    for image_id in (root / "ImageSets" / "Segmentation" / f"{SPLITS[name]}.txt").read_text().split():
        preds, target, instances = (
            np.array(image.open(root / folder / f"{image_id}.png"))
            for folder in ("Predictions", "SegmentationClass", "SegmentationObject")
        )
        found, counts = reference.instance_overlaps(preds, target, instances, num_classes=21, protocol=protocol)
        fields = (found.class_id, found.instance_id, found.area, found.iou)
        rows += [[image_id, *row] for row in zip(*(field.tolist() for field in fields), strict=True)]
        fields = (found.unmatched_class_id, found.unmatched_area)
        unmatched += [[image_id, *row] for row in zip(*(field.tolist() for field in fields), strict=True)]
        confusion = confusion + counts
    return json.loads((shared / "golden" / f"{name}.json").read_text()), protocol, rows, unmatched, confusion


def test_instances_of_the_released_evaluation(golden):
    expected, protocol, rows, _, _ = golden
    expected = expected[f"instances_{protocol}"]
    assert [row[:4] for row in rows] == [row[:4] for row in expected]
    # exact: the released numbers sum fractions of shares in float64, here they are rounded to 2^-40 of a pixel
    tolerance = 0 if protocol == "wacv2024" else 1e-12
    np.testing.assert_allclose([row[4] for row in rows], [row[4] for row in expected], rtol=0, atol=tolerance)


def test_unmatched_components_of_the_released_evaluation(golden):
    expected, protocol, _, unmatched, _ = golden
    assert unmatched == expected["unmatched"][protocol]


def test_scores_of_the_released_evaluation(golden):
    expected, protocol, rows, unmatched, confusion = golden
    scores = expected["scores" if protocol == "wacv2024" else "exact_scores"] | expected["penalized"][protocol]
    found = instance_scores(rows, unmatched) | confusion_scores(confusion)
    assert {name: found[name] for name in scores} == pytest.approx(scores, rel=0, abs=1e-9)


@pytest.mark.parametrize("golden", [(name, "wacv2024") for name in SPLITS], indirect=True)
def test_counts_and_sums_of_the_released_evaluation(golden):
    expected, _, rows, _, _ = golden
    count, total = instance_tally(rows)
    for size, name in zip(("all", *SIZES), ("", "Small ", "Medium ", "Large "), strict=True):
        assert count[size].tolist() == expected["counts"][f"{name}Class stack"]
        np.testing.assert_allclose(total[size], expected["iou_sums"][f"{name}IoU stack"], rtol=0, atol=1e-9)


def instance_tally(rows):
    """Number of instances and sum of their IoU, per class; rows end in class, instance id, area, iou."""
    count, total = ({size: np.zeros(21) for size in ("all", *SIZES)} for _ in range(2))
    for *_, class_id, _, area, iou in rows:
        size = SIZES[int(area >= 32 * 32) + int(area >= 96 * 96)]
        for name in ("all", size) if class_id > 0 else ("all",):
            count[name][class_id] += 1
            total[name][class_id] += iou
    return count, total


def instance_scores(rows, unmatched):
    missed = [[class_id, 0, area, 0.0] for _, class_id, area in unmatched]
    scores = {}
    for name, counted in (("ia_miou", rows), ("ia_miou_penalized", rows + missed)):
        count, total = instance_tally(counted)
        for size in count:
            present = count[size] > 0
            key = name if size == "all" else f"{name}_{size}"
            scores[key] = (total[size][present] / count[size][present]).mean()
    return scores


def confusion_scores(confusion):
    hit, truth, found = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)[:-1]
    present = truth > 0
    iou = hit[present] / (truth + found - hit)[present]
    return {
        "miou": iou.mean(),
        "pixel_accuracy": hit.sum() / truth.sum(),
        "mean_accuracy": (hit[present] / truth[present]).mean(),
        "fw_iou": (truth[present] / truth.sum() * iou).sum(),
    }


@pytest.mark.parametrize(
    ("connectivity", "expected"),
    [(8, [[1, 1, 0, 2], [0, 0, 2, 0], [3, 0, 4, 4]]), (4, [[1, 1, 0, 2], [0, 0, 3, 0], [4, 0, 5, 5]])],
)
def test_components_touch_by_corners_under_connectivity_8(connectivity, expected):
    assert reference.label(mask("11.2 ..2. 1x33"), connectivity=connectivity).tolist() == expected


def test_labels_follow_the_first_pixel_whatever_the_class():
    assert reference.label(mask("9.1 9.1 112")).tolist() == [[1, 0, 2], [1, 0, 2], [2, 2, 3]]


def test_ignored_before_background():
    masks = mask("01x")
    assert reference.label(masks, background=0, ignore_index=0).tolist() == [[0, 1, 2]]
    assert reference.weights(masks, background=0, ignore_index=0).tolist() == [[0, 1, 1]]
    assert reference.label(masks, background=None, ignore_index=None).tolist() == [[1, 2, 3]]


def test_components_are_padded_and_cut():
    masks = np.stack([mask("1.2 1.."), mask("... .3."), mask("... ...")])
    found = reference.components(masks)
    assert found.count.tolist() == [2, 1, 0]
    assert found.class_id.tolist() == [[1, 2], [3, -1], [-1, -1]]
    assert found.area.tolist() == [[2, 1], [1, 0], [0, 0]]
    assert found.bbox[:2].tolist() == [[[0, 0, 2, 1], [0, 2, 1, 3]], [[1, 1, 2, 2], [0, 0, 0, 0]]]
    cut = reference.components(masks, max_components=1)
    assert cut.count.tolist() == [2, 1, 0]
    assert cut.class_id.tolist() == [[1], [3], [-1]]


@pytest.mark.parametrize(("normalizer", "expected"), [("class", 4 / 3), ("foreground", 6 / 3)])
def test_weight_is_class_or_foreground_pixels_over_component_area(normalizer, expected):
    found = reference.weights(mask("1112 .x.2 1..."), normalizer=normalizer, connectivity=4, dtype="float64")
    assert found[0, 0] == expected
    assert found[1, :2].tolist() == [1, 0]


def test_weight_is_capped_at_tau():
    assert reference.weights(mask("1111.1"), tau=3.5, dtype="float64")[0].tolist() == [1.25] * 4 + [1, 3.5]


def test_bfloat16_is_rounded_once():
    value = 1 + 2.0**-8 + 2.0**-30  # above the middle of two bfloat16; in float32 it is the middle
    assert reference.rounded(np.array([value]), torch.bfloat16).tolist() == [1 + 2.0**-7]
    values = np.random.default_rng(0).uniform(0, 9, 999).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(reference.rounded(values.astype(np.float64), "bfloat16"), expected)


def iou(preds, target, instances, **options):
    return reference.instance_iou(mask(preds), mask(target), mask(instances), **options)


def test_void_cuts_no_component():
    for protocol in ("wacv2024", "exact"):
        # One component covers both: each answers for half of the rest, which is none, and void pixels do not count.
        assert iou("11111", "11x11", "11x22", protocol=protocol).iou.tolist() == [1, 1]
        # What lies beyond the void belongs to the component that meets the instance, and is no false one.
        found = iou("11111", "11x..", "11x..", protocol=protocol)
        assert found.iou[found.instance_id == 1] == 2 / 4
        assert found.unmatched_count == 0
    assert iou("11111", "11x..", "11x..").iou.tolist() == [0, 2 / 4]


def test_other_is_what_lies_on_other_instances_of_the_class_under_exact():
    # A pixel of class 1 under instance 2, whose class is 2, is no overlap with an instance of class 1.
    assert iou("1111", "1112", "1122", protocol="exact").covered.tolist() == [2 + 2, 0]
    assert iou("1111", "1112", "1122").covered.tolist() == [2 + 0, 0]  # wacv2024: 2 / 3 of 1, truncated
    # A pixel of instance 2 of class 1 whose target is another one is an overlap all the same.
    assert iou("1111", "111.", "1122", protocol="exact").covered.tolist() == [2, 2]


def test_target_void_takes_part_under_wacv2024():
    found = iou("111.", "1xx.", "111.")
    assert (found.area.tolist(), found.intersection.tolist(), found.iou.tolist()) == ([1, 3], [1, 3], [1, 1])
    assert iou("111.", "1xx.", "111.", protocol="exact").area.tolist() == [1]


@pytest.mark.parametrize(("protocol", "covered"), [("wacv2024", 2 + 0), ("exact", 2 + 2 / 3)])
def test_share_of_the_rest_is_truncated_under_wacv2024(protocol, covered):
    # The component has 2 pixels on instance 1, 4 on others of the class and 2 on none: 2 / 6 * 2 go to instance 1.
    found = iou("11111111", "111111..", "112233..", protocol=protocol)
    assert found.covered[found.instance_id == 1] == pytest.approx(covered, rel=0, abs=2.0**-40)


def test_pixels_of_the_class_without_an_instance_count_as_others_under_wacv2024():
    # exact: 4 of the 8 pixels belong to instances, so that instance 1 answers for 2 / 4 of the other 4.
    assert iou("11111111", "111111..", "1122....").covered[1] == 2
    assert iou("11111111", "111111..", "1122....", protocol="exact").covered[0] == 2 + 2


def test_components_inside_a_hole_belong_to_the_outer_one_under_wacv2024():
    target, preds = "22222 2...2 2...2 2...2 22222", "22222 2...2 2.2.2 2...2 22222"
    assert iou(preds, target, target).covered.tolist() == [8, 17]
    found = iou(preds, target, target, protocol="exact")
    assert (found.covered.tolist(), found.unmatched_area.tolist()) == ([16], [1])
    assert iou(preds, target, target).unmatched_count == 0


def test_a_ring_closed_by_corners_alone_encloses():
    def unmatched_areas(preds):
        return reference.instance_iou(mask(preds), np.zeros((5, 5), np.uint8)).unmatched_area.tolist()

    assert unmatched_areas(".222. 2...2 2.2.2 2...2 .222.") == [13]
    assert unmatched_areas("..22. 2...2 2.2.2 2...2 .222.") == [11, 1]


def test_class_of_an_instance_is_the_largest_target_id_under_it():
    found = iou("11333", "12x3.", "11122", protocol="exact")
    assert (found.class_id.tolist(), found.area.tolist(), found.intersection.tolist()) == ([2, 3], [2, 2], [0, 2])


def test_instance_without_a_class_has_no_record():
    assert iou("1.", "xx", "11").count == 0
    assert iou("1.", "xx", "11").unmatched_count == 0  # the target's void is void to components


def test_instance_of_the_background_class_has_no_record_under_exact():
    assert iou("..1", "...", ".11", protocol="exact").count == 0
    assert iou("..1", "..1", ".12", protocol="exact").class_id.tolist() == [1]


def test_instance_on_background_scores_predicted_background():
    found = iou("..11.", ".....", ".3311")
    assert (found.instance_id.tolist(), found.class_id.tolist()) == ([0, 1, 3], [0, 0, 0])
    assert found.covered.tolist() == [3, 1, 1 + 0]


def test_background_record():
    found = iou("..12", "...x", "...x")
    assert [field.tolist() for field in found[:7]] == [1, [0], [0], [3], [2], [2], [2 / 3]]
    assert iou("1", "0", "0").iou.tolist() == [0]
    assert iou("1", "1", "1").instance_id.tolist() == [1]
    assert iou("..12", "...x", "...x", background=None).count == 0
    assert iou("..12", "...x", "...x", protocol="exact").count == 0


def test_sparse_instance_ids():
    instances = np.array([[2**31 - 1, 7, 0]])
    found = reference.instance_iou(mask("111"), mask("111"), instances)
    assert found.instance_id.tolist() == [7, 2**31 - 1]


def test_without_instances_components_of_the_target_serve():
    target = np.arange(600, dtype=np.int32).reshape(1, 600) % 2  # 300 components, so that 255 is one's number
    found = reference.instance_iou(target, target)
    assert found.instance_id.tolist() == list(range(301))
    assert found.iou.min() == 1


def test_unmatched_in_raster_order_of_the_whole_component():
    # The component of class 2 begins in void, before that of class 1, and its area leaves void out.
    found = iou("22133 22.33", ".....  ....3", "xx...  ....1")
    assert (found.unmatched_class_id.tolist(), found.unmatched_area.tolist()) == ([2, 1], [2, 1])


def test_component_in_void_alone_is_not_unmatched():
    for protocol in ("wacv2024", "exact"):
        assert iou("2..", "xx.", "xx.", protocol=protocol).unmatched_count == 0


@pytest.mark.parametrize("protocol", ["wacv2024", "exact"])
def test_a_component_that_is_void_by_more_than_half_is_not_unmatched(protocol):
    assert iou("2222", "xx..", "....", protocol=protocol).unmatched_area.tolist() == [2]
    assert iou("2222", "....", "xx..", protocol=protocol).unmatched_area.tolist() == [2]
    assert iou("2222", "xxx.", "....", protocol=protocol).unmatched_count == 0
    assert iou("2222", "x...", "xxx.", protocol=protocol).unmatched_count == 0
    assert iou("2222", "x...", ".x..", protocol=protocol).unmatched_area.tolist() == [2]


@pytest.mark.parametrize("protocol", ["wacv2024", "exact"])
def test_a_component_on_a_pixel_of_its_class_is_not_unmatched(protocol):
    assert iou("222", "..2", "...", protocol=protocol).unmatched_count == 0  # stuff: no instance there
    assert iou("222", "..2", "..x", protocol=protocol).unmatched_area.tolist() == [2]  # but void of either map
    assert iou("222", "33.", "11.", protocol=protocol).unmatched_area.tolist() == [3]
    assert iou("2222", "2...", "11xx", protocol=protocol).unmatched_count == 0  # on its instance off the class's pixels


def test_an_instance_met_on_void_alone_is_not_met():
    # Under wacv2024 the component covers the instance where the target alone is void; it is a false one all the same.
    found = iou("1111. 1111.", "2xx.. .....", "111.. .....", instance_ignore_index=None)
    assert found.unmatched_area.tolist() == [6]
    found = iou(".22 .22", "2x. ...", "11. ...")
    assert (found.class_id.tolist(), found.covered.tolist()) == ([0, 2], [2, 1 + 3])
    assert found.unmatched_area.tolist() == [3]


def test_predictions_outside_the_classes_form_no_component():
    found, confusion = reference.instance_overlaps(mask("95x1"), mask("1x11"), mask("1x11"), num_classes=2)
    assert (found.iou.tolist(), found.unmatched_count) == ([1 / 3], 0)
    assert confusion.tolist() == [[0, 0, 0], [0, 1, 2]]


def test_ids_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"masks must hold ids of 0..65535 or ignore_index \(255\), got -3"):
        reference.label(np.array([[1, -3]]))
    with pytest.raises(ValueError, match=r"preds .* got 65536"):
        reference.instance_iou(np.array([[65536]]), np.array([[1]]))
    with pytest.raises(ValueError, match=r"instances must hold ids of 0..2147483647 .* got 2147483648"):
        reference.instance_iou(np.array([[1]]), np.array([[1]]), np.array([[2**31]]))
    with pytest.raises(ValueError, match=r"target must hold ids of 0..4 .* got 5"):
        reference.instance_overlaps(np.array([[5]]), np.array([[5]]), num_classes=5)


def test_empty_input():
    for shape in ((0, 4, 5), (2, 0, 5), (2, 4, 0), (0, 7)):
        masks = np.zeros(shape, np.uint8)
        assert reference.components(masks).labels.shape == shape
        assert reference.weights(masks).shape == shape
        found, confusion = reference.instance_overlaps(masks, masks, masks, num_classes=3)
        assert found.iou.shape == (*shape[:-2], 0)
        assert confusion.sum() == 0


@pytest.mark.parametrize("name", ["label", "components", "weights", "instance_iou", "instance_overlaps"])
def test_arguments_are_those_of_functional(name):
    def arguments(module):
        parameters = inspect.signature(getattr(module, name)).parameters.values()
        default = {p.name: (p.kind, str(p.default).removeprefix("torch.")) for p in parameters}
        return {name: default[name] for name in default if name not in ("validate", "threads")}

    assert arguments(reference) == arguments(functional)


@given(mask_arrays())
def test_components_of_each_class_are_those_of_scipy(masks):
    labels = reference.label(masks)
    for class_id in (1, 2):
        expected, count = ndimage.label(masks == class_id, np.ones((3, 3)))
        found = labels * (masks == class_id)
        assert np.unique(found[found > 0]).size == count
        assert np.unique(np.stack([found, expected]).reshape(2, -1), axis=1).shape[1] <= count + 1
