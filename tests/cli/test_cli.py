"""The command line, as a user runs it."""

import importlib
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner, Result

import fastia
from fastia import cli
from fastia.data.shapes import make_shapes


def run(*arguments) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(cli.app, [*map(str, arguments)])


def evaluate(root, *arguments) -> Result:
    options = ["--dataset", root, "--predictions", root / "Predictions", "--classes", root / "classes.txt"]
    return run("evaluate", *options, *arguments)


@pytest.fixture
def root(tmp_path):
    make_shapes(tmp_path / "shapes", 6, size=(160, 160))
    return tmp_path / "shapes"


def test_evaluate_prints_a_table_and_writes_what_it_is_asked_for(root, tmp_path) -> None:
    scores, instances, plot = tmp_path / "a.json", tmp_path / "b.csv", tmp_path / "c.png"
    done = evaluate(root, "--split", "all", "--json", scores, "--csv", instances, "--plot", plot, "--jobs", 2)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines[:-3])) <= 80
    assert any(line.split()[:1] == ["overall"] for line in lines)
    assert [line for line in lines if line.startswith("Wrote")] == [
        f"Wrote {path}" for path in (scores, instances, plot)
    ]
    assert "6/6" in done.stderr
    assert "images/s" in done.stderr
    assert json.loads(scores.read_text())["classes"][1] == "disc"
    assert instances.read_text().startswith("image,class,instance,area,size,iou\n")
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_evaluate_takes_the_options_of_evaluate_directory(root, tmp_path) -> None:
    done = evaluate(
        root, "--split", "all", "--protocol", "exact", "--background", "none", "--ignore-index", 254,
        "--instance-ignore-index", "none", "--json", tmp_path / "a.json", "--classes", tmp_path / "256.txt",
    )  # fmt: skip
    assert done.exit_code == 2
    (tmp_path / "256.txt").write_text("\n".join(f"class {i}" for i in range(256)))
    done = evaluate(
        root, "--split", "all", "--protocol", "exact", "--background", "none", "--ignore-index", 254,
        "--instance-ignore-index", "none", "--json", tmp_path / "a.json", "--classes", tmp_path / "256.txt",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    expected = fastia.evaluate_directory(
        root, "all", root / "Predictions", protocol="exact", background=None, ignore_index=254,
        instance_ignore_index=None, classes=tmp_path / "256.txt",
    )  # fmt: skip
    assert json.loads((tmp_path / "a.json").read_text())["scores"]["ia_miou"] == expected.scores["ia_miou"]


def test_bad_files_are_all_listed_with_status_2_and_nothing_is_written(root, tmp_path) -> None:
    (root / "Predictions/000002.png").unlink()
    (root / "Predictions/000005.png").write_bytes(b"no PNG")
    done = evaluate(root, "--json", tmp_path / "a.json", "--csv", tmp_path / "b.csv")
    assert done.exit_code == 2
    assert done.stdout == ""
    message = done.stderr[done.stderr.index("Error") :]
    assert message.splitlines() == [
        "Error: 2 files cannot be evaluated:",
        f"  {root}/Predictions/000002.png: missing",
        f"  {root}/Predictions/000005.png: not a PNG file",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"shapes"}


def test_missing_predictions_are_skipped_on_request(root) -> None:
    (root / "Predictions/000002.png").unlink()
    done = evaluate(root, "--allow-missing")
    assert done.exit_code == 0
    assert "Note: 1 of 2 images skipped, for there is no prediction of them: 000002" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "test"), "no such split; splits of this dataset: all, train, val"),
        (("--background", "sky"), "--background must be an integer or none, got 'sky'"),
        (("--classes", "nowhere.txt"), "Error: nowhere.txt: missing"),
        (("--protocol", "voc"), "'voc' is not one of 'wacv2024', 'exact'"),
        (("--jobs", "0"), "--jobs"),
        (("--csv", "nowhere/b.csv"), "csv must be a file in a folder that exists, got nowhere/b.csv"),
    ],
)
def test_bad_options_are_named_with_status_2(root, arguments, message) -> None:
    done = evaluate(root, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_shapes_makes_a_dataset(tmp_path) -> None:
    assert run("shapes", tmp_path, "--images", 3, "--seed", 5).exit_code == 0
    assert len(list((tmp_path / "Predictions").iterdir())) == 3
    assert run("shapes", tmp_path, "--images", 0).exit_code == 2


def test_without_a_command_it_tells_what_is_installed(tmp_path) -> None:
    environment = {**os.environ, "FASTIA_CACHE": f"{tmp_path}", "FASTIA_CPU": "scalar"}
    command = [sys.executable, "-m", "fastia"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0
    rows = {line[:16].strip(): line[16:].strip() for line in done.stdout.splitlines()}
    assert rows["fastia"] == fastia.__version__
    assert rows["backends"] == "cpu"
    assert rows["instruction set"].startswith("scalar, ")
    assert rows["cache folder"] == f"{tmp_path}"
    assert {"torch", "NumPy", "CuPy", "Triton", "Python"} < set(rows)


def test_info_tells_the_same() -> None:
    assert run("info").stdout == run().stdout != ""


def test_version_is_printed_alone() -> None:
    assert run("--version").stdout == f"{fastia.__version__}\n"


@pytest.mark.parametrize("missing", ["rich", "matplotlib"])
def test_a_missing_extra_is_named(root, monkeypatch, missing) -> None:
    for module in [missing, *(name for name in sys.modules if name.startswith(f"{missing}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    done = evaluate(root, "--plot", root / "plot.png")
    assert done.exit_code == 1
    assert done.stderr == f"Error: no module {missing}: the command line needs more packages: pip install fastia[cli]\n"


def test_a_missing_extra_is_named_before_anything_runs(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r"no module typer: .* pip install fastia\[cli\]"):
        importlib.reload(cli)


def test_the_library_imports_nothing_of_the_command_line() -> None:
    code = "import sys, fastia; print([m for m in ('rich', 'typer', 'PIL', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_library_loads_nothing_that_reads_files_until_it_is_asked_for() -> None:
    loaded = "[m for m in sys.modules if m in ('torchmetrics', *(f'fastia.{room}' for room in rooms))]"
    code = f"import sys, fastia; rooms = 'data', 'evaluation', 'metrics', 'training'; print({loaded})"
    code += f"; fastia.evaluate_directory; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "['fastia.evaluation', 'fastia.data', 'fastia.metrics']"], done.stderr


def test_every_public_name_is_there() -> None:
    assert all(getattr(fastia, name) is not None for name in fastia.__all__)
    with pytest.raises(AttributeError, match="module 'fastia' has no attribute 'nothing'"):
        fastia.nothing  # noqa: B018
