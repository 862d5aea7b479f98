"""The commands of `fastia dataset`, as a user runs them."""

import json
import sys

import pytest
from typer.testing import CliRunner, Result

import fastia
from fastia import cli
from fastia.data import voc
from fastia.data.shapes import make_shapes


def run(*arguments) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(cli.app, ["dataset", *map(str, arguments)])


@pytest.fixture
def root(tmp_path):
    make_shapes(tmp_path / "shapes", 12, size=(160, 160))
    return tmp_path / "shapes"


@pytest.fixture
def annotations(tmp_path):
    document = {
        "images": [{"id": 1, "file_name": "one.jpg", "height": 20, "width": 20}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9, 1, 9]]}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    return tmp_path / "a.json"


def test_convert_tells_what_it_wrote(annotations, tmp_path) -> None:
    done = run("convert", tmp_path / "dataset", annotations, "--split", "train")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[0] == "1 images, 1 instances, 21 classes"
    assert done.stdout.splitlines()[-1] == f"Wrote split train of {tmp_path / 'dataset'}"
    assert "1/1" in done.stderr
    assert voc.Dataset(tmp_path / "dataset").ids("train") == ["one"]


def test_bad_annotations_are_told_with_status_2(annotations, tmp_path) -> None:
    annotations.write_text(annotations.read_text().replace('"image_id": 1', '"image_id": 8'))
    done = run("convert", tmp_path / "dataset", annotations)
    assert done.exit_code == 2
    assert done.stderr == f"Error: {annotations}: annotation 1: its image 8 is not among the images\n"
    assert not (tmp_path / "dataset").exists()


def test_balance_prints_before_and_after_and_the_spread_of_scores(root, tmp_path) -> None:
    paths = [tmp_path / "network.json", tmp_path / "pseudo.json"]
    for path, folder in zip(paths, ("Predictions", "PseudoMasks"), strict=True):
        fastia.evaluate_directory(root, "all", root / folder, classes=root / "classes.txt", json=path)
    done = run(
        "balance", root, "--split", "all", "--images", 6, "--csv", tmp_path / "review.csv",
        "--sets", 3, "--scores", paths[0], "--scores", paths[1],
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert max(map(len, done.stdout.split("Aim")[0].splitlines())) <= 80
    for text in ("Instances of 12 images, and of the 6 chosen", "gap 0.0 %", "Kendall's tau", "Wrote split balanced"):
        assert text in done.stdout
    assert len(voc.Dataset(root).ids("balanced")) == 6
    assert (tmp_path / "review.csv").exists()


def test_sets_and_scores_need_each_other(root) -> None:
    done = run("balance", root, "--split", "all", "--sets", 3)
    assert done.exit_code == 2
    assert done.stderr == "Error: --sets and --scores need each other\n"


def test_analyze_prints_a_table_and_writes_what_it_is_asked_for(root, tmp_path) -> None:
    files = [tmp_path / name for name in ("a.csv", "b.csv", "c.png")]
    done = run("analyze", root, "--split", "all", "--csv", files[0], "--instances-csv", files[1], "--plot", files[2])
    assert done.exit_code == 0, done.stderr
    assert max(map(len, done.stdout.splitlines()[:-3])) <= 80
    assert [line for line in done.stdout.splitlines() if line.startswith("Wrote")] == [f"Wrote {f}" for f in files]
    assert all(file.exists() for file in files)


@pytest.mark.parametrize("module", ["pycocotools.mask", "scipy.optimize"])
def test_a_missing_extra_is_named(root, annotations, tmp_path, monkeypatch, module) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    command = ["convert", tmp_path / "dataset", annotations] if "coco" in module else ["balance", root]
    done = run(*command)
    assert done.exit_code == 1
    name = module.partition(".")[0]
    assert done.stderr == f"Error: no module {name}: this needs more packages: pip install fastia[data]\n"


def test_background_and_void_are_options(root) -> None:
    done = run("analyze", root, "--split", "all", "--background", "none", "--ignore-index", "255")
    assert done.exit_code == 0, done.stderr
    assert any(line.split()[:1] == ["background"] for line in done.stdout.splitlines())
    done = run("balance", root, "--background", "sky")
    assert done.exit_code == 2
    assert done.stderr == "Error: --background must be an integer or none, got 'sky'\n"


def test_help_names_the_commands() -> None:
    assert all(name in run("--help").stdout for name in ("convert", "balance", "analyze"))
