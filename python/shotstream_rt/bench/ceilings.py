"""The device's best rates of copies and matrix products, measured in this process.

Data sheets are not used: a floor from measured rates is one that this machine can reach, at its
clocks and power cap.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shotstream_rt.config import ModelConfig
from shotstream_rt.kernels.cpu import products
from shotstream_rt.kernels.sets.cpu_set import cpu_unavailable_reason

from .kernel_case import device_seconds

FLOAT8 = "float8_e4m3fn"
_COPY_BYTES = {"cuda": 2 << 30, "cpu": 64 << 20}
_SQUARE = {"cuda": 8192, "cpu": 1024}
_BUDGET_S = 0.2
"""Time for one measurement on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """Best rates found.

    Attributes:
        copy_gbps: bytes read and written by a large copy, 1e9 per second.
        gemm_tflops: by type, the best of a large square product and of the student's own ones.
        gemm_shape: by type, the rows, inputs and outputs of that product.
    """

    copy_gbps: float
    gemm_tflops: dict[str, float]
    gemm_shape: dict[str, tuple[int, int, int]]

    def floor_ms(self, flops: float, nbytes: float, dtype: str) -> tuple[float, str]:
        """Return the least milliseconds that some work can take, and what bounds it.

        Args:
            flops: floating-point operations of the work.
            nbytes: bytes that it reads and writes.
            dtype: type of its products, such as ``bfloat16``.
        """
        compute = flops / (self.gemm_tflops[dtype] * 1e9)
        memory = nbytes / (self.copy_gbps * 1e6)
        return (compute, "compute") if compute >= memory else (memory, "memory")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)


def measure_ceilings(device: torch.device, dtype: torch.dtype, model: ModelConfig) -> Ceilings:
    """Measure; takes a few seconds.

    Args:
        device: idle.
        dtype: of the run; on a GPU that has it, 8-bit products are measured too.
        model: its own products are among those tried.
    """
    with torch.inference_mode():
        copy_gbps = _copy_gbps(device)
        best: dict[str, tuple[float, tuple[int, int, int]]] = {}
        for name, shape, run in _products(device, dtype, model):
            rows, inputs, outputs = shape
            rate = 2 * rows * inputs * outputs / _best_s(run, device) / 1e12
            best[name] = max(best.get(name, (0.0, shape)), (rate, shape))
    return Ceilings(
        copy_gbps=round(copy_gbps, 2),
        gemm_tflops={name: round(rate, 4) for name, (rate, _) in best.items()},
        gemm_shape={name: shape for name, (_, shape) in best.items()},
    )


def _copy_gbps(device: torch.device) -> float:
    source = torch.zeros(_COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best_s(lambda: target.copy_(source), device) / 1e9


def _products(
    device: torch.device, dtype: torch.dtype, model: ModelConfig
) -> Iterator[tuple[str, tuple[int, int, int], Callable[[], Any]]]:
    """Yield type, shape and call of every product to try."""
    square, dim, ffn = _SQUARE[device.type], model.dim, model.ffn_dim
    tokens = 3 * model.tokens_per_frame
    shapes = [(square, square, square), (tokens, dim, 3 * dim), (tokens, dim, ffn),
              (tokens, ffn, dim)]  # fmt: skip
    name = str(dtype).removeprefix("torch.")
    has_float8 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
    for shape in shapes:
        rows, inputs, outputs = shape
        x = torch.randn(rows, inputs, device=device, dtype=dtype)
        layer = nn.Linear(inputs, outputs).to(device, dtype).requires_grad_(False)
        yield name, shape, partial(F.linear, x, layer.weight)
        if device.type == "cpu" and cpu_unavailable_reason() is None:
            yield name, shape, partial(products.fuse_linear([layer]), x[None])
        if has_float8:
            yield FLOAT8, shape, _float8_product(x, layer.weight)


def _float8_product(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    left, right = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn).t()
    one = torch.ones((), device=x.device)
    multiply = torch._scaled_mm
    return lambda: multiply(
        left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _best_s(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest run."""
    if device.type == "cuda":
        return min(device_seconds(run, device, repeats=20))
    run()
    times: list[float] = []
    until = time.perf_counter() + _BUDGET_S
    while len(times) < 3 or time.perf_counter() < until:
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return min(times)
