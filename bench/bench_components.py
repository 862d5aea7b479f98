"""`label` and `weights` beside what else could be installed, and beside the floor: a fill of as many warm bytes."""

import numpy as np
import peers
import pytest
import torch
from scenes import NAMES, scene

import fastia

OURS = {"label": fastia.label, "weights": fastia.weights}
PEERS = {"label": peers.LABEL, "weights": peers.WEIGHTS}
DTYPE = {"label": np.int32, "weights": np.float32}
ALL_THREADS = torch.get_num_threads()
LARGE = ("masks, batch 64", "masks, 4096 x 4096")  # where the slow peers would take minutes and say nothing new

pytestmark = [pytest.mark.parametrize("operation", OURS), pytest.mark.parametrize("name", NAMES)]


def info(operation, name, who):
    batch = scene(name)
    return {"operation": operation, "scene": name, "who": who, "pixels": batch.size, "images": len(batch)}


def is_same_partition(labels, other):
    """Whether two label maps of one image differ by a renumbering only, background 0 in both."""
    pairs = np.unique(np.stack([labels.ravel(), other.ravel()]).astype(np.int64), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs) and np.array_equal(labels == 0, other == 0)


def test_peers_give_the_same_answer(operation, name):
    image = scene(name)[0][:512, :512]
    ours = OURS[operation](image)
    same = is_same_partition if operation == "label" else np.array_equal
    for peer, function in PEERS[operation].items():
        assert same(ours, function(image)), peer


@pytest.mark.parametrize("threads", sorted({1, ALL_THREADS}))
def test_fastia(measure, operation, name, threads):
    batch = scene(name)
    measure(lambda: OURS[operation](batch), threads, **info(operation, name, "fastia"))


def test_floor(measure, operation, name):
    warm = np.ones(scene(name).shape, DTYPE[operation])
    measure(lambda: warm.fill(1), **info(operation, name, "floor"))


@pytest.mark.parametrize("peer", peers.LABEL)
def test_peer(measure, operation, name, peer):
    if name in LARGE and peer != "cc3d":
        pytest.skip("slow peers run on smaller batches of the same masks")
    batch, function = scene(name), PEERS[operation][peer]
    measure(lambda: [function(mask) for mask in batch], **info(operation, name, peer))
