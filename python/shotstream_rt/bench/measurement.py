"""What a run of a workload hands to the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from shotstream_rt.backends.base import BackendInfo
from shotstream_rt.config import ShotConfig

from .fidelity import Fidelity
from .metric import Metric
from .record import Correctness
from .roofline import Roofline
from .shot_inputs import FRAMES_PER_LATENT, frames_of

if TYPE_CHECKING:
    from .baseline import Baseline

_UNITS = {
    "s": "s", "ms": "ms", "fps": "fps", "mib": "MiB", "db": "dB", "chunks": "chunks",
    "frames": "frames", "ratio": "ratio", "count": "count", "encodes": "encodes",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Samples and their check.

    Attributes:
        info: what the backend resolved to.
        samples: by metric name, which ends in its unit.
        correctness: distance to the oracle; None while it has not run.
        timer: how time was read.
        consumer: ``fast`` (takes every frame at once), ``paced`` (at a rate), ``players`` (of a
            server) or ``none``.
        baseline: the plain baseline's samples by the same names; None where it was not asked for.
        fidelity: distance of a lossy profile to ``exact``.
        roofline: floors of the stages, if asked for.
        notes: what else belongs to how it was measured, for ``BenchRecord.method``.
    """

    info: BackendInfo
    samples: Mapping[str, Sequence[float]]
    correctness: Correctness | None
    timer: str
    consumer: str
    baseline: Baseline | None = None
    fidelity: Fidelity | None = None
    roofline: Roofline | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def metrics(self) -> tuple[Metric, ...]:
        """Return the statistics of every non-empty sample, in the order of names."""
        beside = {} if self.baseline is None else self.baseline.samples
        return tuple(
            Metric.of(name, unit_of(name), values, beside.get(name, ()))
            for name, values in sorted(self.samples.items())
            if values
        )

    def medians(self) -> dict[str, float]:
        """Return every metric's median, and as ``NAME.ratio`` its ratio to the baseline's."""
        found: dict[str, float] = {}
        for metric in self.metrics():
            found[metric.name] = metric.p50
            if metric.ratio is not None:
                found[f"{metric.name}.ratio"] = metric.ratio
        return found


SaveUnchecked = Callable[[Measurement], None]
"""Called once all samples are there, before the correctness check takes its time."""


def add_rates(samples: dict[str, list[float]], shot: ShotConfig) -> None:
    """Add ``denoise_fps`` per shot, and ``worst_chunk_fps`` at the shot's slowest position.

    The latter counts a full chunk's frames over its denoising and a median clean pass.
    """
    frames = frames_of(shot.shot_frames)
    samples["denoise_fps"] = [frames / seconds for seconds in samples["shot_s"]]
    positions = [samples[name] for name in samples if name.startswith("chunk_ms.")]
    slowest = max(positions, key=median)
    commit_ms = median(samples.get("commit_ms") or [0.0])
    full = FRAMES_PER_LATENT * shot.chunk_frames
    samples["worst_chunk_fps"] = [full * 1e3 / (chunk_ms + commit_ms) for chunk_ms in slowest]


def unit_of(name: str) -> str:
    """Return the unit that a metric's name ends in; ``x`` for a ratio."""
    return _UNITS.get(name.split(".")[0].rsplit("_", 1)[-1], "x")
