"""Where the time of some shots went: every stage, its share, and how near it is to its floor.

``bench profile --summary`` makes it. On a GPU a stage has two times: *host*, how long its calls
took to queue the work, and *GPU*, how long the device worked on it, by events on the stage's own
stream. On a CPU both are the same, so there is one, *wall*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .ceilings import Ceilings
from .stopwatch import Stopwatch
from .work import Stage

_STAGES = {
    "text_encode_ms": "text encode",
    "caption_kv_ms": "caption keys",
    "context_pass_ms": "context pass",
    "step_ms": "step",
    "commit_ms": "clean pass",
    "vae_decode_ms": "decode",
    "vae_encode_ms": "encode of a frame",
}
"""Metrics that time a stage, and its name for people, in the order of a shot."""


class StageClock(Stopwatch):
    """A stopwatch that also notes how long the calling thread took for every sample.

    Args:
        device: where the timed work runs.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._host = Stopwatch(torch.device("cpu"))
        self.on_gpu = device.type == "cuda"

    @contextmanager
    def time_ms(self, *names: str) -> Iterator[None]:
        """Append the milliseconds of the enclosed work, on the device and on the host."""
        with self._host.time_ms(*names), super().time_ms(*names):
            yield

    @contextmanager
    def part_ms(self, name: str) -> Iterator[None]:
        """Time the enclosed work as a part of the name's next sample, on device and host."""
        with self._host.part_ms(name), super().part_ms(name):
            yield

    def clear(self) -> None:
        """Forget everything, as after a warm-up."""
        super().clear()
        self._host.clear()

    def host_samples(self) -> dict[str, list[float]]:
        """Return milliseconds of the calling threads, by the names of ``samples``."""
        return self._host.samples()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTotal:
    """One stage over the whole run.

    Attributes:
        stage: its name.
        n: how often it ran.
        host_ms: total time of the threads that called it.
        device_ms: total time of the device; on a CPU the same as ``host_ms``.
        share: ``device_ms`` over the wall clock of the run. Stages of different threads and streams
            overlap, so shares may add up to more than 1.
        floor_ms: the least time at the measured ceilings; None where no work was counted.
    """

    stage: str
    n: int
    host_ms: float
    device_ms: float
    share: float
    floor_ms: float | None

    @property
    def percent(self) -> float | None:
        """Floor as a part of the measured time: 100 is as fast as the device allows."""
        return None if self.floor_ms is None else 100 * self.floor_ms / self.device_ms

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "stage": self.stage,
            "n": self.n,
            "host_ms": round(self.host_ms, 3),
            "device_ms": round(self.device_ms, 3),
            "share": round(self.share, 4),
            "floor_ms": None if self.floor_ms is None else round(self.floor_ms, 3),
            "percent": None if self.percent is None else round(self.percent, 2),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSummary:
    """The stages of a run.

    Attributes:
        workload: id.
        device: such as ``cpu`` or ``cuda``.
        dtype: type whose products make the compute floors.
        shots: how many were played.
        frames: that they decode to.
        wall_s: seconds they took.
        ceilings: measured in the same process.
        stages: in the order of a shot; those that ran.
    """

    workload: str
    device: str
    dtype: str
    shots: int
    frames: int
    wall_s: float
    ceilings: Ceilings
    stages: tuple[StageTotal, ...]

    @property
    def floor_s(self) -> float:
        """Seconds of all stages at their floors, one after the other: of those that have one."""
        return sum(total.floor_ms or 0.0 for total in self.stages) / 1e3

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "workload": self.workload,
            "device": self.device,
            "dtype": self.dtype,
            "shots": self.shots,
            "frames": self.frames,
            "wall_s": round(self.wall_s, 4),
            "floor_s": round(self.floor_s, 4),
            "ceilings": self.ceilings.to_dict(),
            "stages": [stage.to_dict() for stage in self.stages],
        }

    def lines(self) -> list[str]:
        """Return a table for people."""
        on_gpu = self.device != "cpu"
        times = ("host ms", "GPU ms") if on_gpu else ("wall ms",)
        columns = ("n", *times, "share %", "floor ms", "% of floor")
        rates = ", ".join(f"{k} {v:.4g}" for k, v in self.ceilings.gemm_tflops.items())
        lines = [
            f"{self.workload}: {self.shots} shot(s) in {self.wall_s:.3f} s on {self.device}; "
            f"floors for {self.dtype}",
            f"ceilings measured here: copy {self.ceilings.copy_gbps:.4g} GB/s, products in "
            f"TFLOP/s: {rates}",
            f"all stages at their floors: {self.floor_s:.3f} s, so at most "
            f"{self.frames / self.floor_s if self.floor_s else 0:.1f} frames per second",
            f"{'stage':20}" + "".join(f"{name:>12}" for name in columns),
        ]
        for total in self.stages:
            numbers = [total.host_ms, total.device_ms] if on_gpu else [total.device_ms]
            cells = [str(total.n), *(f"{value:.1f}" for value in numbers)]
            cells.append(f"{100 * total.share:.1f}")
            cells.append("-" if total.floor_ms is None else f"{total.floor_ms:.2f}")
            cells.append("-" if total.percent is None else f"{total.percent:.1f}")
            lines.append(f"{total.stage:20}" + "".join(f"{cell:>12}" for cell in cells))
        return lines


def total_stages(
    device: Mapping[str, Sequence[float]],
    host: Mapping[str, Sequence[float]],
    stages: Sequence[Stage],
    ceilings: Ceilings,
    dtype: str,
    *,
    wall_ms: float,
) -> tuple[StageTotal, ...]:
    """Add up every stage over its calls.

    Args:
        device: milliseconds of the device by metric; a metric may be noted by place in the shot,
            too, as ``step_ms.3``.
        host: milliseconds of the calling threads, likewise.
        stages: the least work of each.
        ceilings: of the device.
        dtype: type of the products.
        wall_ms: of the whole run.
    """
    floors = {
        stage.metric: ceilings.floor_ms(stage.flops, stage.nbytes, dtype)[0] for stage in stages
    }
    totals = []
    for metric, name in _STAGES.items():
        times = device.get(metric)
        if not times:
            continue
        total = sum(times)
        totals.append(
            StageTotal(
                stage=name, n=len(times), host_ms=sum(host[metric]), device_ms=total,
                share=total / wall_ms, floor_ms=_floor_ms(metric, device, floors),
            )
        )  # fmt: skip
    return tuple(totals)


def _floor_ms(
    metric: str, samples: Mapping[str, Sequence[float]], floors: Mapping[str, float]
) -> float | None:
    """Return the floor of all calls of a stage; None where the work of one was not counted."""
    if metric in floors:
        return floors[metric] * len(samples[metric])
    counted = sorted(int(k.split(".")[1]) for k in floors if k.startswith(f"{metric}."))
    total = 0.0
    for name, times in samples.items():
        if not name.startswith(f"{metric}."):
            continue
        # Later chunks of a shot do the work of the last one that was counted.
        before = [place for place in counted if place <= int(name.split(".")[1])]
        if not before:
            return None
        total += floors[f"{metric}.{before[-1]}"] * len(times)
    return total or None
