"""What the micro-benchmarks share: shapes, kernel sets, and records of what was measured.

``pytest bench`` measures every kernel at the shapes of a workload of kind ``kernels``:
``--workload`` (default kernels-256), ``--device``, ``--dtype``, ``--threads``, and ``--records
DIR`` for records that ``python -m shotstream_rt.bench compare`` reads. On a GPU the clock is a pair
of events around each run, with the second-level cache overwritten in between.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream_rt.bench.hardware import (
    describe_git,
    describe_hardware,
    describe_software,
    load_average,
)
from shotstream_rt.bench.record import BenchRecord, Correctness, Metric, write_record
from shotstream_rt.bench.workloads import Workload, find_workload
from shotstream_rt.kernels.kernel_set import (
    REFERENCE,
    TORCH_OPS,
    KernelSet,
    cpu_kernels,
    cpu_unavailable_reason,
    triton_kernels,
    triton_unavailable_reason,
)

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest relative distance to the reference in float32."""

_WARM_UP, _REPEATS = 5, 50
_FLUSH_BYTES = 256 << 20
"""More than any second-level cache."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of one chunk's pass at the end of a shot; see ``bench/workloads``."""

    frames: int
    rows: int
    columns: int
    heads: int
    head_dim: int
    ffn_dim: int
    cached_frames: int
    latent_channels: int

    @property
    def dim(self) -> int:
        """Width of the model."""
        return self.heads * self.head_dim

    @property
    def frame_tokens(self) -> int:
        """Tokens of a latent frame."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """Tokens of a chunk."""
        return self.frames * self.frame_tokens

    @property
    def cached_tokens(self) -> int:
        """Valid tokens of the cache, the chunk's own included."""
        return self.cached_frames * self.frame_tokens


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options above."""
    group = parser.getgroup("shotstream_rt")
    group.addoption("--workload", default="kernels-256", help="workload of kind kernels")
    group.addoption("--device", default="cpu", choices=("cpu", "cuda"))
    group.addoption("--dtype", default="float32", choices=("float32", "bfloat16"))
    group.addoption("--threads", type=int, help="CPU threads (default: torch's choice)")
    group.addoption("--records", type=Path, help="write one record per kernel and set here")


@pytest.fixture(scope="session")
def workload(request: pytest.FixtureRequest) -> Workload:
    """The shapes asked for, as declared."""
    threads = request.config.getoption("--threads")
    if threads is not None:
        torch.set_num_threads(threads)
    return find_workload(request.config.getoption("--workload"))


@pytest.fixture(scope="session")
def shapes(workload: Workload) -> Shapes:
    """The shapes asked for."""
    return Shapes(**workload.recipe)


@pytest.fixture(scope="session")
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """The type asked for."""
    chosen: torch.dtype = getattr(torch, request.config.getoption("--dtype"))
    return chosen


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device asked for."""
    chosen = torch.device(request.config.getoption("--device"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU that torch can use")
    return chosen


@pytest.fixture(params=["reference", "torch", "cpu", "triton"])
def kernels(request: pytest.FixtureRequest, device: torch.device) -> KernelSet:
    """Each kernel set of the device in turn."""
    if request.param in ("reference", "torch"):
        return REFERENCE if request.param == "reference" else TORCH_OPS
    _require_set(request.param, device)
    return cpu_kernels() if request.param == "cpu" else triton_kernels()


@pytest.fixture(params=["reference", "triton"])
def load_kernel(
    request: pytest.FixtureRequest, device: torch.device
) -> Callable[[str], ModuleType]:
    """``load_kernel(name)`` gives each form of a kernel that no kernel set names, in turn."""
    if request.param == "triton":
        _require_set("triton", device)
    package = "kernels.reference" if request.param == "reference" else "kernels"
    return lambda name: importlib.import_module(f"shotstream_rt.{package}.{name}")


def _require_set(name: str, device: torch.device) -> None:
    """Skip a kernel set that does not run on the device."""
    reason = cpu_unavailable_reason() if name == "cpu" else triton_unavailable_reason()
    if device.type != ("cpu" if name == "cpu" else "cuda"):
        reason = f"not for {device.type}"
    if reason is not None:
        pytest.skip(f"kernel set {name}: {reason}")


@pytest.fixture
def normal(device: torch.device) -> Callable[..., Tensor]:
    """Seeded normal numbers: ``normal(*shape, dtype=...)``, the same on every device."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    return draw


@pytest.fixture
def measure(
    request: pytest.FixtureRequest,
    benchmark: Any,
    workload: Workload,
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[Callable[..., None]]:
    """Check, then time.

    ``measure(run, wanted, bytes_moved=..., flops=...)``: ``run`` gives what the kernel under test
    makes, ``wanted`` what the reference makes of the same numbers in float32.
    """
    found: list[tuple[Correctness, dict[str, float], list[float]]] = []

    def check_and_time(
        run: Callable[[], Tensor], wanted: Tensor, *, bytes_moved: float, flops: float
    ) -> None:
        with torch.inference_mode():
            correctness = _compare(run(), wanted, TOLERANCES[dtype])
            assert correctness.passed, f"not correct, so not timed: {correctness}"
            if device.type == "cuda":
                benchmark.pedantic(run, rounds=1)
                times = _device_seconds(run, device)
            else:
                benchmark(run)
                times = [float(value) for value in benchmark.stats.stats.data]
        found.append((correctness, {"bytes": bytes_moved, "flops": flops}, times))
        seconds = median(times)
        benchmark.extra_info["device_us"] = round(seconds * 1e6, 2)
        benchmark.extra_info["gbps"] = round(bytes_moved / seconds / 1e9, 2)
        benchmark.extra_info["tflops"] = round(flops / seconds / 1e12, 4)

    yield check_and_time
    folder = request.config.getoption("--records")
    if folder is not None and found:
        folder.mkdir(parents=True, exist_ok=True)
        record = _record(request.node.name, workload, dtype, device, *found[0])
        write_record(record, folder)


def _device_seconds(run: Callable[[], Tensor], device: torch.device) -> list[float]:
    """Time runs on the GPU's own clock, each with a cold second-level cache."""
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)
    events = []
    for _ in range(_WARM_UP + _REPEATS):
        # Longer than a launch takes, so the host is ahead and its time does not count.
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) / 1e3 for start, end in events[_WARM_UP:]]


