"""Images and pseudo masks for training: random scale, crop and flip that depend on seed and position alone."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastia.data.png import Ids, read_ids
from fastia.data.problems import describe, foreign_ids, read_or_report, size_text
from fastia.data.threads import in_threads

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, red, green, blue in 0..1: what torchvision's backbones were trained with
DEVIATION = (0.229, 0.224, 0.225)
_PADDING = tuple(round(255 * mean) for mean in MEAN)


class TrainingSet(Dataset[tuple[Tensor, Tensor]]):
    """An endless sequence of crops of images and their pseudo masks.

    Item ``position`` belongs to epoch ``position // len(names)``, each of which shows every image once in an order of
    its own. Order, scale, crop and flip are functions of ``seed`` and ``position``, whichever process or worker asks:
    a run that stops goes on with the very same crops.

    Args:
        images: folder of ``ID.jpg``.
        masks: folder of ``ID.png``, class ids.
        names: the IDs.
        crop: side of the crops; what lies beyond the image is mean grey, and ignored.
        scales: bounds of the random scale, uniform between them.
        flip: whether half of the crops are mirrored.
        ignore_index: id of ignored pixels, in 0..255, which padding gets.
        seed: of the random numbers.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastia.data.shapes import make_shapes
        >>> from fastia.data.training import TrainingSet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_shapes(folder, images=2)
        ...     data = TrainingSet(Path(folder, "JPEGImages"), Path(folder, "PseudoMasks"), ["000000", "000001"], 96)
        ...     image, mask = data[5]
        >>> image.shape, image.dtype, mask.shape, mask.dtype
        (torch.Size([3, 96, 96]), torch.uint8, torch.Size([96, 96]), torch.uint8)
    """

    def __init__(
        self,
        images: Path,
        masks: Path,
        names: Sequence[str],
        crop: int,
        *,
        scales: tuple[float, float] = (0.5, 1.5),
        flip: bool = True,
        ignore_index: int = 255,
        seed: int = 0,
    ) -> None:
        self.images = images
        self.masks = masks
        self.names = list(names)
        self.crop = crop
        self.scales = scales
        self.flip = flip
        self.ignore_index = ignore_index
        self.seed = seed

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Image ``[3, crop, crop]`` uint8 and mask ``[crop, crop]`` at a position, any integer from 0."""
        epoch, place = divmod(position, len(self.names))
        name = self.names[_order(self.seed, epoch, len(self.names))[place]]
        rng = np.random.default_rng([self.seed, 1, position])
        image, mask = self._cut(rng, read_image(self.images / f"{name}.jpg"), read_ids(self.masks / f"{name}.png"))
        if self.flip and rng.random() < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(mask.copy())

    def _cut(self, rng: np.random.Generator, image: NDArray[np.uint8], mask: Ids) -> tuple[NDArray[np.uint8], Ids]:
        """A random crop of both, resized: only the pixels that it needs."""
        from PIL import Image

        scale = rng.uniform(*self.scales)
        height, width = (max(1, round(scale * side)) for side in mask.shape)  # of the whole scaled image
        rows, columns = min(self.crop, height), min(self.crop, width)
        top, left = rng.integers(height - rows, endpoint=True), rng.integers(width - columns, endpoint=True)
        to_y, to_x = mask.shape[0] / height, mask.shape[1] / width
        box = left * to_x, top * to_y, (left + columns) * to_x, (top + rows) * to_y
        picture = np.full((self.crop, self.crop, 3), _PADDING, np.uint8)
        resized = Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR, box=box)
        picture[:rows, :columns] = np.asarray(resized)
        ids = np.full((self.crop, self.crop), self.ignore_index, np.uint8)
        y = ((2 * np.arange(top, top + rows) + 1) * mask.shape[0]) // (2 * height)  # nearest, by Pillow's rule
        x = ((2 * np.arange(left, left + columns) + 1) * mask.shape[1]) // (2 * width)
        ids[:rows, :columns] = mask[y[:, None], x]
        return picture, ids


def batches(
    data: TrainingSet, begin: int, end: int, *, batch_size: int, rank: int = 0, world_size: int = 1, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches ``begin`` to ``end`` of a run, or the share of one of several processes in each.

    Args:
        data: where from.
        begin, end: numbers of batches; the second is not included.
        batch_size: images a batch of all processes together.
        rank, world_size: this process and the number of processes, which is at most ``batch_size``.
        workers: processes that load; 0: this one does.

    Returns:
        Images ``[B, 3, crop, crop]`` uint8 and masks ``[B, crop, crop]``, of the positions ``rank``, ``rank +
        world_size``, ... of each batch.
    """
    positions = [range(i * batch_size + rank, (i + 1) * batch_size, world_size) for i in range(begin, end)]
    loader = DataLoader(
        data,
        batch_sampler=positions,  # type: ignore[arg-type]
        num_workers=workers,
        worker_init_fn=_ignore_signals if workers else None,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # the seeds of workers must not be drawn from the random numbers of the run
    )
    return iter(loader)


def normalized(images: Tensor) -> Tensor:
    """Images ``[B, 3, H, W]`` uint8 as float32 of about mean 0 and deviation 1, as backbones expect."""
    mean, deviation = (torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, DEVIATION))
    return (images / 255 - mean) / deviation


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image file as RGB ``[H, W, 3]``."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def check_files(
    images: Path,
    masks: Path,
    names: Sequence[str],
    *,
    num_classes: int,
    instances: Path | None = None,
    ignore_index: int | None = 255,
    jobs: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Read every image and mask; a text for each that is missing, damaged, of another size, or holds a foreign id.

    Args:
        images, masks, instances: folders of ``ID.jpg`` and twice ``ID.png``, the last of instance ids, if any.
        names: the IDs.
        num_classes: ids of masks are 0..num_classes - 1 or ``ignore_index``.
        ignore_index: id of ignored pixels; None: none.
        jobs: number of threads; None: number of cores.
        advance: called with the number of images done since the last call.
    """

    def check(name: str) -> list[str]:
        image_path = f"{images / name}.jpg"
        problems: list[str] = []
        size = _decoded_size(image_path, problems)
        for folder in filter(None, (masks, instances)):
            path = f"{folder / name}.png"
            ids = read_or_report(path, problems)
            if ids is not None and size is not None and ids.shape != size:
                problems.append(f"{path}: size {size_text(ids.shape)} differs from {size_text(size)} of {image_path}")
            if folder is masks:
                problems += foreign_ids(path, ids, num_classes, ignore_index)
        return problems

    return [problem for problems in in_threads(check, names, jobs, advance) for problem in problems]


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 0, epoch]).permutation(count)


def _decoded_size(path: str, problems: list[str]) -> tuple[int, int] | None:
    """Height and width of an image all of whose data can be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            size = image.height, image.width
            image.draft("L", (1, 1))  # an eighth of the pixels, all of the data: a third of the time
            image.load()
            return size
    except FileNotFoundError as error:
        problems.append(describe(path, error))
    except UnidentifiedImageError:
        problems.append(f"{path}: not an image file")
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, its own and more
        problems.append(f"{path}: damaged image: {error}")
    return None


def _ignore_signals(worker: int) -> None:
    """Ctrl-C and Slurm's SIGTERM reach the whole group: the run saves and ends its workers itself."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
