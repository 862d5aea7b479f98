"""Conversion of COCO and LVIS annotations: every kind of area, every kind of mistake, and interruptions."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import fastia
from fastia.data import convert, drawing, png, voc
from fastia.data.class_maps import VOC_CATEGORIES, ClassMap, read_class_map, voc_map
from fastia.data.coco import AnnotationError
from fastia.data.convert import convert_coco

HEIGHT, WIDTH = 40, 50
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dining table"}, {"id": 9, "name": "spoon"}]


def box(x0: int, y0: int, x1: int, y1: int) -> list[list[float]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def rle(mask: np.ndarray, compressed: bool) -> dict:
    if compressed:
        encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    flat = np.r_[0, mask.ravel(order="F").astype(int), 2]
    starts = np.flatnonzero(np.diff(flat))
    lengths = np.diff(np.r_[0, starts]).tolist()
    return {"size": list(mask.shape), "counts": lengths if not mask[0, 0] else [0, *lengths[1:]]}


def annotate(shape, category: int = 3, **entries) -> dict:
    return {"image_id": 1, "category_id": category, "segmentation": shape, **entries}


def content(*annotations: dict, **entries) -> dict:
    image = {"id": 1, "file_name": "one.jpg", "height": HEIGHT, "width": WIDTH}
    numbered = [{"id": i, **annotation} for i, annotation in enumerate(annotations, 1)]
    return {"images": [image], "categories": CATEGORIES, "annotations": numbered, **entries}


def write(path: Path, document) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def maps(root: Path, name: str = "one") -> tuple[np.ndarray, np.ndarray]:
    return tuple(png.read_ids(root / folder / f"{name}.png") for folder in ("SegmentationClass", "SegmentationObject"))


def files(folder: Path) -> dict[str, bytes]:
    return {f"{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def converted(tmp_path):
    """Converts a document and gives the maps of its image `one`."""

    def run(document, **options) -> tuple[np.ndarray, np.ndarray]:
        convert_coco(write(tmp_path / "a.json", document), tmp_path / "dataset", jobs=1, **options)
        return maps(tmp_path / "dataset")

    return run


def rows(root: Path, split: str = "val") -> list[dict[str, str]]:
    with open(root / f"{split}_instances.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("name", "instances"), [("coco_instances_1img", 13), ("lvis_val_100", 162)])
def test_real_annotations_have_the_areas_of_pycocotools_and_evaluate_reads_them(
    shared, tmp_path, name, instances
) -> None:
    path = shared / "data/annotations" / f"{name}.json"
    document = json.loads(path.read_text())
    annotations, images = ({each["id"]: each for each in document[key]} for key in ("annotations", "images"))
    assert convert_coco(path, tmp_path, "all").instances == instances
    found = rows(tmp_path, "all")
    assert len(found) == instances
    visible = {}
    for row in found:
        annotation = annotations[int(row["annotation"])]
        image = images[annotation["image_id"]]
        polygons = coco_mask.frPyObjects(annotation["segmentation"], image["height"], image["width"])
        assert int(row["area"]) == coco_mask.area(coco_mask.merge(polygons))
        visible.setdefault(row["image"], {})[int(row["instance"])] = int(row["visible"])
    for image, areas in visible.items():
        ids, counts = np.unique(maps(tmp_path, image)[1], return_counts=True)
        assert areas == {i: n for i, n in zip(ids.tolist(), counts.tolist(), strict=True) if i not in (0, 255)}
    scored = fastia.evaluate_directory(tmp_path, "all", tmp_path / "SegmentationClass")
    assert scored.scores["ia_miou"] == 1
    assert sum(row["instances"] for row in list(scored.per_class.values())[1:]) == instances


def test_more_than_255_classes_make_16_bit_maps_whose_void_is_65535(converted, tmp_path) -> None:
    crowd = np.zeros((HEIGHT, WIDTH), bool)
    crowd[-1] = True
    categories = [{"id": i, "name": f"kind {i}"} for i in range(300)]
    document = content(
        annotate(box(0, 0, 9, 9), 299), annotate(rle(crowd, True), 254, iscrowd=1), categories=categories
    )
    classes, instances = converted(document, class_map="categories")
    assert (classes[5, 5], classes[-1, 5], instances[5, 5], instances[-1, 5]) == (300, 65535, 1, 65535)
    scored = fastia.evaluate_directory(
        tmp_path / "dataset",
        "val",
        tmp_path / "dataset/SegmentationClass",
        classes=tmp_path / "dataset/classes.txt",
        ignore_index=65535,
    )
    assert scored.per_class["kind 299"]["instances"] == 1
    assert scored.per_class["kind 254"]["instances"] == 0


def test_polygons_and_both_forms_of_run_lengths_draw_the_same(converted, tmp_path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:20, 10:30] = True
    drawn = []
    for i, shape in enumerate((box(10, 5, 30, 20), rle(mask, True), rle(mask, False))):
        document = content(annotate(shape))
        convert_coco(write(tmp_path / "a.json", document), tmp_path / f"{i}")
        drawn.append(maps(tmp_path / f"{i}"))
    for classes, instances in drawn:
        np.testing.assert_array_equal(classes, 8 * mask)
        np.testing.assert_array_equal(instances, mask)


def test_an_instance_of_several_polygons_is_one(converted) -> None:
    _, instances = converted(content(annotate(box(0, 0, 5, 5) + box(20, 20, 25, 25))))
    assert np.bincount(instances.ravel()).tolist() == [HEIGHT * WIDTH - 50, 50]


def test_the_smaller_instance_lies_on_the_larger_whatever_their_order(converted, tmp_path) -> None:
    classes, instances = converted(content(annotate(box(12, 12, 16, 16), 7), annotate(box(10, 10, 20, 20))))
    assert (instances[13, 13], instances[11, 11]) == (1, 2)
    assert (classes[13, 13], classes[11, 11]) == (11, 8)
    assert [(row["area"], row["visible"]) for row in rows(tmp_path / "dataset")] == [("16", "16"), ("100", "84")]


def test_a_hidden_instance_has_no_id_and_is_told(tmp_path) -> None:
    path = write(
        tmp_path / "a.json",
        content(annotate(box(0, 0, 9, 9)), annotate(box(0, 0, 9, 9)), annotate(box(0, 0, 0.2, 0.2))),
    )
    result = convert_coco(path, tmp_path / "dataset")
    assert [row["instance"] for row in rows(tmp_path / "dataset")] == ["0", "1", "0"]
    assert result.notes[-1] == "2 of 3 annotated objects have no pixel, or hide under smaller ones."


def test_a_crowd_is_void_except_under_instances(converted) -> None:
    crowd = np.zeros((HEIGHT, WIDTH), bool)
    crowd[:5] = True
    classes, instances = converted(content(annotate(box(0, 0, 50, 10)), annotate(rle(crowd, False), 7, iscrowd=1)))
    assert set(classes[:10].ravel()) == {8}
    assert set(instances[:10].ravel()) == {1}


def test_a_crowd_alone_is_void_in_both_maps(converted) -> None:
    crowd = np.zeros((HEIGHT, WIDTH), bool)
    crowd[:5] = True
    for ids in converted(content(annotate(rle(crowd, True), iscrowd=1))):
        np.testing.assert_array_equal(ids, 255 * crowd)


def test_a_category_of_no_class_is_background_and_hides_nothing(converted) -> None:
    crowd = np.ones((HEIGHT, WIDTH), bool)
    document = content(
        annotate(box(0, 0, 20, 20)), annotate(box(5, 5, 9, 9), 9), annotate(rle(crowd, True), 9, iscrowd=1)
    )
    classes, _ = converted(document)
    assert (classes == 8).sum() == 400
    assert set(classes.ravel()) == {0, 8}


def test_more_than_254_instances_make_a_16_bit_map_in_which_255_stays_void(converted, tmp_path) -> None:
    crowd = np.zeros((HEIGHT, WIDTH), bool)
    crowd[-1] = True
    boxes = [box(x, y, x + 1, y + 1) for y in range(0, 30, 2) for x in range(0, 50, 2)][:300]
    _, instances = converted(content(*map(annotate, boxes), annotate(rle(crowd, True), iscrowd=1)))
    assert instances.dtype == np.uint16
    assert set(np.unique(instances)) == set(range(302))  # 300 instances, background, and void in the place of one
    assert (instances == 255).sum() == WIDTH
    result = fastia.evaluate_directory(tmp_path / "dataset", "val", tmp_path / "dataset/SegmentationClass")
    assert result.per_class["cat"]["instances"] == 300


def test_exactly_254_instances_fit_8_bits(converted) -> None:
    boxes = [box(x, y, x + 1, y + 1) for y in range(0, 40, 2) for x in range(0, 50, 2)][:254]
    _, instances = converted(content(*map(annotate, boxes)))
    assert instances.dtype == np.uint8
    assert instances.max() == 254


def test_what_is_not_annotated_is_void_where_lvis_says_that_a_class_is_incomplete(converted) -> None:
    document = content(annotate(box(0, 0, 10, 10)), annotate(box(20, 20, 30, 30), 9))
    document["images"][0] |= {"not_exhaustive_category_ids": [3], "neg_category_ids": []}
    classes, instances = converted(document)
    assert (classes[5, 5], classes[25, 25], classes[35, 35]) == (8, 0, 255)  # a cat, a spoon, maybe a cat
    assert (instances[5, 5], instances[25, 25], instances[35, 35]) == (1, 0, 255)


def test_an_incomplete_category_of_no_class_changes_nothing(converted) -> None:
    document = content(annotate(box(0, 0, 10, 10)))
    document["images"][0]["not_exhaustive_category_ids"] = [9]
    assert 255 not in converted(document)[0]


def panoptic(tmp_path: Path, *, extra_segment: bool = False) -> Path:
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    ids[:10], ids[10:20], ids[20:30, :20], ids[20:30, 20:] = 70000, 300, 5, 6
    if extra_segment:
        ids[35, 35] = 99
    folder = tmp_path / "panoptic"
    folder.mkdir()
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    Image.fromarray(colours).save(folder / "one.png")
    categories = [
        {"id": 3, "name": "cat", "isthing": 1},
        {"id": 8, "name": "dining table", "isthing": 0},
        {"id": 9, "name": "sky", "isthing": 0},
    ]
    segments = [(70000, 3, 0), (300, 8, 0), (5, 9, 0), (6, 3, 1)]
    annotation = {
        "image_id": 1,
        "file_name": "one.png",
        "segments_info": [{"id": i, "category_id": c, "iscrowd": crowd} for i, c, crowd in segments],
    }
    document = {"images": content()["images"], "categories": categories, "annotations": [annotation]}
    return write(tmp_path / "panoptic.json", document)


def test_panoptic_segments_are_instances_stuff_crowds_and_void(tmp_path) -> None:
    convert_coco(panoptic(tmp_path), tmp_path / "dataset")
    classes, instances = maps(tmp_path / "dataset")
    assert [classes[y, x] for y, x in ((5, 5), (15, 5), (25, 5), (25, 25), (35, 5))] == [8, 11, 0, 255, 255]
    assert [instances[y, x] for y, x in ((5, 5), (15, 5), (25, 5), (25, 25), (35, 5))] == [1, 0, 0, 255, 255]
    assert [row["area"] for row in rows(tmp_path / "dataset")] == ["500"]


def test_bad_panoptic_masks_are_named_and_nothing_is_left(tmp_path) -> None:
    path = panoptic(tmp_path, extra_segment=True)
    with pytest.raises(AnnotationError, match=r"panoptic/one.png: segment 99 is not in the annotations"):
        convert_coco(path, tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()
    Image.new("RGB", (5, 5)).save(tmp_path / "panoptic/one.png")
    with pytest.raises(AnnotationError, match=r"one.png: size 5x5 differs from 50x40 of the annotations"):
        convert_coco(path, tmp_path / "dataset")
    (tmp_path / "panoptic/one.png").unlink()
    with pytest.raises(AnnotationError, match=r"one.png: missing"):
        convert_coco(path, tmp_path / "dataset")
    shutil.rmtree(tmp_path / "panoptic")
    with pytest.raises(AnnotationError, match=r"panoptic: no such folder"):
        convert_coco(path, tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_each_class_comes_from_the_first_file_that_has_it_and_the_image(tmp_path) -> None:
    url = {"coco_url": "http://images.cocodataset.org/val2017/000000000001.jpg"}
    size = {"height": HEIGHT, "width": WIDTH}
    lvis = content(annotate(box(0, 0, 9, 9)), categories=[{"id": 3, "name": "cat"}], images=[{"id": 1, **url, **size}])
    coco = content(
        annotate(box(20, 0, 29, 9), 5),
        annotate(box(20, 20, 29, 29), 6),
        {"image_id": 2, "category_id": 5, "segmentation": box(0, 0, 9, 9)},
        categories=[{"id": 5, "name": "cat"}, {"id": 6, "name": "potted plant"}],
        images=[{"id": 1, **url, **size}, {"id": 2, "file_name": "two.jpg", **size}],
    )
    paths = [write(tmp_path / "lvis.json", lvis), write(tmp_path / "coco.json", coco)]
    convert_coco(paths, tmp_path / "dataset")
    classes, _ = maps(tmp_path / "dataset", "000000000001")
    assert (classes[5, 5], classes[5, 25], classes[25, 25]) == (8, 0, 16)
    assert maps(tmp_path / "dataset", "two")[0][5, 5] == 8
    assert voc.Dataset(tmp_path / "dataset").ids("val") == ["000000000001", "two"]


def mistakes() -> list:
    """Documents, and what is said of them after the path of the file."""
    good = annotate(box(0, 0, 9, 9))
    ring = rle(np.eye(HEIGHT, WIDTH, dtype=bool), True)
    return [
        ("{", "no JSON file"),
        ("[1]", "needs a list 'images'"),
        ({"images": [], "annotations": []}, "needs a list 'categories'"),
        (content(images=[]), "has no images"),
        (content(good | {"image_id": 5}), "annotation 1: its image 5 is not among the images"),
        (content(good | {"image_id": [1]}), "annotation 1: has no image_id, a number"),
        (content(good | {"category_id": [3]}), "annotation 1: its category [3] is not among the categories"),
        (content(images=[{"id": 1, "height": 5, "width": 5}]), "image 1: has no usable file_name or coco_url"),
        (content(good | {"category_id": 5}), "annotation 1: its category 5 is not among the categories"),
        (content(good, good | {"id": 1}), "annotation 1: there is more than one of it"),
        (content(good | {"segmentation": None}), "annotation 1: has no segmentation"),
        (
            content(annotate([[0, 0, 5, 5]])),
            "annotation 1: a polygon must be a list of x and y of three points or more",
        ),
        (content(annotate([[0, 0, 5, 5, "a", 3]])), "annotation 1: a polygon holds something that is no number"),
        (content(annotate([[0, 0, 5, 5, [2], 3]])), "annotation 1: a polygon holds something that is no number"),
        (content(annotate([[0, 0, 5, 5, 2, float("nan")]])), "annotation 1: a polygon holds something that is no"),
        (content(annotate(box(0, 0, 52, 9))), "annotation 1: a polygon reaches x = 52, out of its image of 50x40"),
        (content(annotate(box(0, -9, 9, 9))), "annotation 1: a polygon reaches y = -9, out of its image of 50x40"),
        (content(annotate(ring | {"size": [WIDTH, HEIGHT]})), "annotation 1: its mask has the size [50, 40]"),
        (content(annotate(ring | {"counts": ring["counts"][:-3]})), "annotation 1: its run-length encoding"),
        (content(annotate({"size": [HEIGHT, WIDTH], "counts": [7, 9]})), "has 16 pixels, its image 2000"),
        (content(annotate({"size": [HEIGHT, WIDTH], "counts": [2001, -1]})), "its run-length encoding is damaged"),
        (content(categories=[{"id": 3}]), "category 3: has no name"),
        (content(images=[{"id": 1, "file_name": "a.jpg", "height": 0, "width": 5}]), "image 1: size 5x0 is no size"),
        (content(images=[{"id": 1, "file_name": "..", "height": 5, "width": 5}]), "image 1: has no usable file_name"),
    ]


@pytest.mark.parametrize(("document", "message"), mistakes(), ids=[message for _, message in mistakes()])
def test_a_mistake_gets_one_clear_message_and_nothing_is_written(tmp_path, document, message) -> None:
    path = write(tmp_path / "a.json", document)
    with pytest.raises(AnnotationError) as raised:
        convert_coco(path, tmp_path / "dataset")
    (problem,) = raised.value.problems
    assert problem.startswith(f"{path}: ")
    assert message in problem
    assert f"{raised.value}" == problem
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_all_mistakes_are_listed(tmp_path) -> None:
    astray = annotate(box(0, 0, 9, 9)) | {"image_id": 5}
    annotations = (annotate([]), annotate(box(0, 0, 90, 9)), astray, annotate(box(0, 0, 9, 9)))
    paths = [write(tmp_path / name, content(*annotations)) for name in ("a.json", "b.json")]
    with pytest.raises(AnnotationError, match="4 problems of the annotations") as raised:
        convert_coco(paths, tmp_path / "dataset")
    told = [problem.partition(": ")[::2] for problem in raised.value.problems]
    assert [path for path, text in told if "its image 5 is not" in text] == [f"{path}" for path in paths]
    assert [path for path, text in told if "a polygon reaches" in text] == [f"{paths[0]}"]


def many(folder: Path, count: int = 12) -> Path:
    images = [{"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(count)]
    annotations = [
        {"id": 10 * i + k, "image_id": i, "category_id": 3, "segmentation": box(2 * i, 9 * k, 2 * i + 9, 9 * k + 7)}
        for i in range(count)
        for k in range(3)
    ]
    return write(folder / "many.json", {"images": images, "categories": CATEGORIES, "annotations": annotations})


def test_an_interrupted_conversion_goes_on_and_ends_the_same(tmp_path, monkeypatch) -> None:
    path = many(tmp_path)
    convert_coco(path, tmp_path / "whole", jobs=2)
    drawn: list[str] = []

    def draw_some(record, void):
        if len(drawn) == 5:
            raise KeyboardInterrupt
        drawn.append(record.name)
        return drawing.draw(record, void)

    monkeypatch.setattr(convert, "draw", draw_some)
    with pytest.raises(KeyboardInterrupt):
        convert_coco(path, tmp_path / "halves", jobs=1)
    assert not (tmp_path / "halves/SegmentationClass").exists()
    with open(tmp_path / "halves/.val.partial/journal", "a") as journal:
        journal.write('["5", [[5')  # as a kill in the middle of a line leaves it
    first = len(drawn)
    monkeypatch.setattr(convert, "draw", lambda record, void: drawn.append(record.name) or drawing.draw(record, void))
    convert_coco(path, tmp_path / "halves", jobs=1)
    assert len(drawn) == 12
    assert len(set(drawn[:first]) & set(drawn[first:])) == 0
    assert files(tmp_path / "halves") == files(tmp_path / "whole")


@pytest.mark.parametrize("moved", [0, 1, 15, 24, 25])
def test_a_conversion_interrupted_while_files_move_to_their_place_goes_on(tmp_path, monkeypatch, moved) -> None:
    path = many(tmp_path)
    convert_coco(path, tmp_path / "whole")
    left, replace = [moved], os.replace

    def replace_some(source, target):
        if "Segmentation" in f"{target}" or "instances" in f"{target}":
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_some)
    with pytest.raises(OSError, match="No space left"):
        convert_coco(path, tmp_path / "halves")
    monkeypatch.undo()
    convert_coco(path, tmp_path / "halves")
    assert files(tmp_path / "halves") == files(tmp_path / "whole")


def test_a_conversion_with_other_arguments_starts_over(tmp_path, monkeypatch) -> None:
    path = many(tmp_path)
    monkeypatch.setattr(convert._Staging, "publish", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert_coco(path, tmp_path / "dataset")
    monkeypatch.undo()
    convert_coco(path, tmp_path / "dataset", class_map=ClassMap({"furniture": ["dining table"]}))
    assert rows(tmp_path / "dataset") == []
    assert voc.read_lines(tmp_path / "dataset/classes.txt") == ["background", "furniture"]


def test_number_of_threads_changes_nothing(tmp_path) -> None:
    path = many(tmp_path)
    for jobs in (1, 3):
        convert_coco(path, tmp_path / f"{jobs}", jobs=jobs)
    assert files(tmp_path / "1") == files(tmp_path / "3")


def test_a_finished_split_is_not_written_over(tmp_path) -> None:
    path = many(tmp_path)
    convert_coco(path, tmp_path / "dataset")
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"val.txt exists: choose another split or folder"):
        convert_coco(path, tmp_path / "dataset")
    with pytest.raises(ValueError, match=r"0.png exists, as do 11 more of 12: choose another folder"):
        convert_coco(path, tmp_path / "dataset", "train")
    with pytest.raises(ValueError, match=r"classes.txt has other classes: choose another folder"):
        convert_coco(path, tmp_path / "dataset", "train", class_map="categories")
    assert files(tmp_path) == before


@pytest.mark.parametrize("link", [False, True])
def test_pictures_are_copied_or_linked(tmp_path, link) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images/one.jpg")
    path = write(tmp_path / "a.json", content(annotate(box(0, 0, 9, 9))))
    convert_coco(path, tmp_path / "dataset", images=tmp_path / "images", link=link)
    picture = tmp_path / "dataset/JPEGImages/one.jpg"
    assert picture.is_symlink() == link
    assert picture.read_bytes() == (tmp_path / "images/one.jpg").read_bytes()


def test_missing_pictures_are_named_before_anything_is_written(tmp_path) -> None:
    (tmp_path / "images").mkdir()
    path = write(tmp_path / "a.json", content())
    with pytest.raises(AnnotationError, match=r"images/one.jpg: missing"):
        convert_coco(path, tmp_path / "dataset", images=tmp_path / "images")
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes = 3", r"needs a table \[classes\]"),
        ("[classes", "no TOML file"),
        ('[classes]\na = ["cat", 3]', "a must be a name or a list of names"),
        ('[classes]\na = "cat"\nb = ["dog", "cat"]', "category 'cat' is in two classes, a and b"),
        ('[classes]\nbackground = "cat"', "background is the name of class 0"),
        ('[classes]\na = "unicorn"', "class map: none of its categories is in"),
    ],
)
def test_bad_class_maps_are_named(tmp_path, text, message) -> None:
    path = write(tmp_path / "a.json", content())
    with pytest.raises(ValueError, match=message):
        convert_coco(path, tmp_path / "dataset", class_map=write(tmp_path / "map.toml", text))


def test_a_toml_file_names_the_classes(tmp_path, converted) -> None:
    path = write(tmp_path / "map.toml", '[classes]\nfurniture = ["dining table", "chair"]\n"small things" = "spoon"')
    assert read_class_map(path).classes == ("background", "furniture", "small things")
    classes, _ = converted(content(annotate(box(0, 0, 9, 9), 9), annotate(box(20, 20, 29, 29), 7)), class_map=path)
    assert (classes[5, 5], classes[25, 25]) == (2, 1)


def test_the_built_in_map_names_categories_of_coco_and_lvis(shared) -> None:
    paths = [shared / "data/annotations" / name for name in ("coco_instances_1img.json", "lvis_val_100.json")]
    coco, lvis = ({each["name"] for each in json.loads(path.read_text())["categories"]} for path in paths)
    known = {name for members in VOC_CATEGORIES.values() for name in members}
    assert known - coco - lvis == {"dalmatian", "mallard"}  # of LVIS 1.0
    of_coco, of_lvis = ({voc_map().class_ids.get(name) for name in names} - {None} for names in (coco, lvis))
    assert of_coco == {*range(1, 21)}
    assert of_lvis == {*range(1, 21)} - {voc.CLASSES.index("pottedplant")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "../a"}, "split must be a name"),
        ({"images": "nowhere"}, "images nowhere: no such folder"),
        ({"panoptic_masks": "nowhere"}, "panoptic_masks nowhere: no such folder"),
        ({"jobs": 0}, "jobs must be None or in 1"),
    ],
)
def test_bad_options_are_named(tmp_path, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        convert_coco(write(tmp_path / "a.json", content()), tmp_path / "dataset", **options)


def test_without_pycocotools_the_extra_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(ModuleNotFoundError, match=r"no module pycocotools: .* pip install fastia\[data\]"):
        convert_coco(write(tmp_path / "a.json", content()), tmp_path / "dataset")
