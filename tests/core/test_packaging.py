"""The wheel: built in isolation from a clean copy of the sources, looked into, installed and used elsewhere."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("wheel")  # one process: the wheel is built once

ROOT = Path(__file__).parents[2]
NOT_SOURCES = shutil.ignore_patterns(".*", "build", "dist", "demo", "*.egg-info", "*.so", "*.dylib", "__pycache__")
VECTOR_OBJECTS = ("rows_avx2.o", "rows_avx512.o", "upsample_avx2.o", "upsample_avx512.o")


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the sources, nothing built."""
    folder = tmp_path_factory.mktemp("source") / "fastia"
    shutil.copytree(ROOT, folder, ignore=NOT_SOURCES)
    return folder


@pytest.fixture(scope="module")
def wheel(source):
    done = run(sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--wheel-dir", "wheels", cwd=source)
    if "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("pip finds no setuptools to build with: no package index here")
    assert done.returncode == 0, done.stderr
    (path,) = (source / "wheels").iterdir()
    return path


def test_wheel_fits_every_python_of_the_platform(wheel):
    name, _, python, abi, platform = wheel.stem.split("-")
    assert (name, python, abi) == ("fastia", "py3", "none")
    assert platform != "any"


def test_wheel_holds_the_package_and_nothing_else(wheel, source):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (*source.glob("fastia/**/*.py"), *source.glob("fastia/training/recipes/*.toml"))
    sources = {path.relative_to(source).as_posix() for path in files}
    sources |= {
        f"fastia/kernels/cuda/sources/{path.parent.name}/{path.name}" for path in source.glob("csrc/cuda/*/*.cu*")
    }
    page = {f"fastia/evaluation/page/page.{end}" for end in ("html", "css", "js")}
    suffix = "dylib" if sys.platform == "darwin" else "so"
    assert names == sources | page | {"fastia/py.typed", f"fastia/kernels/cpu/libfastia_cpu.{suffix}"}


def test_source_distribution_holds_all_that_the_build_needs(source, wheel):
    done = run(sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", "sdist", cwd=source)
    assert done.returncode == 0, done.stderr
    (path,) = (source / "sdist").iterdir()
    with tarfile.open(path) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    needed = {file.relative_to(source).as_posix() for file in source.glob("csrc/cpu/*/*")}
    needed |= {file.relative_to(source).as_posix() for file in source.glob("fastia/kernels/cuda/sources/*/*")}
    assert needed | {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= shipped


def test_installed_wheel_works_away_from_the_checkout(wheel, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv").check_returncode()
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel).check_returncode()
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies))
    program = "import fastia, numpy; print(fastia.__file__, fastia.label(numpy.eye(3, dtype=numpy.uint8)).max())"
    program += "; from fastia.kernels.cuda.launch import source_text"
    program += "; print('FASTIA_STRIPS(' in source_text('masks/strips.cu'))"
    environment = {name: value for name, value in os.environ.items() if name != "FASTIA_LIBRARY"}
    done = run(python, "-c", program, cwd=tmp_path, env=environment)
    assert done.stdout.split() == [str(packages / "fastia" / "__init__.py"), "1", "True"], done.stderr


def test_missing_compiler_is_named(source):
    done = run(sys.executable, "setup.py", "build_ext", cwd=source, env={**os.environ, "CXX": "no-such-compiler"})
    assert done.returncode != 0
    assert "no C++ compiler found: CXX is 'no-such-compiler', which cannot be run" in done.stderr


def test_wide_instructions_stay_in_their_own_files(source, wheel):
    """The linker keeps one copy of an inline function: kept from an AVX object, it would crash older processors."""
    objects = [path for path in source.glob("build/temp*/*.o") if path.name in VECTOR_OBJECTS]
    if not objects or not shutil.which("nm"):
        pytest.skip("needs nm and an x86-64 build")
    for path in objects:
        symbols = [line.split() for line in run("nm", "--defined-only", path).stdout.splitlines()]
        inline = [name for *_, kind, name in symbols if kind in "VWu" and not name.startswith("DW.ref.")]  # no code
        assert inline == [], path.name
