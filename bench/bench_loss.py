"""The fused loss and argmax beside torch: time of forward + backward, and peak memory beyond the inputs.

Each row is measured in a process of its own, on one thread, into bench/results/loss.json. Before anything is timed the
answers are compared.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import fastia
from fastia.kernels.cpu import launch as cpu
from fastia.reference.logits import composite

RESULTS = Path(__file__).parent / "results" / "loss.json"
SHAPES = [(4, 21, 65, 513), (2, 150, 128, 512), (1, 1203, 64, 256)]  # B, C, h, H
DTYPES = ["float32", "bfloat16"]


def inputs(batch, classes, low, high, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, low, low, generator=generator) * 2
    blocks = torch.randint(0, classes, (batch, -(-high // 16), -(-high // 16)), generator=generator)
    target = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :high, :high].contiguous()
    target = torch.where(target == 255, 0, target)
    target[:, :8] = 255
    weights = torch.rand(target.shape, generator=generator) * 4 + 1
    return logits.to(getattr(torch, dtype)), target, weights


def training_step(who, logits, target, weights):
    """A function that returns loss and gradient."""
    peer = torch.compile(composite) if who == "compile" else composite
    loss_of = fastia.size_weighted_cross_entropy if who == "fastia" else peer
    logits.requires_grad_()

    def step():
        loss = loss_of(logits, target, weights)
        return loss.detach(), torch.autograd.grad(loss, logits)[0]

    return step


def prediction(who, logits, target, weights):
    size = target.shape[1:]

    def interpolated(logits):
        return F.interpolate(logits, size=size, mode="bilinear").argmax(1)

    function = torch.compile(interpolated) if who == "compile" else interpolated
    return lambda: fastia.upsample_argmax(logits, size) if who == "fastia" else function(logits)


OPERATIONS = {"loss": training_step, "argmax": prediction}


def memory(field):
    """Bytes of VmRSS or VmHWM."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])


def peak_memory(function):
    """The most memory beyond what is in use before, in a warm process: VmHWM after it was reset."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    function()
    return max(memory("VmHWM") - before, 1)


def measure(operation, who, shape, dtype):
    torch.set_num_threads(1)
    problem = inputs(*shape, dtype)
    step = OPERATIONS[operation](who, *problem)
    with torch.no_grad() if operation == "argmax" else torch.enable_grad():
        step()
        peak = peak_memory(step)
        times = []
        while len(times) < 3 or (sum(times) < 1 and len(times) < 50):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
    batch, classes, _, high = shape
    seconds = statistics.median(times)
    return {
        "operation": operation, "who": who, "shape": shape, "dtype": dtype, "seconds": seconds,
        "ns_per_class_pixel": seconds / (batch * classes * high * high) * 1e9, "peak_bytes": peak,
    }  # fmt: skip


def compare(operation, shape, dtype):
    """Ours and eager's answer in float32 differ by rounding only."""
    shape = (1, *shape[1:3], min(shape[3], 64))
    logits, target, weights = inputs(*shape, dtype)
    ours = OPERATIONS[operation]("fastia", logits.float(), target, weights)()
    eager = OPERATIONS[operation]("eager", logits.float(), target, weights)()
    if operation == "loss":
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-7)
    else:
        assert (ours != eager).float().mean() < 1e-3


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", help="a case as JSON; prints its result")
    parser.add_argument("--peers", nargs="*", default=["eager", "compile"])
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="only so many of them")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*json.loads(arguments.one))))
        return
    rows = []
    for operation in OPERATIONS:
        for shape in SHAPES[: arguments.shapes]:
            for dtype in DTYPES:
                compare(operation, shape, dtype)
                for who in ["fastia", *arguments.peers]:
                    command = [sys.executable, __file__, "--one", json.dumps([operation, who, shape, dtype])]
                    done = subprocess.run(command, capture_output=True, text=True)
                    if done.returncode:  # torch.compile needs a C++ compiler, which may not suit it
                        print(f"{operation} {who} {shape} {dtype} failed: {done.stderr.strip().splitlines()[-1]}")
                        continue
                    rows.append(json.loads(done.stdout.splitlines()[-1]))
                    print(
                        operation,
                        who,
                        shape,
                        dtype,
                        f"{rows[-1]['seconds'] * 1e3:.1f} ms",
                        f"{rows[-1]['peak_bytes'] or 0:,} bytes",
                    )
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"instruction_set": cpu.instruction_set(), "torch": torch.__version__}
    RESULTS.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
