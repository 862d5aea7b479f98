"""Analysis of sizes: counts, areas and components of datasets whose instances are known."""

import csv
import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from fastia.data import analyze, png
from fastia.data.analyze import analyze_dataset
from fastia.data.problems import FileProblems


@pytest.fixture
def dataset(tmp_path):
    """Two images: a small `a` in two pieces and a large `b`; a medium `a`, and void. `c` has none."""
    root = tmp_path / "dataset"
    for folder in ("SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    target, instances = np.zeros((2, 120, 120), np.uint8), np.zeros((2, 120, 120), np.uint8)
    target[0, 2:7, 2:7], target[0, 2:7, 10:15], instances[0, 2:7, 2:15] = 1, 1, 1
    instances[0][target[0] == 0] = 0
    target[0, 20:120, 10:110], instances[0, 20:120, 10:110] = 2, 2
    target[1, :40, :40], instances[1, :40, :40] = 1, 1
    target[1, 50:60], instances[1, 50:60] = 255, 255
    for i, name in enumerate(("one", "two")):
        png.write_ids(root / f"SegmentationClass/{name}.png", target[i])
        png.write_ids(root / f"SegmentationObject/{name}.png", instances[i])
    (root / "ImageSets/Segmentation/val.txt").write_text("one\ntwo\n")
    (root / "classes.txt").write_text("background\na\nb\nc\n")
    return root


def test_counts_areas_and_components_are_those_of_the_masks(dataset) -> None:
    result = analyze_dataset(dataset, "val")
    assert list(result.per_class) == ["a", "b", "c", "all"]
    assert result.per_class["a"] == {
        "images": 2, "instances": 2, "small": 1, "medium": 1, "large": 0, "components": 3, "pixels": 1650,
        "area_minimum": 50, "area_25": 437.5, "area_50": 825, "area_75": 1212.5, "area_maximum": 1600,
        "instances_per_image": 1, "components_per_image": 1.5,
    }  # fmt: skip
    everything = result.per_class["all"]
    assert [everything[name] for name in ("images", "instances", "small", "medium", "large")] == [2, 3, 1, 1, 1]
    assert everything["components"] == 4
    assert result.components.tolist() == [[0, 2, 1, 0], [0, 1, 0, 0]]
    assert np.isnan(result.per_class["c"]["area_50"])
    assert result.notes == []


def test_components_are_the_instances_of_semantic_masks_and_it_says_so(dataset) -> None:
    shutil.rmtree(dataset / "SegmentationObject")
    result = analyze_dataset(dataset, "val")
    assert result.per_class["a"]["instances"] == result.per_class["a"]["components"] == 3
    assert result.truth.area.tolist() == [25, 25, 10000, 1600]
    assert "connected components" in result.notes[0]


def test_csv_files_hold_a_row_per_class_and_per_instance(dataset, tmp_path) -> None:
    analyze_dataset(dataset, "val", csv=tmp_path / "a.csv", instances_csv=tmp_path / "b.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert [row["class"] for row in rows] == ["a", "b", "c", "all"]
    assert (rows[0]["area_25"], rows[2]["area_25"], rows[3]["instances"]) == ("437.5", "", "3")
    lines = (tmp_path / "b.csv").read_text().splitlines()
    assert lines == [
        "image,class,instance,area,size", "one,a,1,50,small", "one,b,2,10000,large", "two,a,1,1600,medium",
    ]  # fmt: skip


def test_plot_is_a_png_even_without_instances(dataset, tmp_path) -> None:
    for name in ("one", "two"):
        png.write_ids(dataset / f"SegmentationClass/{name}.png", np.zeros((120, 120), np.uint8))
    result = analyze_dataset(dataset, "val", plot=tmp_path / "plot")
    assert result.per_class["all"]["instances"] == 0
    assert Image.open(tmp_path / "plot").format == "PNG"


def test_table_fits_80_columns(dataset) -> None:
    from rich.console import Console

    (dataset / "classes.txt").write_text("background\na class of a long name\nb\nc\n")
    console = Console(width=80, file=io.StringIO())
    console.print(analyze.table(analyze_dataset(dataset, "val")))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert "class images inst. small medium large 25 % median 75 % comp." in lines
    assert "a class of a… 2 2 1 1 0 438 825 1212 1.5" in lines


def test_bad_files_are_listed(dataset) -> None:
    (dataset / "SegmentationObject/one.png").unlink()
    with pytest.raises(FileProblems, match=r"SegmentationObject/one.png: missing"):
        analyze_dataset(dataset, "val")


@pytest.mark.parametrize("option", ["csv", "instances_csv", "plot"])
def test_bad_options_are_named(dataset, option) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{option} must be a file in a folder that exists, got nowhere/a")):
        analyze_dataset(dataset, "val", **{option: "nowhere/a"})
