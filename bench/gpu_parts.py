"""What bench/gpu.py measures on a GPU, one function a part: each prints its rows as JSON, one a line, as they come.

python bench/gpu_parts.py operations
"""

import functools
import importlib.metadata
import json
import sys
import time

import gpu_timing
import masks
import numpy as np
import torch

import fastia
from fastia.kernels.cuda import plan_masks
from fastia.kernels.cuda.launch import masks_of
from fastia.options import ComponentOptions

PACKAGES = (
    "numpy",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "cucim-cu12",
    "cucim-cu13",
    "kornia",
    "colorcc",
    "bkeccl",
    "triton",
)
SHAPES = ((16, 513, 513), (64, 1024, 2048), (1, 8192, 8192))
TRAINING = SHAPES[0]
SCENES = {  # of each shape: the larger ones are tiles of the same masks
    TRAINING: ("masks", "sparse", "noisy", "white", "giant", "spiral"),
    SHAPES[1]: ("masks", "noisy", "giant", "spiral"),
    SHAPES[2]: ("masks", "noisy", "giant", "spiral"),
}
OPERATIONS = {  # and the bytes of a pixel that have to be read and written
    "weights": (fastia.weights, 5),
    "label": (fastia.label, 5),
    "components, max_components=4096": (functools.partial(fastia.components, max_components=4096), 5),
}
LOSS_SHAPES = ((16, 21, 65, 513), (8, 150, 128, 512))  # B, C, h, H
CLASSES = 21


def report(**row):
    print(json.dumps(row), flush=True)


