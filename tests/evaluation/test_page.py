"""The page of `fastia evaluate --report`: what it holds, that nothing in it runs by accident, and a browser's view."""

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.offline
import pytest
from typer.testing import CliRunner

import fastia
from fastia import cli
from fastia.data import png
from fastia.data.shapes import make_shapes
from fastia.evaluation import page
from fastia.evaluation.page.pictures import choose, outline
from fastia.evaluation.page.pixels import Instances, read_instances
from fastia.evaluation.result import Evaluation

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECTIONS = {"scores", "classes", "area", "confusion", "gallery", "instances"}
EVIL = ["background", "<b>disc</b>", "</script><script>alert(1)</script>", "a&lt;b", "star\"'", "%{y}", "ring"]


class Page(HTMLParser):
    """Tags with their attributes, and texts, of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        tag, attributes = self.tags[-1] if self.tags else ("", {})
        if tag == "script":
            self.scripts[attributes.get("id")] = self.scripts.get(attributes.get("id"), "") + data
        else:
            self.texts.append(data)

    def json(self, name: str):
        return json.loads(self.scripts[name])


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    make_shapes(root, 6, size=(200, 240))
    return root


def evaluate(root: Path, **options) -> Evaluation:
    options = {"split": "all", "predictions": root / "Predictions", "classes": root / "classes.txt", **options}
    return fastia.evaluate_directory(root, **options)


@pytest.fixture(scope="module")
def text(shapes, tmp_path_factory) -> str:
    """The page of names that want to be more than text."""
    root = shutil.copytree(shapes, tmp_path_factory.mktemp("evil") / "data")
    name = "x<img src=x onerror=alert(2)>&'"
    for path in list(root.glob("*/000000.*")):
        path.rename(path.with_name(f"{name}{path.suffix}"))
    split = root / "ImageSets/Segmentation/all.txt"
    split.write_text(split.read_text().replace("000000", name))
    evaluate(root, classes=EVIL, report=root / "report", extra=["panoptic"])
    return (root / "report/index.html").read_text()


def test_page_holds_every_section_and_score(text) -> None:
    found = Page(text)
    assert {attributes["id"] for tag, attributes in found.tags if tag == "section"} == SECTIONS
    charts = {attributes["id"] for _, attributes in found.tags if attributes.get("class") == "chart"}
    assert (
        charts == set(found.json("figures")) == {f"{name}-chart" for name in ("scores", "classes", "area", "confusion")}
    )
    texts = {each.strip() for each in found.texts}
    assert {"penalized", "miou", "pq", "Small: worst", "Large: median"} < texts
    assert sum(tag == "figure" for tag, _ in found.tags) > 12
    assert len(text) < 15_000_000


def test_page_loads_nothing(text) -> None:
    own = text.replace(plotly.offline.get_plotlyjs(), "")
    assert len(own) < len(text) - 1_000_000
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", own)
    sources = [attributes.get(key) or "" for _, attributes in Page(text).tags for key in ("src", "href")]
    assert all(source.startswith(("data:", "#")) for source in sources if source)
    (policy,) = [a["content"] for t, a in Page(text).tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")


def test_names_of_classes_and_files_stay_text(text) -> None:
    found = Page(text)
    assert not [tag for tag, attributes in found.tags if tag == "img" or "onerror" in attributes]
    assert sum(tag == "script" for tag, _ in found.tags) == 4
    assert set(EVIL) <= set(found.texts)
    assert found.json("data")["classes"] == [*EVIL, "no class"]
    assert "x<img src=x onerror=alert(2)>&'" in found.json("data")["images"]
    labels = set(found.json("figures")["confusion-chart"]["data"][0]["y"])
    assert "&lt;b&gt;disc&lt;/b&gt;" in labels  # Plotly takes labels for HTML
    assert not any("<" in label for label in labels)


@pytest.mark.parametrize("protocol", ["wacv2024", "exact"])
@pytest.mark.parametrize("annotated", [True, False])
def test_pixels_of_instances_add_up_to_their_areas(shapes, tmp_path, protocol, annotated) -> None:
    root = shutil.copytree(shapes, tmp_path / "data")
    if not annotated:
        shutil.rmtree(root / "SegmentationObject")
    result = evaluate(root, protocol=protocol)
    instances = read_instances(result)
    assert len(instances.area) == sum(row["instances"] for row in list(result.per_class.values())[1:]) > 20
    areas = np.zeros((3, 7), np.int64)
    np.add.at(areas, (instances.size, instances.class_id), instances.area)
    np.testing.assert_array_equal(instances.confusion.sum(2), areas)
    assert ((instances.share * instances.area).round(6) % 1 == 0).all()


def test_confusion_counts_what_the_pixels_of_an_instance_were_predicted_as(tmp_path) -> None:
    for folder in ("SegmentationClass", "SegmentationObject", "Predictions", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/all.txt").write_text("a")
    png.write_ids(tmp_path / "SegmentationClass/a.png", np.array([[0, 1, 1, 1, 1, 2, 2, 255]], np.uint8))
    png.write_ids(tmp_path / "SegmentationObject/a.png", np.array([[0, 9, 9, 9, 9, 4, 4, 255]], np.uint8))
    png.write_ids(tmp_path / "Predictions/a.png", np.array([[1, 1, 2, 2, 255, 0, 0, 0]], np.uint8))
    result = evaluate(tmp_path, classes=["background", "a", "b"])
    instances = read_instances(result)
    assert instances.instance_id.tolist() == [4, 9]
    assert instances.confusion[0].tolist() == [[0, 0, 0, 0], [0, 1, 2, 1], [2, 0, 0, 0]]
    assert instances.predicted.tolist() == [0, 2]
    assert instances.share.tolist() == [1, 0.5]
    page.write_page(result, tmp_path / "page.html")  # of a dataset without JPEGImages
    assert "no JPEG of it in the dataset" in (tmp_path / "page.html").read_text()


def test_page_of_nothing_but_background(tmp_path) -> None:
    for folder in ("SegmentationClass", "Predictions", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/all.txt").write_text("a")
    for folder in ("SegmentationClass", "Predictions"):
        png.write_ids(tmp_path / folder / "a.png", np.zeros((3, 4), np.uint8))
    evaluate(tmp_path, classes=None, report=tmp_path / "report")
    found = Page((tmp_path / "report/index.html").read_text())
    assert found.json("data")["area"] == []
    assert "No instances of this size." in found.texts


def test_worst_come_by_iou_and_area_and_median_ones_from_the_middle() -> None:
    iou = np.r_[np.zeros(5), np.linspace(0.1, 0.9, 15)]
    area = np.arange(1, 21)
    zeros = np.zeros(20, np.int64)
    instances = Instances(zeros, zeros, area, area, iou, zeros, zeros, iou, np.zeros((3, 1, 2), np.int64))
    worst, median = choose(instances, 0)
    assert worst == [4, 3, 2, 1, 0, 5]
    assert median == [7, 8, 9, 10, 11, 12]
    assert choose(instances, 1) == ([], [])


def test_outline_is_the_edges_between_pixels() -> None:
    ids = np.array([[0, 0, 0], [0, 7, 3], [0, 0, 0]])
    assert outline(ids, 10, 20) == "M21 11h2M21 12h2M21 11v1M22 11v1"
    assert outline(np.ones((2, 2), int)) == ""


def test_report_must_be_a_folder_or_a_new_one(shapes, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for report in (tmp_path / "file", tmp_path / "nowhere/report"):
        with pytest.raises(ValueError, match="report must be a folder, or a new one in a folder that exists, got"):
            evaluate(shapes, report=report)


def test_a_missing_package_names_the_extra_before_anything_runs(shapes, tmp_path, monkeypatch) -> None:
    for module in [name for name in sys.modules if name.startswith("fastia.evaluation.page")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.io", None)
    with pytest.raises(ModuleNotFoundError, match=r"no module plotly.*: pip install fastia\[cli,report\]"):
        evaluate(shapes, report=tmp_path / "report", json=tmp_path / "scores.json")
    options = ["--dataset", shapes, "--predictions", shapes / "Predictions", "--report", tmp_path / "report"]
    done = CliRunner().invoke(cli.app, ["evaluate", *map(str, options)])
    assert done.exit_code == 1
    assert re.fullmatch(r"Error: no module plotly.*: the report needs more packages: .*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_leaves_the_earlier_one(shapes, tmp_path, monkeypatch) -> None:
    (tmp_path / "index.html").write_text("earlier")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "write_page", fail)
    with pytest.raises(OSError, match="No space left"):
        evaluate(shapes, report=tmp_path, json=tmp_path / "scores.json")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("index.html", "earlier")]


@pytest.fixture(scope="module")
def playwright():
    if BROWSER is None:
        pytest.skip("needs Chromium on the path")
    module = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with module.sync_playwright() as started:
        yield started


@pytest.mark.parametrize(
    ("width", "theme", "option", "kind"),
    [(1280, "light", "--enable-unsafe-swiftshader", "scattergl"), (420, "dark", "--disable-3d-apis", "scatter")],
    ids=["wide, light, WebGL", "narrow, dark, no WebGL"],
)
def test_every_control_works_in_chromium_without_a_complaint(
    playwright, text, tmp_path, width, theme, option, kind
) -> None:
    browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", option])
    path = tmp_path / "index.html"
    path.write_text(text)
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    tab.set_default_timeout(120_000)  # machines that test are busy
    complaints, requests = [], []
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(f"{error}"))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_function("document.querySelectorAll('.chart .main-svg').length >= 4")
    points = "document.getElementById('area-chart').data.map((trace) => trace.x.length)"
    every = tab.evaluate(points)
    assert tab.evaluate("document.getElementById('area-chart').data[0].type") == kind
    assert sum(every) == len(Page(text).json("data")["area"])

    tab.get_by_role("group", name="Size of the instances in the matrix").get_by_text("small").press("Enter")
    visible = "document.getElementById('confusion-chart').data.map((trace) => trace.visible)"
    assert tab.evaluate(visible) == [False, True, False, False]
    tab.locator("#area select[data-filter=size]").select_option(label="medium")
    assert tab.evaluate(points) == [0, every[1], 0]
    assert tab.locator("#instances .count").inner_text().startswith(f"{every[1]} of ")

    heading = tab.locator("#instances th").nth(3)
    for direction in ("descending", "ascending"):
        heading.get_by_role("button").press("Enter")
        assert heading.get_attribute("aria-sort") == direction
        areas = [int(cell) for cell in tab.locator("#instances tbody td:nth-child(4)").all_inner_texts()]
        assert areas == sorted(areas, reverse=direction == "descending")
    tab.locator("#classes th").nth(3).get_by_role("button").press("Space")
    ious = tab.locator("#classes tbody td:nth-child(4)").all_inner_texts()
    assert ious == sorted(ious, key=float, reverse=True)

    tab.get_by_label("prediction of its class").uncheck()
    assert not tab.locator("#gallery path.prediction").first.is_visible()
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")  # tables scroll, the page does not
    colour = "getComputedStyle(document.querySelector('.xtick text')).fill"
    before = tab.evaluate(colour)
    tab.emulate_media(color_scheme="dark" if theme == "light" else "light")
    tab.wait_for_function(f"{colour} !== '{before}'")
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    browser.close()
