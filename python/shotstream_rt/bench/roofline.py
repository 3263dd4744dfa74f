"""How near every stage is to what the device allows: its measured time and its floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from shotstream_rt.config import ModelConfig

from .ceilings import FLOAT8, Ceilings, measure_ceilings
from .work import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """One stage and its floor.

    Attributes:
        stage: what it must do.
        n: samples.
        measured_ms: their median.
        floor_ms: the least time at the measured ceilings.
        bound: ``compute`` or ``memory``, whichever makes the floor.
    """

    stage: Stage
    n: int
    measured_ms: float
    floor_ms: float
    bound: str

    @property
    def percent(self) -> float:
        """Floor as a part of the measured time: 100 is as fast as the device allows."""
        return 100 * self.floor_ms / self.measured_ms

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        stage, ms = self.stage, self.measured_ms
        return {
            "stage": stage.name,
            "metric": stage.metric,
            "n": self.n,
            "measured_ms": round(ms, 4),
            "floor_ms": round(self.floor_ms, 4),
            "percent": round(self.percent, 2),
            "bound": self.bound,
            "flops": stage.flops,
            "bytes": stage.nbytes,
            "tflops": round(stage.flops / ms / 1e9, 4),
            "gbps": round(stage.nbytes / ms / 1e6, 3),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The ceilings of a device, and the stages compared with them.

    Attributes:
        dtype: type whose products make the compute floors: the narrowest that the run uses.
        ceilings: measured in the same process.
        stages: those that were measured.
    """

    dtype: str
    ceilings: Ceilings
    stages: tuple[StageTime, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, as in ``BenchRecord.roofline``."""
        return {
            "dtype": self.dtype,
            "ceilings": self.ceilings.to_dict(),
            "stages": [stage.to_dict() for stage in self.stages],
        }


def measure_roofline(
    stages: Sequence[Stage],
    samples: Mapping[str, Sequence[float]],
    device: torch.device,
    dtype: torch.dtype,
    model: ModelConfig,
    *,
    float8: bool = False,
) -> Roofline:
    """Measure the device's ceilings and compare the stages with them.

    Args:
        stages: those without samples are left out.
        samples: milliseconds by metric name.
        device: idle.
        dtype: of weights and activations.
        model: shape of the student.
        float8: whether the run multiplies in 8 bits, if only in part; then floors do in all.
    """
    ceilings = measure_ceilings(device, dtype, model)
    name = str(dtype).removeprefix("torch.")
    if float8 and FLOAT8 in ceilings.gemm_tflops:
        name = FLOAT8
    return Roofline(
        dtype=name, ceilings=ceilings, stages=tuple(place(stages, samples, ceilings, name))
    )


def place(
    stages: Sequence[Stage],
    samples: Mapping[str, Sequence[float]],
    ceilings: Ceilings,
    dtype: str,
) -> list[StageTime]:
    """Return the measured stages beside their floors.

    Args:
        stages: what each must do.
        samples: milliseconds by metric name; a stage without samples is left out.
        ceilings: measured in the same process.
        dtype: type of the products, such as ``bfloat16``.
    """
    placed = []
    for stage in stages:
        times = samples.get(stage.metric)
        if not times:
            continue
        floor_ms, bound = ceilings.floor_ms(stage.flops, stage.nbytes, dtype)
        placed.append(
            StageTime(
                stage=stage, n=len(times), measured_ms=median(times), floor_ms=floor_ms, bound=bound
            )
        )
    return placed
