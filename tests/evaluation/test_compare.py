"""Comparison of methods: intervals that cover, tests that hold their level, and files that do not fit."""

import csv
import json
import math
import re
from pathlib import Path

import intervals
import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner, Result

import fastia
from fastia import cli
from fastia.data import png
from fastia.data.shapes import make_shapes
from fastia.evaluation.comparison import compare
from fastia.evaluation.intervals import bootstrap, holm, spearman, spearman_interval, swap_tests
from fastia.evaluation.sums import SCORES, STANDARD_SCORES, columns_of, read_result
from fastia.metrics.further import SCORES as EXTRAS
from fastia.metrics.registry import Terms, terms


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Results on synthetic shapes: good.json, bad.json, and exact.json of another protocol."""
    root = tmp_path_factory.mktemp("compare")
    make_shapes(root, 40, size=(160, 160))
    options = {"classes": root / "classes.txt"}
    fastia.evaluate_directory(root, "all", root / "Predictions", json=root / "good.json", **options)
    fastia.evaluate_directory(root, "all", root / "PseudoMasks", json=root / "bad.json", **options)
    fastia.evaluate_directory(root, "val", root / "Predictions", json=root / "val.json", **options)
    fastia.evaluate_directory(root, "all", root / "Predictions", json=root / "exact.json", protocol="exact", **options)
    return root


def changed(folder: Path, path: Path, change) -> Path:
    """A copy of good.json with something changed."""
    content = json.loads((folder / "good.json").read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def mean_of(values: np.ndarray) -> Terms:
    """A score that is the mean of one value an image."""
    return Terms(values[:, None], np.ones((len(values), 1)), None)


# Scores and intervals


@pytest.mark.parametrize("name", ["good", "exact"])
def test_scores_of_the_images_are_those_of_the_evaluation(folder, name) -> None:
    found = compare({name: folder / f"{name}.json"}, resamples=99).scores[name]
    expected = json.loads((folder / f"{name}.json").read_text())["scores"]
    assert list(found) == list(expected)
    for score, value in expected.items():
        assert found[score].value == pytest.approx(math.nan if value is None else value, rel=0, abs=1e-9, nan_ok=True)
        assert value is None or 0 <= found[score].low <= value <= found[score].high <= 1


def test_further_scores_are_compared_where_every_file_holds_them(folder, tmp_path) -> None:
    options = {"classes": folder / "classes.txt", "extra": EXTRAS, "json": tmp_path / "extra.json"}
    fastia.evaluate_directory(folder, "all", folder / "Predictions", **options)
    found = compare({"extra": tmp_path / "extra.json"}, resamples=99).scores["extra"]
    assert tuple(found) == tuple(SCORES)
    expected = json.loads((tmp_path / "extra.json").read_text())["scores"]
    left_out = {"sq", *(name for name in expected if "worst" in name)}
    assert set(expected) - left_out == set(found)
    for score, interval in found.items():
        assert interval.value == pytest.approx(expected[score], rel=0, abs=1e-9), score
    both = compare({"extra": tmp_path / "extra.json", "good": folder / "good.json"}, resamples=99)
    assert tuple(both.scores["extra"]) == STANDARD_SCORES
    with pytest.raises(ValueError, match=r"scores must be of miou, .*, fw_iou, got pq"):
        compare({"good": folder / "good.json"}, scores=["pq"])


def test_95_percent_intervals_hold_the_truth_in_95_percent_of_samples() -> None:
    # 600 samples: a standard error of 0.9 points; percentile intervals hold mIoU in 87 % of such samples
    chosen = ("miou", "ia_miou", "ia_miou_penalized_small", "pixel_accuracy", "fw_iou")
    found = intervals.coverage(intervals.SCENES["6 even classes"], 100, 600, scores=chosen, resamples=499)
    assert min(found.values()) >= 0.925
    assert max(found.values()) <= 0.975


def test_interval_of_a_plain_mean_is_the_bootstrap_t_interval() -> None:
    values = np.random.default_rng(0).exponential(0.1, 60).clip(0, 1)
    [((found,), _)] = bootstrap([[[mean_of(values)]]], [], resamples=20_000, seed=0)
    rng = np.random.default_rng(1)
    drawn = values[rng.integers(60, size=(20_000, 60))]
    pivots = (drawn.mean(1) - values.mean()) / drawn.std(1)
    expected = values.mean() - np.quantile(pivots, [0.975, 0.025]) * values.std()
    assert [found.low, found.high] == pytest.approx(expected, rel=0.01)  # of the random numbers


def test_classes_that_a_resample_lacks_keep_their_place_in_the_mean() -> None:
    hit = np.zeros((50, 2))
    truth = np.zeros((50, 2))
    hit[:, 0], truth[:, 0] = np.random.default_rng(0).integers(0, 11, 50), 10
    truth[0, 1] = 10  # a class of one image, which nothing hits
    score = Terms(hit, truth, None)
    [((found,), _)] = bootstrap([[[score]]], [], resamples=999, seed=0)
    [((alone,), _)] = bootstrap([[[Terms(hit[:, :1], truth[:, :1], None)]]], [], resamples=999, seed=0)
    assert [found.value, found.low, found.high] == pytest.approx([alone.value / 2, alone.low / 2, alone.high / 2])


def test_a_perfect_score_has_no_width_and_one_of_nothing_is_nan() -> None:
    perfect = Terms(np.ones((9, 2)), np.ones((9, 2)), None)
    nothing = Terms(np.ones((9, 0)), np.ones((9, 0)), None)
    (first, _), (second, _) = bootstrap([[[perfect]], [[nothing]]], [], resamples=99, seed=0)
    assert (first[0].value, first[0].low, first[0].high) == (1, 1, 1)
    assert math.isnan(second[0].value)
    assert math.isnan(second[0].low)


def test_checkpoints_widen_the_interval_by_students_t_of_their_spread() -> None:
    values = np.random.default_rng(0).random(80)
    means = [values.mean() + shift for shift in (-0.05, 0.0, 0.05)]
    several = [mean_of(values - 0.05), mean_of(values), mean_of(values + 0.05)]
    [((one, three), _)] = bootstrap([[[mean_of(values)], several]], [], resamples=999, seed=0)
    reach = stats.t.ppf(0.975, 2) * stats.sem(means)
    assert three.value == pytest.approx(one.value)
    assert three.high - three.value == pytest.approx(math.hypot(one.high - one.value, reach))
    assert three.value - three.low == pytest.approx(math.hypot(one.value - one.low, reach))


# Differences


def test_p_values_equal_all_swaps_counted() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 10))
    signs = 1 - 2 * (np.arange(1024)[:, None] >> np.arange(10) & 1)
    expected = np.mean(abs(signs @ (first - second)) >= abs((first - second).sum()) - 1e-12)
    (found,) = swap_tests([([mean_of(first)], [mean_of(second)])], resamples=40_000, seed=0)
    assert found == pytest.approx(expected, abs=0.01)  # 4 standard errors of 40,000 swaps


def test_methods_that_differ_by_chance_are_told_apart_in_5_percent_of_samples() -> None:
    everything = intervals.population(6, 0.0, images=4000)
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(300):
        first, second = (
            terms(columns_of(everything[rng.integers(4000, size=60)]), SCORES["ia_miou"]) for _ in range(2)
        )
        pairs.append(([first], [second]))
    p_values = swap_tests(pairs, resamples=499, seed=0)
    assert 0.02 < np.mean(np.array(p_values) <= 0.05) < 0.09  # 0.05 and 3 standard errors


def test_a_method_differs_from_a_worse_one_and_not_from_itself(folder) -> None:
    result = compare(
        {"good": folder / "good.json", "bad": folder / "bad.json", "same": folder / "good.json"},
        scores=["miou", "ia_miou"],
        resamples=999,
    )
    found = {(each.score, each.first, each.second): each for each in result.differences}
    worse = found["ia_miou", "good", "bad"]
    assert worse.p < 0.05
    assert [each.p_holm for each in result.differences] == holm([each.p for each in result.differences])
    assert 0 < worse.interval.low < worse.interval.value < worse.interval.high
    same = found["ia_miou", "good", "same"]
    assert (same.p, same.p_holm) == (1, 1)
    assert (same.interval.value, same.interval.low, same.interval.high) == (0, 0, 0)


def test_holm_orders_and_caps() -> None:
    assert holm([0.04, 0.01, math.nan, 0.03]) == pytest.approx([0.06, 0.03, math.nan, 0.06], nan_ok=True)
    assert holm([0.5, 0.6]) == [1, 1]
    assert holm([]) == []


# Rankings


def test_spearman_is_that_of_scipy_with_an_interval_of_bonett_and_wright() -> None:
    first, second = np.random.default_rng(0).integers(0, 6, (2, 12))
    assert spearman(first, second).value == pytest.approx(stats.spearmanr(first, second).statistic)
    found = spearman_interval(0.5, 12)
    reach = 1.959964 * math.sqrt((1 + 0.125) / 9)
    assert [found.low, found.high] == pytest.approx(np.tanh([np.arctanh(0.5) - reach, np.arctanh(0.5) + reach]))


def test_spearman_of_few_methods_or_ties_has_no_interval() -> None:
    assert spearman([1, 2, 3], [1, 2, 3]).low == -1
    assert math.isnan(spearman([1, 2, 3, 4], [1, 1, 1, 1]).value)
    assert spearman([1, 2, 3, 4], [1, 2, 3, 4]).high == pytest.approx(1)


def test_rankings_of_two_data_sets_are_correlated_by_method(folder) -> None:
    methods = {"good": folder / "good.json", "bad": folder / "bad.json"}
    others = {"bad": folder / "good.json", "good": folder / "bad.json"}
    result = compare(methods, against=others, scores=["ia_miou"], resamples=99)
    (found,) = result.correlations
    assert (found.first, found.second, found.methods) == ("ia_miou", "ia_miou, other data set", 2)
    assert found.interval.value == pytest.approx(-1)
    assert result.other["good"] == result.scores["bad"]
    with pytest.raises(ValueError, match="against must name the methods good, bad, got good"):
        compare(methods, against={"good": folder / "good.json"})


# Notes


def test_thin_strata_and_single_checkpoints_are_told(folder) -> None:
    result = compare({"a": folder / "good.json", "b": [folder / "good.json", folder / "bad.json"]}, resamples=99)
    counts = json.loads((folder / "good.json").read_text())["per_class"]
    assert result.small_strata == {
        (name, size): row[f"instances_{size}"]
        for size in ("small", "medium", "large")
        for name, row in counts.items()
        if 0 < row[f"instances_{size}"] < 30
    }
    assert result.notes[0].startswith("Test-set variance only for a: one checkpoint")
    assert "fewer than 30 instances" in result.notes[1]
    assert "different numbers of checkpoints" in result.notes[2]
    assert math.isnan(result.differences[0].p)
    single = compare({"a": folder / "good.json", "b": folder / "bad.json"}, resamples=99)
    assert single.notes[0].startswith("Test-set variance only for all methods")


# Files that do not fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "not what fastia evaluate --json writes: no entry 'images'"),
        (lambda c: c.update(images=[]), "images must be a list of objects, at least one"),
        (lambda c: c.update(protocol="voc"), "protocol must be one of wacv2024, exact, got 'voc'"),
        (lambda c: c["images"][0]["classes"][0].pop(), "a row of classes must hold 4 numbers"),
        (lambda c: c["images"][0]["instances"].append([77, 1, 5, 0.5]), "a class that is not among the 7 classes"),
        (lambda c: c["images"][0]["instances"].append([1, 1, "wide", 0.5]), "could not convert string to float"),
        (lambda c: c["images"][1].update(id=c["images"][0]["id"]), "ids of images must be texts, each once"),
        (lambda c: c["images"].pop(), "its images do not add up to its scores: miou is"),
        (lambda c: c["scores"].pop("fw_iou"), "no entry 'fw_iou' in scores"),
    ],
)
def test_a_file_that_evaluate_did_not_write_is_named(folder, tmp_path, change, message) -> None:
    path = changed(folder, tmp_path / "a.json", change)
    with pytest.raises(ValueError, match=re.escape(f"{path}: ") + ".*" + re.escape(message)):
        read_result(path)


def test_a_file_that_is_no_json_is_named(tmp_path) -> None:
    for content in (b"", b"\xff\xfe", b"[1, 2"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.json: not a JSON file"):
            read_result(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match="it holds a list, not an object"):
        read_result(tmp_path / "a.json")


def test_files_of_different_data_are_not_compared(folder, tmp_path) -> None:
    good = folder / "good.json"
    with pytest.raises(ValueError, match="they differ in protocol: wacv2024 against exact"):
        compare({"a": good, "b": folder / "exact.json"})
    with pytest.raises(
        ValueError, match=r"of different images: 27 are in the first only \(000000, 000001, 000003, \.\.\.\)"
    ):
        compare({"a": good, "b": folder / "val.json"})
    renamed = changed(folder, tmp_path / "b.json", lambda content: content["classes"].__setitem__(1, "disk"))
    with pytest.raises(ValueError, match="they differ in classes: disc against disk"):
        compare({"a": good, "b": renamed})

    other = tmp_path / "other"
    make_shapes(other, 40, size=(160, 160))
    target = png.read_ids(other / "SegmentationClass/000007.png").copy()
    target[:4] = 0
    png.write_ids(other / "SegmentationClass/000007.png", target)
    options = {"classes": other / "classes.txt", "json": other / "b.json"}
    fastia.evaluate_directory(other, "all", other / "Predictions", **options)
    with pytest.raises(ValueError, match="the ground truth of 1 images differs, first of 000007"):
        compare({"a": good, "b": other / "b.json"})


def test_order_of_the_images_does_not_matter(folder, tmp_path) -> None:
    path = changed(folder, tmp_path / "b.json", lambda content: content["images"].reverse())
    result = compare({"a": folder / "good.json", "b": path}, resamples=99)
    assert {each.p for each in result.differences} == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": ["iou"]}, "scores must be of miou, "),
        ({"scores": []}, "got none"),
        ({"resamples": 10}, "resamples must be"),
        ({"seed": -1}, "seed must be"),
        ({"plot": "nowhere/a.png"}, "plot must be a file in a folder that exists, got nowhere/a.png"),
    ],
)
def test_bad_options_are_named(folder, options, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        compare({"a": folder / "good.json"}, **options)
    with pytest.raises(ValueError, match="methods must name at least one file"):
        compare({})


# The command line


def run(*arguments) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(cli.app, ["compare", *map(str, arguments)])


def test_command_prints_tables_and_writes_reports(folder, tmp_path) -> None:
    paths = [tmp_path / name for name in ("c.json", "c.csv", "c.png")]
    reports = [
        part for option, path in zip(("json", "csv", "plot"), paths, strict=True) for part in (f"--{option}", path)
    ]
    good, bad = folder / "good.json", folder / "bad.json"
    done = run(good, bad, "--against", good, "--against", bad, "--resamples", 99, *reports)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.split()[:2] == ["miou", "good"] for line in lines)
    assert any(line.split()[:3] == ["good", "-", "bad"] for line in lines)
    assert "miou against ia_miou: Spearman 1.00 (n = 2: too few methods for an interval)" in done.stdout
    assert "Note: Test-set variance only" in done.stdout
    content = json.loads(paths[0].read_text())
    assert content["scores"]["good"]["miou"][0] == pytest.approx(json.loads(good.read_text())["scores"]["miou"])
    assert content["differences"][0]["first"] == "good"
    rows = list(csv.DictReader(paths[1].open()))
    assert len(rows) == 3 * 12
    assert (rows[0]["score"], rows[0]["method"], rows[-1]["less"]) == ("miou", "good", "bad")
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_command_names_methods_and_checkpoints(folder) -> None:
    good, bad = folder / "good.json", folder / "bad.json"
    done = run(f"ours={good}", f"ours={bad}", f"theirs={good}", "--score", "miou", "--resamples", 99)
    assert done.exit_code == 0, done.stderr
    assert "Test-set variance only for theirs" in done.stdout
    done = run(good, good)
    assert done.exit_code == 2
    assert f"two methods are named good: name them apart, as in other={good}" in done.stderr


def test_command_tells_bad_files_with_status_2(folder, tmp_path) -> None:
    for path in (tmp_path / "nowhere.json", folder / "classes.txt"):
        done = run(path, "--json", tmp_path / "c.json")
        assert done.exit_code == 2
        assert f"{path}" in done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


# Real predictions


def test_three_prediction_sets_of_real_images_compare_as_they_were_made(shared, tmp_path) -> None:
    from scipy import ndimage

    root = shared / "data/coco100"
    for path in (root / "Predictions").glob("*.png"):
        given = png.read_ids(path)
        eroded, cleaned = np.zeros_like(given), given.copy()
        for class_id in np.unique(given[given > 0]):
            eroded[ndimage.binary_erosion(given == class_id, iterations=3, border_value=1)] = class_id
        found = fastia.components(given)
        cleaned[np.r_[False, found.area < 32 * 32][found.labels]] = 0
        for name, ids in (("eroded", eroded), ("cleaned", cleaned)):
            (tmp_path / name).mkdir(exist_ok=True)
            png.write_ids(tmp_path / name / path.name, ids)
    files = {name: tmp_path / f"{name}.json" for name in ("given", "eroded", "cleaned")}
    for name, path in files.items():
        fastia.evaluate_directory(root, "all", root / "Predictions" if name == "given" else tmp_path / name, json=path)
    chosen = ["miou", "ia_miou", "ia_miou_large", "ia_miou_penalized", "pixel_accuracy", "mean_accuracy"]
    result = compare(files, scores=chosen, resamples=1999)
    found = {(each.score, each.first, each.second): each for each in result.differences}
    # erosion costs every object pixels, and IA-mIoU of the large ones surely
    assert found["ia_miou_large", "given", "eroded"].p_holm < 0.05
    assert found["ia_miou_large", "given", "eroded"].interval.low > 0
    assert found["mean_accuracy", "given", "eroded"].p_holm < 0.05
    # without small components fewer false positives are left, and the pixels are nearly the same
    assert found["ia_miou_penalized", "given", "cleaned"].p_holm < 0.05
    assert found["ia_miou_penalized", "given", "cleaned"].interval.high < 0
    assert found["pixel_accuracy", "given", "cleaned"].p_holm > 0.5
    assert found["miou", "given", "cleaned"].p_holm > 0.5
