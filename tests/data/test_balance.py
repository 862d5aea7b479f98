"""Balanced sets: the optimum against every possible choice, the written files, and scores over several sets."""

import itertools
import json
import sys

import numpy as np
import pytest

import fastia
from fastia.data import balance, voc
from fastia.data.balance import balance_dataset
from fastia.data.convert import convert_coco
from fastia.data.ground_truth import read_ground_truth
from fastia.data.programme import Programme, imbalance
from fastia.data.shapes import CLASSES, make_shapes
from fastia.evaluation import stability


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    make_shapes(root, 24, size=(160, 160))
    return root


@pytest.fixture(scope="module")
def scores(shapes, tmp_path_factory):
    """Three methods: their JSON files."""
    folder = tmp_path_factory.mktemp("scores")
    paths = []
    for name, predictions in (("network", "Predictions"), ("pseudo", "PseudoMasks"), ("truth", "SegmentationClass")):
        paths.append(folder / f"{name}.json")
        fastia.evaluate_directory(
            shapes, "all", shapes / predictions, classes=shapes / "classes.txt", json=paths[-1], ignore_index=255
        )
    return paths


def random_counts(seed: int, images: int = 10) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.uniform(0.1, 1.5, (1, 3, 3)) * rng.gamma(1, 1, (images, 1, 1)))
    return counts[counts.any((1, 2))]


def choices(images: int) -> np.ndarray:
    """Every choice of at least one image."""
    return np.array(list(itertools.product([False, True], repeat=images)))[1:]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("images", [None, 4])
def test_no_choice_is_better_than_the_solution(seed, images) -> None:
    programme = Programme.of(random_counts(seed), per_cell=3, images=images)
    every = choices(len(programme.cells))
    every = every if images is None else every[every.sum(1) == images]
    totals = every @ programme.cells
    deviations = abs(totals - programme.wanted).sum(1)
    solution = programme.solve(np.random.default_rng(seed), 60)
    assert solution.proven
    assert solution.deviation == solution.bound == deviations.min()
    assert programme.deviation(solution.chosen) == solution.deviation
    shortages = np.maximum(programme.wanted - totals, 0).sum(1)
    shortage = np.maximum(programme.wanted - programme.totals_of(solution.chosen), 0).sum()
    assert shortage == shortages[deviations == deviations.min()].min()


def test_a_cell_with_too_few_instances_is_asked_for_all_of_them() -> None:
    counts = np.zeros((4, 1, 3), int)
    counts[:, 0, 0], counts[0, 0, 2] = 2, 1
    programme = Programme.of(counts, per_cell=5, images=None)
    assert programme.wanted.tolist() == [5, 1]  # the medium ones, of which there are none, are no cell


def test_the_aim_follows_from_the_images_or_the_lower_quartile() -> None:
    counts = np.ones((8, 2, 3), int)
    counts[:, 1, 0] = 3
    assert Programme.of(counts, None, 4).aim == round(4 * counts.sum() / 6 / 8)
    assert Programme.of(counts, None, None).aim == 8


def test_random_sets_near_the_optimum_keep_to_the_limit_and_differ() -> None:
    programme = Programme.of(random_counts(3, 60), 5, None)
    rng = np.random.default_rng(0)
    best = programme.solve(rng, 60).deviation
    found = [programme.near(rng, best + 4, 60) for _ in range(5)]
    assert max(map(programme.deviation, found)) <= best + 4
    assert len({each.tobytes() for each in found}) > 1


def test_imbalance_is_the_share_that_would_have_to_move() -> None:
    assert imbalance(np.array([4, 4, 4])) == 0
    assert imbalance(np.array([6, 0, 0])) == pytest.approx(2 / 3)


def test_the_split_is_written_and_clearly_better_than_random(shapes) -> None:
    result = balance_dataset(shapes, "all")
    assert voc.Dataset(shapes).ids("balanced") == result.images
    truth = read_ground_truth(shapes, "balanced")
    np.testing.assert_array_equal(truth.counts().sum(0)[1:], result.after)
    assert result.gap == 0
    assert result.deviation < result.random_deviation / 2
    assert result.imbalance["after"] < min(result.imbalance["before"], result.imbalance["random"])


def test_lvis_is_clearly_better_balanced_than_at_random(shared, tmp_path) -> None:
    convert_coco(shared / "data/annotations/lvis_val_100.json", tmp_path, "all")
    result = balance_dataset(tmp_path, "all")
    assert result.proven
    assert result.gap == 0
    assert result.deviation < result.random_deviation / 2
    assert result.imbalance["after"] < 0.8 * result.imbalance["random"]


def test_the_seed_decides_and_predictions_play_no_part(shapes, tmp_path) -> None:
    first = balance_dataset(shapes, "all", None, images=15, sets=2, seed=1)
    root = tmp_path / "bare"
    root.mkdir()
    for name in ("SegmentationClass", "SegmentationObject", "ImageSets", "classes.txt"):
        (root / name).symlink_to(shapes / name)
    again = balance_dataset(root, "all", None, images=15, sets=2, seed=1)
    assert (again.images, again.sets) == (first.images, first.sets)
    other = balance_dataset(shapes, "all", None, images=15, sets=2, seed=2)
    assert other.deviation == first.deviation
    assert other.sets != first.sets


