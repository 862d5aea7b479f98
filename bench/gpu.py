"""`make gpu`: tests, compute-sanitizer and measurements on the GPU at hand, into bench/results/<gpu>.json and .md.

Parts are processes of their own with limits of time; what one of them found stays where another fails, and where it
runs out of time itself. Exit status: 0 all well, 1 a part failed, 2 there is no GPU to run on.
"""

import argparse
import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results"
MINUTES = 8
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rfE")
MASK_TESTS, LOSS_TESTS = "tests/core/test_gpu.py", "tests/logits/test_triton.py::TestOnGpu"
SANITIZED = (MASK_TESTS, "-k", "test_masks_equal_the or test_scenes_equal_the or test_empty_batches")
FAIL = ("--error-exitcode", "9")
CUDA_FOLDER = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"  # often not on the PATH


def measured(name):
    return (sys.executable, str(HERE / "gpu_parts.py"), name)


def sanitized(tool, *options):
    return ("compute-sanitizer", "--tool", tool, *options, *PYTEST, *SANITIZED)


PARTS = {  # in the order of what must not be missing: command, limit in seconds, environment
    "machine": (measured("machine"), 60, {}),
    "tests": ((*PYTEST, MASK_TESTS), 120, {}),
    "loss tests": ((*PYTEST, LOSS_TESTS), 120, {}),
    "operations": (measured("operations"), 75, {}),
    "launches": (measured("launch_times"), 30, {}),
    "metric": (measured("metric"), 40, {}),
    "loss": (measured("loss"), 90, {}),
    "training": (measured("training"), 60, {}),
    # Each allocation on its own, so that an access past its end is seen.
    "memcheck": (sanitized("memcheck", *FAIL), 75, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "FASTIA_GPU_SEEDS": "24"}),
    # Parents are read while they change, on purpose (docs/kernels.md), which is no failure.
    "racecheck": (sanitized("racecheck"), 60, {"FASTIA_GPU_SEEDS": "12"}),
    "peers": (measured("peers"), 90, {}),
    "synccheck": (sanitized("synccheck", *FAIL), 60, {"FASTIA_GPU_SEEDS": "12"}),
}
TITLES = {
    "operations": "Operations on masks",
    "launches": "Launch by launch",
    "peers": "Other libraries: label",
    "loss": "Fused loss (forward and backward) and argmax beside torch",
    "training": "A training step: DeepLabV2 on ResNet-101, three scales, bfloat16",
    "metric": "IA-mIoU",
}
INTRODUCTION = """\
Medians. `graph_us` is a call replayed from a CUDA graph, several in a row; `eager_us` the same call from Python, by
CUDA events. The floor moves the bytes that have to be read and written (5 a pixel for labels and weights of uint8) at
the measured bandwidth of a copy of 1 GiB; masks of 16 x 513 x 513 stay in the L2 cache, and may beat it. Masks are
those of bench/masks.py; the larger shapes are tiles of them. Peers include the kernels that prepare their input;
`exact` says whether their components are those of fastia."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for everything together")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args()
    gpu = find_gpu()
    deadline = time.monotonic() + 60 * arguments.minutes
    results = {"gpu": gpu, "driver": driver(), "commit": commit(), "date": f"{datetime.date.today()}", "parts": {}}
    for name in arguments.parts:
        results["parts"][name] = part = run_part(name, deadline)
        print(f"{name}: {part['status']} in {part['seconds']:.0f} s", flush=True)
        if part["status"] == "failed":
            print(part["output"], flush=True)
        write(results, arguments.results)
    sys.exit(any(part["status"] in ("failed", "out of time") for part in results["parts"].values()))


def find_gpu():
    """The name of the GPU; ends the program where there is none."""
    try:
        import torch
    except ModuleNotFoundError:
        leave(f"{sys.executable} has no torch: make gpu PYTHON=<a Python with torch, CuPy and Triton>")
    if torch.version.cuda is None:
        leave(f"torch {torch.__version__} of {sys.executable} is built without CUDA: make gpu PYTHON=<another Python>")
    if not torch.cuda.is_available():
        leave(f"torch {torch.__version__} finds no NVIDIA GPU (driver: {driver() or 'none'}); nothing was run")
    return torch.cuda.get_device_name(0)


def leave(message):
    print(f"make gpu: {message}", file=sys.stderr)
    sys.exit(2)


def run_part(name, deadline):
    """Run a part; its rows are the lines of JSON that it prints."""
    command, limit, environment = PARTS[name]
    limit = min(limit, deadline - time.monotonic())
    program = shutil.which(command[0]) or shutil.which(command[0], path=str(CUDA_FOLDER))
    if program is None:
        return {"status": f"skipped: {command[0]} is not installed", "seconds": 0, "rows": [], "output": ""}
    if limit < 5:
        return {"status": "out of time", "seconds": 0, "rows": [], "output": ""}
    start = time.monotonic()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        (program, *command[1:]),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
        status = "failed" if process.returncode else "passed"
    except subprocess.TimeoutExpired:
        output = stop(process)
        status = "out of time"
    rows, lines = [], []
    for line in output.splitlines():
        row = row_of(line)
        if row is None:
            lines.append(line)
        else:
            rows.append(row)
    text = "\n".join(lines)
    return {"status": status, "seconds": time.monotonic() - start, "rows": rows, "output": text[-6000:]}


def stop(process):
    """End a part and return its output; pytest, when interrupted, still tells what has failed so far."""
    for number, patience in ((signal.SIGINT, 5), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=patience)[0]


def row_of(line):
    """The row that a line of output is, or None."""
    try:
        return json.loads(line) if line.startswith("{") else None
    except ValueError:  # something else that begins with a brace, or cut off
        return None


def driver():
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.split("\n")[0].strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def commit():
    def git(*command):
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD")[:12] + (" with uncommitted changes" if git("status", "--porcelain") else "")
    except OSError:
        return ""


def write(results, folder):
    """Write the JSON and the table, each to a temporary name first."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", results["gpu"].lower().replace("nvidia", "")).strip("-")
    for suffix, text in ((".json", json.dumps(results, indent=1)), (".md", "\n".join(page(results)) + "\n")):
        unfinished = folder / f".{name}{suffix}"
        unfinished.write_text(text)
        unfinished.replace(folder / f"{name}{suffix}")


