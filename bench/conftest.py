"""What the micro-benchmarks share: shapes, kernel sets, and records of what was measured.

``pytest bench`` measures every kernel at the shapes of a workload of kind ``kernels``:
``--workload`` (default kernels-256), ``--dtype``, ``--threads``, and ``--records DIR`` for records
that ``python -m shotstream_rt.bench compare`` reads.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
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
)

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest relative distance to the reference in float32."""


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


@pytest.fixture(params=["reference", "torch", "cpu"])
def kernels(request: pytest.FixtureRequest) -> KernelSet:
    """Each kernel set of the CPU in turn."""
    if request.param in ("reference", "torch"):
        return REFERENCE if request.param == "reference" else TORCH_OPS
    reason = cpu_unavailable_reason()
    if reason is not None:
        pytest.skip(f"kernel set cpu: {reason}")
    return cpu_kernels()


@pytest.fixture
def normal() -> Callable[..., Tensor]:
    """Seeded normal numbers: ``normal(*shape, dtype=...)``."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return draw


@pytest.fixture
def measure(
    request: pytest.FixtureRequest, benchmark: Any, workload: Workload, dtype: torch.dtype
) -> Iterator[Callable[..., None]]:
    """Check, then time.

    ``measure(run, wanted, bytes_moved=..., flops=...)``: ``run`` gives what the kernel under test
    makes, ``wanted`` what the reference makes of the same numbers in float32.
    """
    found: list[tuple[Correctness, dict[str, float]]] = []

    def check_and_time(
        run: Callable[[], Tensor], wanted: Tensor, *, bytes_moved: float, flops: float
    ) -> None:
        with torch.inference_mode():
            correctness = _compare(run(), wanted, TOLERANCES[dtype])
            assert correctness.passed, f"not correct, so not timed: {correctness}"
            benchmark(run)
        found.append((correctness, {"bytes": bytes_moved, "flops": flops}))
        seconds = benchmark.stats.stats.median
        benchmark.extra_info["gbps"] = round(bytes_moved / seconds / 1e9, 2)
        benchmark.extra_info["tflops"] = round(flops / seconds / 1e12, 4)

    yield check_and_time
    folder = request.config.getoption("--records")
    if folder is not None and found:
        folder.mkdir(parents=True, exist_ok=True)
        correctness, work = found[0]
        record = _record(request.node.name, workload, dtype, benchmark, correctness, work)
        write_record(record, folder)


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
    benchmark: Any,
    correctness: Correctness,
    work: dict[str, float],
) -> BenchRecord:
    """Return the record of one benchmark; ``name`` is ``bench_WHAT[SET]``."""
    kernel, _, rest = name.removeprefix("bench_").partition("[")
    kernel_set = rest.rstrip("]") or "reference"
    seconds = [float(value) for value in benchmark.stats.stats.data]
    device, type_name = torch.device("cpu"), str(dtype).removeprefix("torch.")
    requested = {"device": "cpu", "kernel": kernel, "set": kernel_set, "dtype": type_name}
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
            "device": "cpu",
        },
        git=describe_git(),
        hardware=describe_hardware(device),
        software=describe_software(),
        method={
            "command": shlex.join(["pytest", *sys.argv[1:]]),
            "timer": "pytest-benchmark",
            "warmup": 1,
            "repeats": len(seconds),
            "l2": "warm",
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
