# Every target sets up what it needs in .venv: Python >= 3.10 and a C++17 compiler are enough.

PYTHON ?= python3
# The torch to install where python3 has none. A CPU build is enough; choose another build or version with
#   make test TORCH="torch==2.4.1"        make test TORCH=torch PIP_OPTIONS="--index-url <where your builds are>"
TORCH ?= torch==2.13.0
PIP_OPTIONS ?=
FUZZ_MINUTES ?= 5
JOBS ?= 2

BIN := .venv/bin
SUFFIX := $(if $(filter Darwin,$(shell uname)),dylib,so)
LIBRARY := fastia/kernels/cpu/libfastia_cpu.$(SUFFIX)
NATIVE := $(wildcard csrc/cpu/*/*.cpp csrc/cpu/*/*.h)
CUDA := $(wildcard csrc/cuda/*/*.cu csrc/cuda/*/*.cuh tests/cuda_on_cpu/*.h)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test lint format bench gpu fuzz huge intervals experiment wheel clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*##/ {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: $(LIBRARY)  ## synthetic shapes, two-phase training, evaluation, report, in demo/ (under 4 minutes)
	$(BIN)/python -m fastia.cli.demo demo

test: lint  ## lint, tests and doctests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

lint: $(LIBRARY)  ## ruff, mypy, import-linter and clang-format, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fastia
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/clang-format --dry-run --Werror $(NATIVE) $(CUDA)

format: $(LIBRARY)  ## format and fix in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(NATIVE) $(CUDA)

# ASan has to find libstdc++ at its start, which Python alone does not load.
fuzz: $(LIBRARY)  ## generated masks under ASan and UBSan, CUDA kernels too, then TSan, FUZZ_MINUTES each
	FASTIA_SANITIZE=address,undefined $(BIN)/python setup.py --quiet build_ext
	FASTIA_SANITIZE=thread $(BIN)/python setup.py --quiet build_ext
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 FASTIA_LIBRARY=build/address,undefined/$(notdir $(LIBRARY)) \
	$(BIN)/python tests/fuzz.py --minutes $(FUZZ_MINUTES)
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 FASTIA_SANITIZE=address,undefined \
	$(BIN)/python tests/fuzz.py --cuda --minutes $(FUZZ_MINUTES)
	LD_PRELOAD="$$($(CXX) -print-file-name=libtsan.so)" \
	TSAN_OPTIONS=halt_on_error=1 FASTIA_LIBRARY=build/thread/$(notdir $(LIBRARY)) \
	$(BIN)/python tests/fuzz.py --minutes $(FUZZ_MINUTES)

huge: $(LIBRARY)  ## more than 2^31 pixels in one call
	$(BIN)/python tests/huge.py

intervals: $(LIBRARY)  ## how often the intervals of fastia compare hold the truth (ten minutes)
	$(BIN)/python tests/intervals.py

bench: $(LIBRARY) .venv/bench  ## speed beside other libraries, into bench/results/cpu.md
	mkdir -p bench/results
	$(BIN)/python -m pytest bench/bench_components.py bench/bench_metric.py --benchmark-json=bench/results/cpu.json
	$(BIN)/python bench/bench_evaluate.py
	$(BIN)/python bench/bench_loss.py
	$(BIN)/python bench/bench_training.py
	$(BIN)/python bench/report.py

gpu:  ## tests, sanitizers and speed on the NVIDIA GPU of this machine, with PYTHON as it is (8 minutes)
	$(PYTHON) setup.py --quiet build_ext --inplace
	$(PYTHON) bench/gpu.py

experiment: $(LIBRARY) .venv/bench  ## train all arms of docs/experiment.md (hours; goes on where it was stopped)
	$(BIN)/python bench/experiment.py run
	$(BIN)/python bench/experiment.py report

wheel: .venv/torch  ## a wheel in dist/
	$(BIN)/python -m pip wheel . --no-deps --wheel-dir dist

.venv/torch:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'fastia needs Python >= 3.10: set PYTHON')"
	if $(PYTHON) -c "import torch" 2> /dev/null; \
	then $(PYTHON) -m venv --system-site-packages .venv; \
	else $(PYTHON) -m venv .venv && $(INSTALL) "$(TORCH)" $(PIP_OPTIONS); fi
	touch $@

.venv/installed: .venv/torch pyproject.toml setup.py
	$(INSTALL) --editable ".[cli,report,dev]"
	touch $@

.venv/bench: .venv/installed
	$(INSTALL) --editable ".[bench]"
	touch $@

$(LIBRARY): .venv/installed setup.py $(NATIVE)
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

clean:  ## remove everything that was built, .venv too
	rm -rf .venv build dist demo *.egg-info .benchmarks fastia/kernels/cpu/libfastia_cpu.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
