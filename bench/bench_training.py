"""Cost of a training iteration: size weights beside the plain loss, both beside eager torch, and what EWC adds.

One process a network, two threads, into bench/results/training.json. The kinds of step take turns, so that a machine
that slows down slows all of them; ratios are medians over rounds of the ratio within a round. What is small beside the
spread of a step is timed on its own: `penalty` and `observe` right after the backward pass, where they stand in a step;
the losses, forward and backward, on the network's outputs. `size weights` is what the weights add to the fused loss.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import masks
import torch
import torch.nn.functional as F

import fastia
from fastia.kernels.cpu import launch as cpu
from fastia.models import DeepLabV2

RESULTS = Path(__file__).parent / "results" / "training.json"
CASES = {  # backbone: batch, side of the crop, rounds
    "small": (8, 161, 80),
    "resnet101": (1, 321, 9),
}
CLASSES = 21
THREADS = 2


def eager(logits, target):
    upsampled = F.interpolate(logits, size=target.shape[1:], mode="bilinear")
    return F.cross_entropy(upsampled, target.long(), ignore_index=255)


def eager_loss(outputs, target):
    return sum(eager(logits, target) for logits in outputs)


def plain_loss(outputs, target):
    return sum(fastia.size_weighted_cross_entropy(logits, target, tau=1.0) for logits in outputs)


def weighted_loss(outputs, target):
    weights = fastia.weights(target)
    return sum(fastia.size_weighted_cross_entropy(logits, target, weights) for logits in outputs)


LOSSES = {"eager plain": eager_loss, "fused plain": plain_loss, "fused size-weighted": weighted_loss}


def timed(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def measure(backbone):
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    batch, side, rounds = CASES[backbone]
    model = DeepLabV2(CLASSES, backbone=backbone)
    optimizer = torch.optim.SGD(model.parameter_groups(1e-6, 5e-4), momentum=0.9)
    images = torch.randn(batch, 3, side, side)
    target = torch.from_numpy(masks.masks(batch)[:, :side, :side].copy())
    task_a, task_b = fastia.EWC(model), fastia.EWC(model)

    def step(loss_of):
        optimizer.zero_grad()
        loss = loss_of(model(images), target)
        loss.backward()
        optimizer.step()
        return loss

    with torch.no_grad():
        outputs = model(images)
        torch.testing.assert_close(plain_loss(outputs, target), eager_loss(outputs, target), rtol=1e-4, atol=0)
    step(plain_loss)
    task_b.observe()
    task_b.consolidate()
    step(plain_loss)
    assert task_b.penalty() > 0

    leaves = [logits.detach().requires_grad_() for logits in outputs]

    def loss_alone(loss_of):
        loss_of(leaves, target).backward()

    alone = {"eager loss": eager_loss, "plain loss": plain_loss, "size-weighted loss": weighted_loss}
    seconds = {name: [] for name in (*LOSSES, *alone, "penalty", "observe")}
    for i in range(rounds):
        names = list(LOSSES)
        for name in names[i % 3 :] + names[: i % 3]:
            seconds[name].append(timed(step, LOSSES[name])[0])
        for name in list(alone)[:: -1 if i % 2 else 1] * 5:
            seconds[name].append(timed(loss_alone, alone[name])[0])
        step(weighted_loss)
        seconds["penalty"].append(timed(task_b.add_penalty_gradient_, 1e-6)[0])
        step(weighted_loss)
        seconds["observe"].append(timed(task_a.observe)[0])

    def ratio(name, other):
        return statistics.median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))

    added = [a - b for a, b in zip(seconds["size-weighted loss"], seconds["plain loss"], strict=True)]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "backbone": backbone, "batch": batch, "side": side, "rounds": rounds,
        "parameters": sum(value.numel() for value in model.parameters()),
        "seconds": medians,
        "ratios": {
            "size-weighted / eager": ratio("fused size-weighted", "eager plain"),
            "size-weighted / plain": ratio("fused size-weighted", "fused plain"),
            "size-weighted loss / eager loss": ratio("size-weighted loss", "eager loss"),
            "size weights / step": statistics.median(added) / medians["fused plain"],
            "penalty / step": ratio("penalty", "fused size-weighted"),
            "observe / step": ratio("observe", "fused plain"),
        },
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", help="a backbone; prints its result")
    parser.add_argument("--backbones", nargs="*", default=list(CASES), choices=list(CASES))
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return
    rows = []
    for backbone in arguments.backbones:
        done = subprocess.run(
            [sys.executable, __file__, "--one", backbone], stdout=subprocess.PIPE, text=True, check=True
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(backbone, {name: f"{1e3 * value:.1f} ms" for name, value in rows[-1]["seconds"].items()})
        print(backbone, {name: f"{value:.4f}" for name, value in rows[-1]["ratios"].items()})
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"instruction_set": cpu.instruction_set(), "torch": torch.__version__, "threads": THREADS}
    RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
