"""Builds csrc/cpu into one shared library for ctypes, with a C++17 compiler alone: no torch, NumPy or Python headers.

Environment: CXX and CXXFLAGS choose compiler and extra flags. FASTIA_SANITIZE (`address,undefined` or `thread`) builds
a separate library, build/<sanitizers>/libfastia_cpu.so; with its path in FASTIA_LIBRARY, fastia loads that one.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES = sorted(path.as_posix() for path in Path("csrc/cpu").glob("*/*.cpp"))
HEADERS = sorted(path.as_posix() for path in Path("csrc/cpu").glob("*/*.h"))
LIBRARY = "libfastia_cpu.dylib" if sys.platform == "darwin" else "libfastia_cpu.so"

# No contraction: a fused multiply-add rounds once where the specification of the metric rounds twice.
FLAGS = [
    "-Icsrc/cpu",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-pthread",
]
BIT_FLAGS = ["-mbmi", "-mbmi2", "-mpopcnt", "-mlzcnt"]
X86_FLAGS = {
    "rows_avx2.cpp": ["-mavx2", *BIT_FLAGS],
    "rows_avx512.cpp": [*(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vpopcntdq", "vbmi2")), *BIT_FLAGS],
    "upsample_avx2.cpp": ["-mavx2", "-mfma"],
    "upsample_avx512.cpp": [*(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq")), "-mfma"],
}
# -Wno-psabi: wide vectors are passed only between functions of one file.
UPSAMPLE_FLAGS = ["-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]


def find_compiler() -> list[str]:
    """The command of the C++ compiler: CXX, or the first of c++, g++ and clang++ on the path."""
    command = shlex.split(os.environ.get("CXX", ""))
    if not command:
        found = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
        if found is None:
            raise CompileError(
                "no C++ compiler found: c++, g++ and clang++ are not on the PATH; install one or set CXX"
            )
        command = [found]
    if shutil.which(command[0]) is None:
        raise CompileError(f"no C++ compiler found: CXX is {os.environ['CXX']!r}, which cannot be run")
    return command


def is_current(target: Path, sources: list) -> bool:
    return target.exists() and all(Path(source).stat().st_mtime <= target.stat().st_mtime for source in sources)


def run(command: list[str]) -> None:
    print(shlex.join(command), flush=True)
    if subprocess.run(command).returncode:
        raise CompileError(f"the C++ compiler failed: {shlex.join(command)}")


def build_library(library: Path, object_folder: Path) -> None:
    """Compiles what is out of date and links it."""
    sanitizers = os.environ.get("FASTIA_SANITIZE")
    mode = ["-O3"]
    if sanitizers:
        mode = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-g", "-O1", "-fno-omit-frame-pointer"]
    extra = shlex.split(os.environ.get("CXXFLAGS", ""))
    compiler = find_compiler()
    target = subprocess.run([*compiler, "-dumpmachine"], capture_output=True, text=True).stdout
    x86 = target.startswith(("x86_64", "amd64"))
    sources = [source for source in SOURCES if x86 or Path(source).name not in X86_FLAGS]
    objects = [object_folder / (Path(source).stem + ".o") for source in sources]

    def compile_one(source: str, output: Path) -> None:
        if not is_current(output, [source, *HEADERS, __file__]):
            name = Path(source).name
            flags = [*mode, *FLAGS, *X86_FLAGS.get(name, []), *(UPSAMPLE_FLAGS if "upsample_" in name else []), *extra]
            run([*compiler, *flags, "-c", source, "-o", str(output)])

    object_folder.mkdir(parents=True, exist_ok=True)
    library.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, objects))
    if is_current(library, objects):
        return
    link = [*compiler, *mode, "-shared", "-pthread", *map(str, objects), "-o", str(library), *extra]
    if sys.platform != "linux" or sanitizers:
        return run(link)
    try:  # the wheel then runs beside any libstdc++
        run([*link, "-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL"])
    except CompileError:
        print("no static libstdc++ here: linking the shared one", flush=True)
        run(link)


class BuildLibrary(build_ext):
    """Builds the native library in the place of an extension module, under a name without Python's version."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")[:-1], LIBRARY)

    def run(self) -> None:
        sanitizers = os.environ.get("FASTIA_SANITIZE")
        if sanitizers:
            folder = Path("build", sanitizers)
            build_library(folder / LIBRARY, folder)
        else:
            super().run()

    def build_extension(self, ext: Extension) -> None:
        build_library(Path(self.get_ext_fullpath(ext.name)), Path(self.build_temp))


class PlatformWheel(bdist_wheel):
    """Tags the wheel py3-none-<platform>: the library knows neither Python's nor torch's version."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2].replace("universal2", platform.machine())


setup(
    ext_modules=[Extension("fastia.kernels.cpu.libfastia_cpu", SOURCES, depends=HEADERS)],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
