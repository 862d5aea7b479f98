"""Crops for training, and the check of all files before it."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastia.data.png import write_ids
from fastia.data.shapes import make_shapes
from fastia.data.training import TrainingSet, batches, check_files, normalized


@pytest.fixture
def folder(tmp_path):
    """Three images whose red channel is 40 times their mask, of which blocks of 40 x 40 pixels have one id."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for i, (height, width) in enumerate(((120, 200), (160, 80), (40, 40))):
        blocks = np.random.default_rng(i).integers(0, 6, (height // 40, width // 40), np.uint8)
        mask = blocks.repeat(40, 0).repeat(40, 1)
        write_ids(tmp_path / "masks" / f"{i}.png", mask)
        picture = np.stack([40 * mask, mask, mask], 2)
        Image.fromarray(picture).save(tmp_path / "images" / f"{i}.jpg", quality=95, subsampling=0)
    return tmp_path


def training_set(folder, **options) -> TrainingSet:
    return TrainingSet(folder / "images", folder / "masks", ["0", "1", "2"], 64, **options)


def test_items_depend_on_seed_and_position_alone(folder) -> None:
    data, other = training_set(folder, seed=3), training_set(folder, seed=4)
    expected = [data[i] for i in range(8)]
    again = training_set(folder, seed=3)
    for i in (5, 2, 7):
        assert all(torch.equal(a, b) for a, b in zip(again[i], expected[i], strict=True))
    assert not all(torch.equal(other[i][0], expected[i][0]) for i in range(8))
    assert len({item[0].numpy().tobytes() for item in expected}) == 8


def test_every_epoch_shows_each_image_once_in_another_order(folder) -> None:
    names = [f"{i}" for i in range(40)]
    for i in range(40):
        write_ids(folder / "masks" / f"{i}.png", np.full((8, 8), i, np.uint8))
        Image.new("RGB", (8, 8)).save(folder / "images" / f"{i}.jpg")
    data = TrainingSet(folder / "images", folder / "masks", names, 8, scales=(1, 1))
    ids = [int(data[i][1][0, 0]) for i in range(80)]
    assert sorted(ids[:40]) == sorted(ids[40:]) == [*range(40)]
    assert ids[:40] != ids[40:]


def test_image_and_mask_are_cut_alike(folder) -> None:
    """Away from the borders of blocks, where the image is interpolated and the mask is not."""
    data = training_set(folder)
    for i in range(12):
        image, mask = data[i]
        inside = torch.nn.functional.max_pool2d(mask[None].float(), 5, 1, 2)[0] == mask
        inside &= -torch.nn.functional.max_pool2d(-mask[None].float(), 5, 1, 2)[0] == mask
        inside &= mask != 255
        assert inside.any()
        assert (image[0].float() - 40 * mask.float())[inside].abs().max() <= 12  # of JPEG, and of scaling by 0.5


def test_beyond_the_image_pixels_are_ignored_and_grey(folder) -> None:
    data = TrainingSet(folder / "images", folder / "masks", ["2"], 64, scales=(1, 1), flip=False, ignore_index=7)
    image, mask = data[0]
    assert (mask[40:] == 7).all()
    assert (mask[:, 40:] == 7).all()
    assert (mask[:40, :40] != 7).all()
    assert normalized(image[None])[0, :, 40:].abs().max() < 0.02  # half a grey value over the smallest deviation


def test_batches_are_the_same_with_workers_and_shared_by_processes(folder) -> None:
    data = training_set(folder)
    expected = [*batches(data, 1, 4, batch_size=5)]
    assert [images.shape[0] for images, _ in expected] == [5, 5, 5]
    state = torch.get_rng_state()
    loaded = [*batches(data, 1, 4, batch_size=5, workers=2)]
    assert torch.equal(torch.get_rng_state(), state)
    shares = [[*batches(data, 1, 4, batch_size=5, rank=rank, world_size=2)] for rank in range(2)]
    for (images, masks), with_workers, *parts in zip(expected, loaded, *shares, strict=True):
        assert torch.equal(images, with_workers[0])
        assert torch.equal(masks, with_workers[1])
        assert torch.equal(torch.cat([part[0] for part in parts]), images[[0, 2, 4, 1, 3]])


def test_every_bad_file_is_told(tmp_path) -> None:
    make_shapes(tmp_path, 12, size=(160, 160))
    images, masks = tmp_path / "JPEGImages", tmp_path / "PseudoMasks"
    names = [f"{i:06d}" for i in range(12)]
    options = {"num_classes": 7, "instances": tmp_path / "SegmentationObject"}
    done = []
    assert check_files(images, masks, names, advance=done.append, **options) == []
    assert sum(done) == 12
    (images / "000001.jpg").unlink()
    (images / "000002.jpg").write_bytes((images / "000002.jpg").read_bytes()[:-2000])
    (images / "000003.jpg").write_text("no image")
    (masks / "000004.png").unlink()
    (masks / "000005.png").write_bytes((masks / "000005.png").read_bytes()[:-20])
    write_ids(masks / "000006.png", np.zeros((160, 161), np.uint8))
    write_ids(masks / "000007.png", np.full((160, 160), 7, np.uint8))
    (tmp_path / "SegmentationObject" / "000008.png").unlink()
    problems = check_files(images, masks, names, **options)
    assert [problem.removeprefix(f"{tmp_path}/").partition(" (")[0] for problem in problems] == [
        "JPEGImages/000001.jpg: missing",
        "JPEGImages/000002.jpg: damaged image: image file is truncated",
        "JPEGImages/000003.jpg: not an image file",
        "PseudoMasks/000004.png: missing",
        "PseudoMasks/000005.png: truncated PNG",
        f"PseudoMasks/000006.png: size 161x160 differs from 160x160 of {images}/000006.jpg",
        "PseudoMasks/000007.png: id 7 in 25600 pixels; allowed are the 7 classes 0..6 and ignore_index 255",
        "SegmentationObject/000008.png: missing",
    ]