def page(results):
    """The lines of the Markdown file."""
    yield f"# fastia on {results['gpu']}\n"
    yield INTRODUCTION + "\n"
    yield f"- commit: {results['commit'] or 'unknown'}, {results['date']}"
    yield f"- driver: {results['driver'] or 'unknown'}"
    for row in results["parts"].get("machine", {}).get("rows", [])[:1]:
        memory = row["memory_bytes"] / 2**30
        yield f"- GPU: {row['multiprocessors']} multiprocessors, sm {row['compute_capability']}, {memory:.0f} GiB"
        yield f"- copy: {row['copy_bytes_per_second'] / 1e12:.2f} TB/s, read and written"
        yield "- versions: " + ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    yield from ("", *table([{"part": name} | summary(part) for name, part in results["parts"].items()]))
    for name, title in TITLES.items():
        part = results["parts"].get(name)
        if part:
            rows = table(part["rows"]) if part["rows"] else [f"Nothing measured: {part['status']}."]
            yield from (f"\n## {title}\n", *rows)


def summary(part):
    """What a part came to: its status, the last line of pytest or of an error, and the sanitizer's verdict."""
    lines = [line.strip() for line in part["output"].splitlines() if line.strip()]
    verdicts = [
        line for line in lines if re.search(r"\d+ (passed|failed|skipped)|ERROR SUMMARY|RACECHECK SUMMARY", line)
    ]
    said = verdicts[-2:] or lines[-1:]
    return {"status": part["status"], "seconds": part["seconds"], "result": "; ".join(said).strip("= ")[:200]}


def table(rows):
    """Markdown lines with a column for everything that some row has."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "|".join(" ---: " if is_number(rows, column) else " --- " for column in columns) + "|"
    for row in rows:
        yield "| " + " | ".join(cell(row.get(column)) for column in columns) + " |"


def is_number(rows, column):
    values = [row[column] for row in rows if column in row]
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def cell(value):
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, list):
        return " x ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    main()
