"""Other libraries that label connected components on a GPU, and those on the host with both transfers, if installed.

Each takes a batch [B, H, W] uint8 on the GPU, where 0 is background and 255 void, and gives labels on the GPU. Batches
and classes go in one call where the library allows it: an offset for each image tells images apart.
"""

import functools

import gpu_timing
import torch

import fastia


def without_void(batch):
    return batch * (batch != 255)


def classes_of(batch):
    return [class_id for class_id in batch.unique().tolist() if class_id not in (0, 255)]


def as_tensor(array):
    return torch.from_dlpack(array)


def cupyx_by_class():
    """cupyx.scipy.ndimage.label knows no classes: one call for each, on the whole batch with flat neighbours."""
    import cupy
    from cupyx.scipy import ndimage

    flat = cupy.zeros((3, 3, 3), bool)
    flat[1] = True

    def label(batch):
        labels, count = torch.zeros_like(batch, dtype=torch.int32), 0
        for class_id in classes_of(batch):
            found, more = ndimage.label(cupy.from_dlpack(batch == class_id), flat)
            found = as_tensor(found)
            labels += torch.where(found > 0, found + count, 0)
            count += int(more)
        return labels

    return label


def cucim_offsets():
    """cuCIM tells ids apart: images below each other, an offset for each."""
    import cupy
    from cucim.skimage import measure

    def label(batch):
        offset = 256 * torch.arange(len(batch), device=batch.device, dtype=torch.int32)[:, None, None]
        ids = without_void(batch).int()
        ids = torch.where(ids > 0, ids + offset, 0).flatten(0, 1)
        return as_tensor(measure.label(cupy.from_dlpack(ids), background=0, connectivity=2)).view(batch.shape)

    return label


def kornia_by_class():
    """kornia spreads maxima, one pixel an iteration: exact only for components that its iterations can cross."""
    from kornia.contrib import connected_components

    def label(batch):
        labels, count = torch.zeros_like(batch, dtype=torch.float64), 0
        for class_id in classes_of(batch):
            found = connected_components((batch == class_id).float()[:, None], num_iterations=100)[:, 0].double()
            labels += torch.where(found > 0, found + count, 0)
            count += batch.numel()
        return labels

    return label


def colorcc_offsets():
    """colorcc labels colours: the id is one channel, the image the others."""
    import colorcc

    def label(batch):
        ids = without_void(batch)
        number = torch.arange(len(batch), device=batch.device, dtype=torch.int32)[:, None, None].expand_as(ids)
        channels = torch.stack([ids, (number % 256).byte(), (number // 256).byte()], -1)
        return colorcc.label((channels * (ids != 0)[..., None]).flatten(0, 1), ignore=(0, 0, 0))[0].view(batch.shape)

    return label


def bkeccl_by_image_and_class():
    """bkeccl takes one binary image."""
    import bkeccl

    def label(batch):
        labels = torch.zeros_like(batch, dtype=torch.int32)
        for image, out in zip(batch, labels, strict=True):
            count = 0
            for class_id in classes_of(image):
                found = bkeccl.ccl((image == class_id).contiguous())
                found = as_tensor(found[0] if isinstance(found, tuple) else found)
                out += torch.where(found > 0, found + count, 0)
                count += int(found.max())
        return labels

    return label


def on_host(name):
    import numpy as np
    import peers

    def label(batch):
        return torch.from_numpy(np.stack([peers.LABEL[name](mask) for mask in batch.cpu().numpy()])).to(batch.device)

    return label


def fastia_on_host():
    return lambda batch: fastia.label(batch.cpu()).to(batch.device)


# Those that loop over classes or images run at the training shape alone, where they take milliseconds already.
EVERYWHERE = {"cuCIM": cucim_offsets, "colorcc": colorcc_offsets, "fastia on the CPU": fastia_on_host}
SMALL = {
    "CuPy": cupyx_by_class,
    "kornia": kornia_by_class,
    "bkeccl": bkeccl_by_image_and_class,
    **{f"{name} on the CPU": functools.partial(on_host, name) for name in ("cc3d", "OpenCV", "SciPy")},
}


def measure(scene, shapes, scenes, report):
    """Report the time of each peer on each scene, and whether its labels are those of fastia but for their numbers."""
    missing = set()
    for shape in shapes:
        for name in scenes[shape]:
            batch = scene(name, shape)
            ours = fastia.label(batch)
            for peer, make in (EVERYWHERE | (SMALL if shape == shapes[0] else {})).items():
                if peer in missing:
                    continue
                try:
                    label = make()
                    exact = is_same_partition(ours, label(batch))
                    microseconds = gpu_timing.eager_microseconds(functools.partial(label, batch), 0.005)
                except (ImportError, KeyError) as error:
                    missing.add(peer)
                    report(peer=peer, skipped=f"not installed: {error}"[:200])
                except Exception as error:  # a peer that fails is a gap in the table
                    report(peer=peer, shape=shape, masks=name, error=f"{type(error).__name__}: {error}"[:300])
                    torch.cuda.empty_cache()
                else:
                    report(peer=peer, shape=shape, masks=name, us=microseconds, exact=exact)
        scene.cache_clear()


def is_same_partition(labels, other):
    """Whether two maps of a batch differ by a renumbering of each image only, background 0 in both."""
    if not torch.equal(labels == 0, other == 0):
        return False
    for ours, theirs in zip(labels.flatten(1), other.flatten(1), strict=True):
        pairs = (ours.long() << 32 | theirs.long()).unique()
        if len((pairs >> 32).unique()) != len(pairs) or len((pairs & 0xFFFFFFFF).unique()) != len(pairs):
            return False
    return True
