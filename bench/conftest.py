"""Fixtures of the micro-benchmarks: ``case``, ``kernels`` and ``load_kernel``.

``pytest bench`` measures every kernel at the shapes of a workload of kind ``kernels``:
``--workload`` (default kernels-256), ``--device``, ``--dtype``, ``--threads``, and ``--records
DIR`` for records that ``python -m shotstream_rt.bench compare`` reads. On a GPU the clock is a pair
of events around each run, with the second-level cache overwritten in between. How to write a bench
is in ``shotstream_rt/bench/kernel_case.py``.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from shotstream_rt.bench.ceilings import Ceilings, measure_ceilings
from shotstream_rt.bench.hardware import (
    describe_git,
    describe_hardware,
    describe_software,
    load_average,
)
from shotstream_rt.bench.kernel_case import KernelCase, Shapes, Timing
from shotstream_rt.bench.metric import Metric
from shotstream_rt.bench.record import BenchRecord, write_record
from shotstream_rt.bench.workloads import Workload, find_workload
from shotstream_rt.config import ModelConfig
from shotstream_rt.kernels.sets.cpu_set import cpu_kernels, cpu_unavailable_reason
from shotstream_rt.kernels.sets.kernel_set import (
    REFERENCE,
    TORCH_OPS,
    KernelSet,
    triton_kernels,
    triton_unavailable_reason,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options above."""
    group = parser.getgroup("shotstream_rt")
    group.addoption("--workload", default="kernels-256", help="workload of kind kernels")
    group.addoption("--device", default="cpu", choices=("cpu", "cuda"))
    group.addoption("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    group.addoption(
        "--roofline", action="store_true", help="measure the device's ceilings, for floor_percent"
    )
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
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device asked for."""
    chosen = torch.device(request.config.getoption("--device"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU that torch can use")
    return chosen


@pytest.fixture(scope="session")
def ceilings(
    request: pytest.FixtureRequest, workload: Workload, device: torch.device
) -> Ceilings | None:
    """What the device does at its best, if ``--roofline`` asks for it.

    Args:
        request: for the options of the command line.
        workload: whose widths and latent size, in tokens, the products have.
        device: that is measured.
    """
    if not request.config.getoption("--roofline"):
        return None
    shapes = Shapes(**workload.recipe)
    model = ModelConfig(
        dim=shapes.dim, ffn_dim=shapes.ffn_dim, num_heads=shapes.heads,
        latent_height=2 * shapes.rows, latent_width=2 * shapes.columns,
    )  # fmt: skip
    return measure_ceilings(device, getattr(torch, request.config.getoption("--dtype")), model)


@pytest.fixture
def case(
    request: pytest.FixtureRequest,
    benchmark: Any,
    workload: Workload,
    device: torch.device,
    ceilings: Ceilings | None,
) -> Iterator[KernelCase]:
    """What a bench needs; what it measured becomes a record if ``--records`` asks for it.

    Args:
        request: for the options of the command line and the bench's name.
        benchmark: pytest-benchmark's fixture, which times.
        workload: the shapes.
        device: where tensors are made.
        ceilings: of the device; None leaves ``floor_percent`` out of the record.
    """
    dtype: torch.dtype = getattr(torch, request.config.getoption("--dtype"))
    made = KernelCase(Shapes(**workload.recipe), dtype, device, benchmark)
    yield made
    folder = request.config.getoption("--records")
    if folder is not None and made.timings:
        folder.mkdir(parents=True, exist_ok=True)
        write_record(_record(request.node.name, workload, made, ceilings), folder)


@pytest.fixture(params=["reference", "torch", "cpu", "triton"])
def kernels(request: pytest.FixtureRequest, device: torch.device, workload: Workload) -> KernelSet:
    """Each kernel set of the device in turn."""
    if request.param in ("reference", "torch"):
        return REFERENCE if request.param == "reference" else TORCH_OPS
    _require_set(request.param, device)
    if request.param == "triton":
        return triton_kernels()
    dtype: torch.dtype = getattr(torch, request.config.getoption("--dtype"))
    return cpu_kernels(dtype, Shapes(**workload.recipe).head_dim)


@pytest.fixture(params=["reference", "triton"])
def load_kernel(
    request: pytest.FixtureRequest, device: torch.device
) -> Callable[[str], ModuleType]:
    """``load_kernel(name)`` gives each form of a kernel that no kernel set names, in turn."""
    if request.param == "triton":
        _require_set("triton", device)
    package = "kernels.reference" if request.param == "reference" else "kernels.gpu"
    return lambda name: importlib.import_module(f"shotstream_rt.{package}.{name}")


def _require_set(name: str, device: torch.device) -> None:
    """Skip a kernel set that does not run on the device."""
    reason = cpu_unavailable_reason() if name == "cpu" else triton_unavailable_reason()
    if device.type != ("cpu" if name == "cpu" else "cuda"):
        reason = f"not for {device.type}"
    if reason is not None:
        pytest.skip(f"kernel set {name}: {reason}")


def _metrics(timing: Timing, dtype: str, ceilings: Ceilings | None) -> tuple[Metric, ...]:
    seconds, moved, flops = timing.seconds, timing.bytes_moved, timing.flops
    metrics = [
        Metric.of("kernel_ms", "ms", [1e3 * value for value in seconds]),
        Metric.of("gbps", "GB/s", [moved / value / 1e9 for value in seconds]),
        Metric.of("tflops", "TFLOP/s", [flops / value / 1e12 for value in seconds]),
    ]
    if ceilings is not None:
        floor_ms, _ = ceilings.floor_ms(flops, moved, dtype)
        metrics.append(
            Metric.of("floor_percent", "%", [floor_ms / (10 * value) for value in seconds])
        )
    return tuple(metrics)


def _record(
    name: str, workload: Workload, case: KernelCase, ceilings: Ceilings | None
) -> BenchRecord:
    """Return the record of one benchmark; ``name`` is ``bench_WHAT[SET]``."""
    timing = case.timings[0]
    kernel, _, rest = name.removeprefix("bench_").partition("[")
    kernel_set = rest.rstrip("]") or "reference"
    dtype, device = str(case.dtype).removeprefix("torch."), case.device.type
    requested = {"device": device, "kernel": kernel, "set": kernel_set, "dtype": dtype}
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
            "dtype": dtype,
            "profile": "exact",
            "device": device,
        },
        git=describe_git(),
        hardware=describe_hardware(case.device),
        software=describe_software(),
        method={
            "command": shlex.join(["pytest", *sys.argv[1:]]),
            **case.method(),
            "consumer": "none",
            "threads": torch.get_num_threads(),
            "load_before": load_average(),
        },
        status="ok",
        correctness=timing.correctness,
        metrics=_metrics(timing, dtype, ceilings),
    )
