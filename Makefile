# Everything goes through these targets; each sets up what it needs first. Override on the command
# line, for example: make setup PYTHON=python3.12 TORCH="torch==2.13.0" VENV=/tmp/venv

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)

PIP    := $(VENV)/bin/python -m pip
PY     := $(VENV)/bin/python
NATIVE := CMakeLists.txt $(wildcard runtime/*/*.cpp runtime/*/*.h runtime/include/shotstream/*.h)
EXTRAS := dev,text,hub,bench
DISTILL := python/shotstream_distill
comma  := ,
# One process per core, each with one thread (tests/conftest.py). Each begins with its half of the tests, so that what a
# file shares is made once, and takes tests of the other when its own are done: files last from no time to minutes.
# A crashed process ends the run: with a new one in its place, tests get lost and the run waits for ever.
IN_PARALLEL := -n $(JOBS) --dist worksteal --max-worker-restart 0

# Tools that pip brought (cmake, clang-format) are found like the machine's own.
export PATH := $(abspath $(VENV))/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup build demo serve smoke test test-fast test-python test-native test-sanitize test-ray test-gpu gpu-check \
	test-interpret fuzz soak lint format bench bench-kernels bench-compare profile aot aot-check engine-check engine-budget docker-check wheel clean

# Show the targets.
help:
	@awk '/^# /{text=substr($$0,3)} /^[a-z][a-z-]*:/{split($$1,t,":"); printf "  %-16s %s\n", t[1], text; text=""}' $(MAKEFILE_LIST)

# A virtual environment with torch at the pinned version: made once, never upgraded by what follows.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet "$(TORCH)" "numpy<2.4" "setuptools>=77" wheel "nanobind>=2.4"
	@command -v cmake >/dev/null || $(PIP) install --quiet "cmake>=3.20"
	@$(PY) -c 'import torch; print("torch", torch.__version__)' | tee $@

# The package itself, editable, with its native core compiled: all that the demo needs.
$(VENV)/.base: $(VENV)/.torch pyproject.toml setup.py $(NATIVE)
	$(PIP) install --quiet --no-build-isolation "$(TORCH)" --editable .
	@touch $@

# What the page needs on top.
$(VENV)/.serve: $(VENV)/.base
	$(PIP) install --quiet --no-build-isolation "$(TORCH)" --editable ".[serve]"
	@touch $@

# What tests, linters and training need on top.
$(VENV)/.dev: $(VENV)/.base $(DISTILL)/pyproject.toml
	$(PIP) install --quiet --no-build-isolation "$(TORCH)" --editable ".[$(EXTRAS)]" --editable $(DISTILL)
	@touch $@

# Set up for development: environment, torch, the package and all its extras that run on a CPU.
setup: $(VENV)/.dev

# Compile the native core again after a change in runtime/.
build: $(VENV)/.base

# Open the page on which films are directed while they play; SERVE="--port 0 --model DIR" is passed on.
serve: $(VENV)/.serve
	$(PY) -m shotstream_rt serve --open $(SERVE)

# Set up what a film needs and stream the bundled story to out/story.mp4 and out/story.png.
demo: $(VENV)/.base
	@mkdir -p out
	$(PY) -m shotstream_rt generate --out out/story.mp4 --sheet out/story.png

# The whole training pipeline, teacher to streaming student, at the smallest size (minutes).
smoke: $(VENV)/.dev
	$(PY) -m shotstream_distill run --preset nano-smoke --folder $(or $(OUT),out/nano-smoke) --device cpu

# Everything that a machine without a GPU can check: C++ tests, Python tests, interpreted kernels.
test: test-native test-python test-interpret

# What to run while you work: neither slow tests nor those of the training package (90 s on two cores).
test-fast: $(VENV)/.dev
	$(PY) -m pytest $(IN_PARALLEL) -m "not slow and not later_stages and not ray" --ignore=tests/distill

# The Python tests.
test-python: $(VENV)/.dev
	$(PY) -m pytest $(IN_PARALLEL)

# A process for each server, one for the door and Ray's own: nothing else runs beside them.
# Two servers on a Ray cluster of this machine, one of which is killed; within 90 seconds.
test-ray: $(VENV)/.dev
	$(PY) -m pytest -m ray --timeout $(or $(SECONDS),90) tests/serve/test_ray.py

# The C++ tests of the native core, optimised, with checks on.
test-native: $(VENV)/.torch
	cmake -S . -B build/native -DCMAKE_BUILD_TYPE=Release >/dev/null
	cmake --build build/native --parallel $(JOBS)
	ctest --test-dir build/native --output-on-failure

# The core and its bindings with sanitizers. An ordinary Python loads them if their library comes first.
SANITIZED := build/native-sanitized
NATIVE_FUZZ = LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
	$(PY) tests/fuzz/native_calls.py --native $(SANITIZED) --seed $(or $(SEED),0)

$(SANITIZED)/.built: $(VENV)/.dev $(NATIVE)
	cmake -S . -B $(@D) -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSHOTSTREAM_SANITIZE=ON -DSHOTSTREAM_BINDINGS=ON \
		-DPython_EXECUTABLE=$(abspath $(PY)) -Dnanobind_DIR=$$($(PY) -m nanobind --cmake_dir) >/dev/null
	cmake --build $(@D) --parallel $(JOBS)
	@touch $@

# AddressSanitizer and UndefinedBehaviorSanitizer; the random calls last SECONDS=5.
# The C++ tests and random calls of the bindings under the sanitizers.
test-sanitize: $(SANITIZED)/.built
	ctest --test-dir $(SANITIZED) --output-on-failure
	$(NATIVE_FUZZ) --seconds $(or $(SECONDS),5)

# Damaged files, snapshots and stories, calls of a session from many threads, and the bindings under the sanitizers.
# The long form of what the tests do for seconds: make fuzz [SECONDS=600] [SEED=0]
fuzz: $(SANITIZED)/.built
	$(NATIVE_FUZZ) --seconds $$(( $(or $(SECONDS),600) / 5 )) --calls $$(( $(or $(SECONDS),600) * 2000 ))
	SHOTSTREAM_FUZZ_SECONDS=$$(( $(or $(SECONDS),600) * 4 / 5 )) SHOTSTREAM_FUZZ_SEED=$(or $(SEED),0) \
		$(PY) -m pytest tests/fuzz --timeout 0

# Prints how memory went, whether a frame was lost and what became of every request.
# A session under random requests and a slow reader: make soak [MINUTES=30]
soak: $(VENV)/.base
	$(PY) tests/soak.py --minutes $(or $(MINUTES),30)

# The tests that need an NVIDIA GPU.
test-gpu: $(VENV)/.dev
	$(PY) -m pytest -m "gpu or tensorrt"

# Machines with a GPU bring their own torch, so it runs with their python3, or GPU_PYTHON=PATH.
# Everything a GPU has to settle, without network: make gpu-check OUT=DIR [SECONDS=330] [RESUME=1 or DIR] [ONLY=a,b]
gpu-check:
	$(or $(GPU_PYTHON),python3) bench/gpu_check.py $(or $(OUT),out/gpu-check) $(if $(ONLY),--only $(ONLY)) \
		$(if $(SECONDS),--seconds $(SECONDS)) $(if $(RESUME),--resume $(filter-out 1,$(RESUME)))

# The kernel tests with Triton interpreted, so that a machine without a GPU executes the kernels.
test-interpret: $(VENV)/.dev
	TRITON_INTERPRET=1 $(PY) -m pytest -m interpret tests/kernels tests/model

# Lint, formatting and types; nothing is changed.
lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(filter %.cpp %.h,$(NATIVE))
	MYPYPATH=python $(VENV)/bin/mypy

# Bring every file to the house format.
format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(filter %.cpp %.h,$(NATIVE))

# The end-to-end streaming benchmark; BENCH="--shots 2 --json" and the like are passed on.
bench: $(VENV)/.base
	$(PY) -m shotstream_rt.bench $(BENCH)

# Micro-benchmarks of every kernel and of the native core; KERNELS="--dtype bfloat16" is passed on.
bench-kernels: $(VENV)/.dev
	$(PY) -m pytest bench $(KERNELS)

PROFILED = $(or $(GPU_PYTHON),python3) -m shotstream_rt.bench profile --dtype $(or $(DTYPE),bfloat16) \
	--workload $(or $(WORKLOAD),$(if $(filter ncu,$(TOOL)),student-1.3b,film-480p)) --shots $(or $(SHOTS),1) $(BENCH)
SECTIONS := SpeedOfLight SpeedOfLight_RooflineChart MemoryWorkloadAnalysis ComputeWorkloadAnalysis Occupancy \
	LaunchStats SchedulerStats WarpStateStats SourceCounters

# See docs/profiling.md; it runs with python3 or GPU_PYTHON=PATH, like gpu-check. Also SHOTS, SKIP, COUNT, DTYPE.
# A shot under a profiler: make profile TOOL=nsys|ncu|trace WORKLOAD=film-480p KERNEL=regex
profile:
	@mkdir -p out/profile
ifeq ($(or $(TOOL),nsys),nsys)
	SHOTSTREAM_NVTX=1 PYTHONPATH=python nsys profile --trace=cuda,nvtx,osrt --cuda-graph-trace=node \
		--capture-range=cudaProfilerApi --capture-range-end=stop --force-overwrite=true \
		--output out/profile/timeline $(PROFILED)
	nsys stats --report nvtx_gpu_proj_sum,nvtx_sum,cuda_gpu_kern_sum,cuda_gpu_mem_time_sum \
		out/profile/timeline.nsys-rep
else ifeq ($(TOOL),ncu)
	PYTHONPATH=python ncu --profile-from-start off --clock-control none --graph-profiling node \
		--kernel-name 'regex:$(or $(KERNEL),_attention)' --launch-skip $(or $(SKIP),0) --launch-count $(or $(COUNT),5) \
		--import-source on $(SECTIONS:%=--section %) --force-overwrite --export out/profile/kernel $(PROFILED)
	ncu --import out/profile/kernel.ncu-rep --page details
else ifeq ($(TOOL),trace)
	PYTHONPATH=python $(PROFILED) --trace out/profile/trace.json
else
	$(error TOOL: got $(TOOL), wanted nsys, ncu or trace)
endif

# Compare two records, or two folders of them: make bench-compare BASE=before.json NEW=after.json
bench-compare: $(VENV)/.base
	$(PY) -m shotstream_rt.bench compare $(BASE) $(NEW)

# Compile every kernel for every architecture into a bundle, without a GPU: make aot OUT=DIR
aot: $(VENV)/.dev
	$(PY) -m shotstream_rt.kernels.aot build --out $(or $(OUT),out/kernels) --jobs $(JOBS) $(AOT)

# The range of Triton that pyproject.toml declares, its lower end first: triton>=3.6,<3.8
TRITON_RANGE  := $(shell sed -n 's/^ *"\(triton>=[0-9.]*,<[0-9.]*\);.*/\1/p' pyproject.toml)
TRITON_oldest := $(subst >=,==,$(firstword $(subst $(comma), ,$(TRITON_RANGE))))
TRITON_newest := $(TRITON_RANGE)

# One release of Triton in a folder of its own, for PYTHONPATH; everything else is the environment's.
build/triton-%/.installed: $(VENV)/.base pyproject.toml
	rm -rf $(@D)
	$(PIP) install --quiet --no-deps --target $(@D) "$(TRITON_$*)"
	@touch $@

# Not by Triton's age but by what a user may have: a release can spill where another one does not.
# Build and check the bundle with the oldest and the newest Triton of the declared range.
aot-check: build/triton-oldest/.installed build/triton-newest/.installed
	set -e; for release in oldest newest; do \
		export PYTHONPATH=$(CURDIR)/build/triton-$$release:$(CURDIR)/python; \
		$(PY) -c 'import triton; print("triton", triton.__version__)'; \
		$(PY) -m shotstream_rt.kernels.aot build --out build/aot-$$release --jobs $(JOBS) $(AOT); \
		$(PY) -m shotstream_rt.kernels.aot check build/aot-$$release; \
	done

# Machines with a GPU bring their own torch, so it runs with their python3, or GPU_PYTHON=PATH.
# TensorRT engines on a GPU that TensorRT-RTX builds for: make engine-check OUT=DIR [MODEL=random-1.3b] [CHECK=--rehearse]
engine-check:
	PYTHONPATH=python $(or $(GPU_PYTHON),$(PY)) bench/engine_check.py $(or $(OUT),out/engine-check) \
		$(if $(MODEL),--model $(MODEL)) $(CHECK)

# Export and build a random 1.3B within budgets of time, memory and launches: make engine-budget [FULL=1]
engine-budget: $(VENV)/.dev
	PYTHONPATH=python $(PY) bench/engine_budget.py $(if $(FULL),--full)

# Build the Docker image and play from it; without a Docker daemon, do its steps here.
docker-check:
	$(PYTHON) docker/check.py

# Wheels and source archives of the runtime and of the training package in dist/.
wheel: $(VENV)/.dev
	$(PY) -m build --no-isolation
	$(PY) -m build --no-isolation --outdir dist $(DISTILL)

# Remove what was built; the environment stays.
clean:
	rm -rf build dist out python/*.egg-info $(DISTILL)/*.egg-info $(DISTILL)/build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find python -name '_native*.so' -delete
	rm -f $(VENV)/.base $(VENV)/.serve $(VENV)/.dev