def test_chosen_images_have_an_instance_of_interest(shapes) -> None:
    result = balance_dataset(shapes, "all", None, interest=["ring", "disc"])
    truth = read_ground_truth(shapes, "all")
    has = {
        truth.images[i] for i in truth.image[np.isin(truth.class_id, [CLASSES.index("ring"), CLASSES.index("disc")])]
    }
    assert result.classes == ["disc", "ring"]
    assert result.candidates == len(has)
    assert set(result.images) <= has


def test_components_are_the_instances_of_semantic_masks_and_it_says_so(shapes, tmp_path) -> None:
    for name in ("SegmentationClass", "ImageSets", "classes.txt"):
        (tmp_path / name).symlink_to(shapes / name)
    assert "connected components" in balance_dataset(tmp_path, "all", None).notes[0]


def test_excluded_images_are_not_chosen(shapes, tmp_path) -> None:
    rejected = balance_dataset(shapes, "all", None).images[:3]
    (tmp_path / "rejected.txt").write_text("\n".join(rejected))
    result = balance_dataset(shapes, "all", None, exclude=tmp_path / "rejected.txt", sets=2)
    assert not set(rejected) & {*result.images, *result.sets[0], *result.sets[1]}


def test_the_csv_lists_the_instances_of_each_chosen_image(shapes, tmp_path) -> None:
    result = balance_dataset(shapes, "all", None, images=5, csv=tmp_path / "review.csv")
    lines = (tmp_path / "review.csv").read_text().splitlines()
    assert lines[0] == "image,instances,small,medium,large,classes"
    assert [line.split(",")[0] for line in lines[1:]] == result.images
    assert sum(int(line.split(",")[2]) for line in lines[1:]) == result.after[:, 0].sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "all"}, "name must be that of another split than all, got 'all'"),
        ({"name": "../a"}, "name must be that of another split"),
        ({"images": 100}, "images must be at most the 24 of all to choose from, got 100"),
        ({"images": 0}, "images must be None or in 1"),
        ({"per_cell": 0}, "per_cell must be None or in 1"),
        ({"interest": ["cat"]}, "interest must be among disc, .*; got cat"),
        ({"exclude": ["cat"]}, "exclude: not in the split: cat"),
        ({"csv": "nowhere/a.csv"}, "csv must be a file in a folder that exists"),
        ({"slack": -1}, "slack must be"),
    ],
)
def test_bad_options_are_named(shapes, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        balance_dataset(shapes, "all", **options)


def test_a_time_limit_within_which_nothing_is_found_is_named(shapes, monkeypatch) -> None:
    class Nothing:
        x, message = None, "Time limit reached."

    monkeypatch.setattr("scipy.optimize.milp", lambda *_, **__: Nothing)
    with pytest.raises(ValueError, match=r"time_limit must be longer: no choice found in 0\.5 seconds: Time limit"):
        balance_dataset(shapes, "all", None, time_limit=0.5)


def test_without_scipy_the_extra_is_named(shapes, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ModuleNotFoundError, match=r"no module scipy: .* pip install fastia\[data\]"):
        balance_dataset(shapes, "all")


def test_scores_on_sets_are_those_of_evaluate_on_each_set(shapes, scores) -> None:
    sets = balance_dataset(shapes, "all", None, images=10, sets=2).sets
    result = stability.across_sets(scores, sets)
    assert result.methods == ["network", "pseudo", "truth"]
    for i, images in enumerate(sets):
        (shapes / "ImageSets/Segmentation/set.txt").write_text("\n".join(images))
        expected = fastia.evaluate_directory(
            shapes, "set", shapes / "Predictions", classes=shapes / "classes.txt"
        ).scores
        for name, values in result.on_sets.items():
            assert values[0, i] == pytest.approx(expected[name], abs=1e-9)
    for name, values in result.on_all.items():
        assert values[1] == pytest.approx(json.loads(scores[1].read_text())["scores"][name], abs=1e-9)


def test_equal_sizes_are_the_mean_over_classes_of_the_mean_over_sizes(shapes, scores) -> None:
    result = stability.across_sets(scores, [voc.Dataset(shapes).ids("all")])
    document = json.loads(scores[0].read_text())
    means = []
    for name, row in document["per_class"].items():
        sizes = [row[f"ia_iou_{size}"] for size in ("small", "medium", "large")]
        present = [value for value in sizes if value is not None]
        means.append(row["ia_iou"] if name == "background" else np.mean(present))
    assert result.equal_sizes["ia_miou"][0] == pytest.approx(np.mean(means), abs=1e-9)


def test_a_method_that_is_always_best_keeps_its_rank(shapes, scores) -> None:
    sets = balance_dataset(shapes, "all", None, images=20, sets=3).sets
    result = stability.across_sets(scores, sets)
    ranks = [(-values).argsort(0)[0].tolist() for values in result.on_sets.values()]
    assert ranks == [[2, 2, 2]] * 3
    assert result.tau_between_sets["ia_miou"] == pytest.approx(1)
    assert len(stability.sentences(result)) == 3
    assert stability.sentences(stability.across_sets(scores[:1], sets)) == []


def test_a_score_file_of_other_images_is_named(shapes, scores) -> None:
    with pytest.raises(ValueError, match=r"network.json: has no nowhere: evaluate the split that was chosen from"):
        stability.across_sets(scores, [["000000", "nowhere"]])


def test_table_and_sentences_hold_the_figures(shapes) -> None:
    result = balance_dataset(shapes, "all", None, images=12)
    assert balance.table(result).row_count == len(CLASSES)  # each class but the background, and all
    text = "\n".join(balance.sentences(result))
    assert f"Too many or too few: {result.deviation}; no choice has fewer than {result.bound} (gap 0.0 %)" in text