def _compare(got: Tensor, wanted: Tensor, tolerance: float) -> Correctness:
    error, wide = got.double() - wanted.double(), wanted.double()
    rel_l2 = float(error.norm() / wide.norm())
    rms, span = error.square().mean().sqrt(), wide.max() - wide.min()
    return Correctness(
        reference="reference kernels, float32",
        rel_l2=rel_l2,
        max_abs_err=float(error.abs().max()),
        psnr_db=float(20 * torch.log10(span / rms)) if rms > 0 else 999.0,
        tolerance=tolerance,
        passed=rel_l2 <= tolerance,
    )


def _record(
    name: str,
    workload: Workload,
    dtype: torch.dtype,
    device: torch.device,
    correctness: Correctness,
    work: dict[str, float],
    seconds: list[float],
) -> BenchRecord:
    """Return the record of one benchmark; ``name`` is ``bench_WHAT[SET]``."""
    kernel, _, rest = name.removeprefix("bench_").partition("[")
    kernel_set = rest.rstrip("]") or "reference"
    type_name, on_gpu = str(dtype).removeprefix("torch."), device.type == "cuda"
    requested = {"device": device.type, "kernel": kernel, "set": kernel_set, "dtype": type_name}
    return BenchRecord(
        workload={
            "id": f"{workload.id}-{kernel}",
            "version": workload.version,
            "fingerprint": workload.fingerprint(requested),
        },
        backend={
            "requested": kernel_set,
            "resolved": kernel_set,
            "kernel_set": kernel_set,
            "dtype": type_name,
            "profile": "exact",
            "device": device.type,
        },
        git=describe_git(),
        hardware=describe_hardware(device),
        software=describe_software(),
        method={
            "command": shlex.join(["pytest", *sys.argv[1:]]),
            "timer": "cuda events" if on_gpu else "pytest-benchmark",
            "warmup": _WARM_UP if on_gpu else 1,
            "repeats": len(seconds),
            "l2": "cold" if on_gpu else "warm",
            "consumer": "none",
            "threads": torch.get_num_threads(),
            "load_before": load_average(),
        },
        status="ok",
        correctness=correctness,
        metrics=(
            Metric.of("kernel_ms", "ms", [1e3 * value for value in seconds]),
            Metric.of("gbps", "GB/s", [work["bytes"] / value / 1e9 for value in seconds]),
            Metric.of("tflops", "TFLOP/s", [work["flops"] / value / 1e12 for value in seconds]),
        ),
    )
