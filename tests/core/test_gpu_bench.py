"""bench/gpu.py without a GPU: parts that pass, fail and hang, the files that it writes, and what it says of no GPU."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("gpu_bench", Path(__file__).parents[2] / "bench" / "gpu.py")
gpu_bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gpu_bench)

MACHINE = {
    "device": "NVIDIA H100 80GB HBM3",
    "multiprocessors": 132,
    "memory_bytes": 2**36,
    "compute_capability": "9.0",
    "versions": {"torch": "2.13"},
    "copy_bytes_per_second": 3e12,
}
ROW = {"operation": "weights", "shape": [16, 513, 513], "graph_us": 12.34, "launches": 4}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs parts given as Python programs; returns exit status and the page and JSON that were written."""

    def run(**programs):
        parts = {name: ((sys.executable, "-c", text), 20, {}) for name, text in programs.items()}
        monkeypatch.setattr(gpu_bench, "PARTS", parts)
        monkeypatch.setattr(gpu_bench, "find_gpu", lambda: MACHINE["device"])
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--results", str(tmp_path), "--minutes", "0.15"])
        with pytest.raises(SystemExit) as ended:
            gpu_bench.main()
        page, text = ((tmp_path / f"h100-80gb-hbm3{suffix}").read_text() for suffix in (".md", ".json"))
        return int(ended.value.code), page, json.loads(text)

    return run


def test_parts_are_reported_whatever_becomes_of_others(run):
    show = f"import json; print(json.dumps({ROW!r}), flush=True)"
    status, page, found = run(
        machine=f"import json; print(json.dumps({MACHINE!r}))",
        tests="print('3 passed, 1 skipped in 2.0s')",
        operations=f"{show}; raise ValueError('no such kernel')",
        peers=f"{show}; import time; time.sleep(60)",
    )
    assert status == 1
    assert [part["status"] for part in found["parts"].values()] == ["passed", "passed", "failed", "out of time"]
    assert "copy: 3.00 TB/s" in page
    assert "3 passed, 1 skipped" in page
    assert "ValueError: no such kernel" in page
    assert page.count("| weights | 16 x 513 x 513 | 12.3 | 4 |") == 2


def test_all_well_is_status_0(run):
    assert run(machine=f"import json; print(json.dumps({MACHINE!r}))")[0] == 0


def test_missing_tool_is_a_part_that_was_skipped(monkeypatch):
    monkeypatch.setattr(gpu_bench, "PARTS", {"memcheck": (("no-such-tool",), 9, {})})
    assert gpu_bench.run_part("memcheck", time.monotonic() + 9)["status"] == "skipped: no-such-tool is not installed"


def test_no_gpu_is_status_2(monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu_bench.find_gpu()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("make gpu: torch ")


def test_lines_that_only_begin_like_rows_are_output(run):
    _, page, found = run(tests="print('{a: 1}'); print('{\"cut\": '); print('2 failed, 1 passed in 3.0s')")
    assert found["parts"]["tests"]["rows"] == []
    assert found["parts"]["tests"]["output"].startswith('{a: 1}\n{"cut": \n')
    assert "2 failed, 1 passed" in page


def test_part_that_is_out_of_time_may_tell_what_it_found():
    # a shell's background jobs ignore interrupts, and so would their children
    text = "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    text += "try: time.sleep(60)\nexcept KeyboardInterrupt: print('1 failed in 2.0s')"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_bench, "PARTS", {"tests": ((sys.executable, "-c", text), 5.5, {})})
        part = gpu_bench.run_part("tests", time.monotonic() + 60)
    assert part["status"] == "out of time"
    assert part["output"] == "1 failed in 2.0s"


def test_tool_of_cuda_need_not_be_on_the_path(monkeypatch, tmp_path):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\necho ERROR SUMMARY: 0 errors\n")
    tool.chmod(0o755)
    monkeypatch.setattr(gpu_bench, "CUDA_FOLDER", tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    part = gpu_bench.run_part("memcheck", time.monotonic() + 9)
    assert (part["status"], part["output"]) == ("passed", "ERROR SUMMARY: 0 errors")
