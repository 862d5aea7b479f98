"""Times on a GPU: a call with CUDA events, and the same call replayed from a CUDA graph; the number of its kernels."""

import statistics

import torch

ROUNDS = 9


def eager_microseconds(function, target=0.02):
    """Median time of a call by CUDA events, launches from Python included; `target` is seconds of a round."""
    for _ in range(3):
        function()
    calls = max(1, min(200, int(target / max(1e-6, _elapsed(function, 1)))))
    return 1e6 * statistics.median(_elapsed(function, calls) for _ in range(ROUNDS))


def graph_microseconds(function, calls):
    """Median time of one of `calls` calls that a CUDA graph replays one after the other: what the GPU itself takes."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            function()
    graph.replay()
    return 1e6 * statistics.median(_elapsed(graph.replay, 1) for _ in range(ROUNDS)) / calls


def launches(function):
    """Kernels, copies and fills that a call starts."""
    function()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


def peak_bytes(function):
    """The most memory of torch's allocator beyond what was in use before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def copy_bandwidth():
    """Bytes a second that a copy of a large buffer reads and writes together."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (eager_microseconds(lambda: target.copy_(source)) * 1e-6)


def _elapsed(function, calls):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls * 1e-3
