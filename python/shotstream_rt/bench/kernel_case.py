"""What a kernel's micro-benchmark needs: shapes, seeded numbers, a check before timing.

``bench/conftest.py`` hands a ``KernelCase`` to every function of ``bench/bench_X.py``. A whole
bench file is::

    def bench_rms_norm(case: KernelCase, kernels: KernelSet) -> None:
        q = case.normal(1, case.shapes.tokens, case.shapes.dim)
        weight = case.normal(case.shapes.dim)
        case.measure(
            lambda: kernels.rms_norm(q, weight, 1e-6),
            REFERENCE.rms_norm(q.float(), weight.float(), 1e-6),
            bytes_moved=2 * q.nbytes,
            flops=4 * q.numel(),
        )

``kernels`` runs it with every kernel set that the device can run; a kernel that no set names takes
``load_kernel`` instead, which gives the modules ``reference.X`` and ``gpu.X``. Several forms of
one kernel (launches, types) are a plain ``pytest.mark.parametrize``: its ids go into the record's
name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeAlias

import torch
from torch import Tensor

from shotstream_rt.backends.cache import KVArena
from shotstream_rt.kernels.sets.arena_layout import ArenaLayout

from .record import Correctness

Results: TypeAlias = Tensor | tuple[Tensor, ...]

TOLERANCES = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Largest relative distance of a kernel's result to the reference in float32."""

WARM_UP, REPEATS = 5, 50
_FLUSH_BYTES = 1 << 30
_TOKEN_MAJOR = ArenaLayout()
"""More than any second-level cache, and longer to write than a launch takes."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """Sizes of a chunk's pass at the end of a shot: the recipe of a ``kernels`` workload."""

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

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """Latents of a chunk, ``[1, F, C, h, w]``."""
        return 1, self.frames, self.latent_channels, 2 * self.rows, 2 * self.columns


@dataclass(frozen=True, slots=True)
class Timing:
    """What ``KernelCase.measure`` found.

    Attributes:
        correctness: distance to the reference.
        seconds: of every counted run.
        bytes_moved: that the kernel must read and write.
        flops: that it must do.
    """

    correctness: Correctness
    seconds: list[float]
    bytes_moved: float
    flops: float

    @property
    def rates(self) -> dict[str, float]:
        """Median time and rates, for the table on the terminal."""
        seconds = median(self.seconds)
        return {
            "median_us": round(seconds * 1e6, 2),
            "gbps": round(self.bytes_moved / seconds / 1e9, 2),
            "tflops": round(self.flops / seconds / 1e12, 4),
        }


@dataclass(slots=True)
class KernelCase:
    """Shapes, type, device, numbers and the clock of one micro-benchmark.

    Attributes:
        shapes: sizes to run at.
        dtype: of what the kernel reads.
        device: where it runs.
        benchmark: pytest-benchmark's fixture; the clock on a CPU.
        timings: one per call of ``measure``.
    """

    shapes: Shapes
    dtype: torch.dtype
    device: torch.device
    benchmark: Any
    timings: list[Timing] = field(default_factory=list)
    _generator: torch.Generator = field(
        default_factory=lambda: torch.Generator().manual_seed(0), init=False
    )

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Draw normal numbers, the same on every device; default: in the type asked for."""
        return torch.randn(shape, generator=self._generator).to(self.device, dtype or self.dtype)

    def arena(self, layout: ArenaLayout = _TOKEN_MAJOR, *, filled: bool = True) -> KVArena:
        """Return one layer's cache of ``cached_tokens`` rows, of normal numbers or of zeros."""
        shapes = self.shapes
        arena = KVArena(
            shapes.cached_tokens, shapes.heads, shapes.head_dim,
            layout=layout, dtype=self.dtype, device=self.device,
        )  # fmt: skip
        if filled:
            arena.k.copy_(self.normal(*arena.k.shape))
            arena.v.copy_(self.normal(*arena.v.shape))
        return arena

    def measure(
        self,
        run: Callable[[], Results],
        wanted: Results,
        *,
        bytes_moved: float,
        flops: float,
        tolerance: float | None = None,
    ) -> None:
        """Compare with the reference, then time.

        Args:
            run: gives what the kernel under test makes: a tensor, or several.
            wanted: what the reference makes of the same numbers in float32.
            bytes_moved: that the kernel must read and write.
            flops: that it must do.
            tolerance: largest relative distance; default: the type's. A lossy kernel has its own.
        """
        tolerance = TOLERANCES[self.dtype] if tolerance is None else tolerance
        with torch.inference_mode():
            correctness = compare_with_reference(run(), wanted, tolerance)
            assert correctness.passed, f"not correct, so not timed: {correctness}"
            if self.device.type == "cuda":
                self.benchmark.pedantic(run, rounds=1)
                seconds = device_seconds(run, self.device)
            else:
                self.benchmark(run)
                seconds = [float(value) for value in self.benchmark.stats.stats.data]
        timing = Timing(correctness, seconds, bytes_moved, flops)
        self.timings.append(timing)
        self.benchmark.extra_info.update(timing.rates)

    def method(self) -> Mapping[str, Any]:
        """How time was read, for the record."""
        on_gpu = self.device.type == "cuda"
        return {
            "timer": "cuda events" if on_gpu else "pytest-benchmark",
            "warmup": WARM_UP if on_gpu else 1,
            "repeats": len(self.timings[0].seconds),
            "l2": "cold" if on_gpu else "warm",
        }


def device_seconds(
    run: Callable[[], object], device: torch.device, *, repeats: int = REPEATS
) -> list[float]:
    """Time runs by the GPU's own clock, each with a cold second-level cache.

    Args:
        run: launches the kernel.
        device: the GPU.
        repeats: counted runs.
    """
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)
    events = []
    for _ in range(WARM_UP + repeats):
        # While the GPU writes this, the host queues the rest, so launching is not timed.
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) / 1e3 for start, end in events[WARM_UP:]]


def compare_with_reference(got: Results, wanted: Results, tolerance: float) -> Correctness:
    """Return the distance of a kernel's results to the reference's; NaN never passes.

    Args:
        got: what the kernel made.
        wanted: what the reference made in float32, the same shapes.
        tolerance: largest relative distance that passes.
    """
    narrow, wide = _flat(got), _flat(wanted)
    error = narrow - wide
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


def _flat(results: Results) -> Tensor:
    tensors = (results,) if isinstance(results, Tensor) else results
    return torch.cat([tensor.double().flatten() for tensor in tensors])