@functools.cache
def scene(name, shape):
    """-> [B, H, W] uint8 on the GPU: 0 background, 255 void."""
    batch, height, width = shape
    if name in ("giant", "spiral"):
        image = torch.from_numpy(getattr(masks, name)(1, height, width)).cuda()
        return image.expand(batch, -1, -1).contiguous()
    base = masks.noisy(masks.masks()) if name == "noisy" else getattr(masks, name)()
    if shape == TRAINING:
        return torch.from_numpy(base).cuda()
    rows = -(-height // 512)
    columns = -(-width // 512)
    tiles = torch.from_numpy(np.ascontiguousarray(base[:, :512, :512])).cuda()
    number = torch.arange(batch * rows * columns, device="cuda") * 7 % len(tiles)
    image = tiles[number].reshape(batch, rows, columns, 512, 512).transpose(2, 3)
    return image.reshape(batch, rows * 512, columns * 512)[:, :height, :width].contiguous()


def machine():
    properties = torch.cuda.get_device_properties(0)
    versions = {"fastia": fastia.__version__, "torch": torch.__version__, "CUDA of torch": torch.version.cuda}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    report(
        device=properties.name,
        multiprocessors=properties.multi_processor_count,
        memory_bytes=properties.total_memory,
        compute_capability=f"{properties.major}.{properties.minor}",
        versions=versions,
        copy_bytes_per_second=gpu_timing.copy_bandwidth(),
    )


def operations():
    """Times beside the floor: the bytes that have to move, at the bandwidth of a copy."""
    bandwidth = gpu_timing.copy_bandwidth()
    start = time.perf_counter()
    fastia.weights(torch.ones(1, 5, 5, dtype=torch.uint8, device="cuda"))
    torch.cuda.synchronize()
    print(f"first call, kernels compiled or found on disk: {time.perf_counter() - start:.2f} s")
    for shape, names in SCENES.items():
        for name in names:
            batch = scene(name, shape)
            expected = fastia.label(batch[:2].cpu())
            for operation, (function, pixel_bytes) in OPERATIONS.items():
                if operation == "label" and not torch.equal(function(batch[:2]).cpu(), expected):
                    raise AssertionError(f"labels of {name} differ from the CPU's")
                call = functools.partial(function, batch)
                floor = batch.numel() * pixel_bytes / bandwidth * 1e6
                graph = gpu_timing.graph_microseconds(call, 20 if shape == TRAINING else 2)
                report(
                    operation=operation,
                    shape=shape,
                    masks=name,
                    graph_us=graph,
                    eager_us=gpu_timing.eager_microseconds(call),
                    floor_us=floor,
                    times_floor=graph / floor,
                    launches=gpu_timing.launches(call),
                )
        scene.cache_clear()


def launch_times():
    """Where the time of an operation goes: each launch on its own, by CUDA events around it in the whole sequence."""
    from fastia.kernels.cuda import launch as cuda

    options = ComponentOptions()
    for shape, name in ((TRAINING, "masks"), (SHAPES[1], "masks"), (SHAPES[1], "spiral")):
        batch = scene(name, shape)
        plan = plan_masks.weights(masks_of(batch), options, 5.0, "class", "float32")
        buffers = {"masks": batch, "weights": torch.empty(shape, device="cuda")}
        buffers["scratch"] = cuda.empty_scratch(plan.scratch_bytes, batch.device)
        total = {}
        for repeat in range(12):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(len(plan.launches) + 1)]
            torch.cuda._sleep(3_000_000)  # the host gets ahead, so that launches follow each other at once
            events[0].record()
            for launch, event in zip(plan.launches, events[1:], strict=True):
                cuda.run([launch], buffers, batch.device)
                event.record()
            torch.cuda.synchronize()
            if repeat >= 2:
                for launch, before, after in zip(plan.launches, events, events[1:], strict=False):
                    total[launch.kernel] = total.get(launch.kernel, 0) + before.elapsed_time(after) * 100
        for kernel, microseconds in total.items():
            report(operation="weights", shape=shape, masks=name, kernel=kernel, us=microseconds)


def loss():
    import bench_loss

    for operation, make in bench_loss.OPERATIONS.items():
        for shape in LOSS_SHAPES:
            for dtype in ("float32", "bfloat16"):
                problem = [value.cuda() for value in bench_loss.inputs(*shape, dtype)]
                found = {}
                for who in ("fastia", "eager", "compile"):
                    try:
                        call = make(who, *problem)
                        with torch.set_grad_enabled(operation == "loss"):
                            time_us, peak = gpu_timing.eager_microseconds(call, 0.01), gpu_timing.peak_bytes(call)
                    except Exception as error:  # one peer that fails is a gap in the table
                        report(operation=operation, shape=shape, dtype=dtype, who=who, error=str(error)[:300])
                        torch.cuda.empty_cache()
                        continue
                    found[who] = time_us, peak
                    ours = found.get("fastia", (float("nan"), float("nan")))
                    report(
                        operation=operation,
                        shape=shape,
                        dtype=dtype,
                        who=who,
                        us=time_us,
                        peak_bytes=peak,
                        times_fastia=time_us / ours[0],
                        memory_times_fastia=peak / max(ours[1], 1),
                    )


def training():
    """A step of DeepLabV2 on ResNet-101 at three scales in bfloat16: eager, fused, and fused with size weights."""
    import bench_training

    from fastia.models import DeepLabV2

    batch, side = 8, 321
    model = DeepLabV2(CLASSES, backbone="resnet101").cuda()
    optimizer = torch.optim.SGD(model.parameter_groups(1e-6, 5e-4), momentum=0.9)
    images = torch.randn(batch, 3, side, side, device="cuda")
    target = scene("masks", TRAINING)[:batch, :side, :side].contiguous()

    def step(loss_of):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            outputs = model(images)
        loss_of(outputs, target).backward()
        optimizer.step()

    rounds = {name: [] for name in bench_training.LOSSES}
    for loss_of in bench_training.LOSSES.values():
        step(loss_of)
    torch.cuda.set_sync_debug_mode("error")
    for name in ("fused plain", "fused size-weighted"):
        step(bench_training.LOSSES[name])  # raises where it would wait for the device
    torch.cuda.set_sync_debug_mode("default")
    for _ in range(5):  # in turns: clocks change with the temperature
        for name, loss_of in bench_training.LOSSES.items():
            rounds[name].append(gpu_timing.eager_microseconds(functools.partial(step, loss_of), 0.2) / 1e3)
    plain = float(np.median(rounds["fused plain"]))
    for name, values in rounds.items():
        ms = float(np.median(values))
        row = {"step": name, "batch": batch, "side": side, "ms": ms, "times_fused_plain": ms / plain}
        report(**row, **({} if name == "eager plain" else {"synchronisations": 0}))


def metric():
    """IA-mIoU: an update with class ids and within a validation step on logits, and instance_iou."""
    target = scene("masks", TRAINING)
    preds = torch.where(target == 255, 0, target.roll(2, 2))
    for protocol in ("wacv2024", "exact"):
        update = fastia.InstanceAwareIoU(CLASSES, protocol=protocol).cuda().update
        tables = {"max_instances": 200, "max_unmatched": 200}
        for name, call in {
            "update": functools.partial(update, preds, target),
            "instance_iou": functools.partial(fastia.instance_iou, preds, target, protocol=protocol, **tables),
        }.items():
            call()
            torch.cuda.set_sync_debug_mode("error")
            call()  # raises where it would wait for the device
            torch.cuda.set_sync_debug_mode("default")
            report(
                operation=name,
                protocol=protocol,
                shape=TRAINING,
                graph_us=gpu_timing.graph_microseconds(call, 5),
                eager_us=gpu_timing.eager_microseconds(call),
                floor_us=2 * target.numel() / gpu_timing.copy_bandwidth() * 1e6,
                launches=gpu_timing.launches(call),
            )

    from fastia.models import DeepLabV2

    model = DeepLabV2(CLASSES, backbone="resnet101").cuda().eval()
    images = torch.randn(4, 3, 321, 321, device="cuda")
    target = target[:4, :321, :321].contiguous()

    @torch.no_grad()
    def validate(update):
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(images)
        update(logits[-1] if isinstance(logits, (list, tuple)) else logits, target)

    without = gpu_timing.eager_microseconds(functools.partial(validate, lambda *_: None))
    report(operation="validation step without update", shape=tuple(target.shape), eager_us=without)
    report(
        operation="validation step",
        shape=tuple(target.shape),
        eager_us=gpu_timing.eager_microseconds(functools.partial(validate, update)),
    )


def peers():
    import gpu_peers

    gpu_peers.measure(scene, SHAPES, SCENES, report)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
