"""What a run of a workload hands to the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from shotstream_rt.backends.base import BackendInfo
from shotstream_rt.config import ShotConfig

from .fidelity import Fidelity
from .metric import Metric
from .record import Correctness
from .roofline import Roofline
from .shot_inputs import FRAMES_PER_LATENT, frames_of
from .stopwatch import Stopwatch

_UNITS = {"s": "s", "ms": "ms", "fps": "fps", "mib": "MiB", "db": "dB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Samples and their check.

    Attributes:
        info: what the backend resolved to.
        samples: by metric name, which ends in its unit.
        correctness: distance to the oracle.
        timer: how time was read.
        consumer: ``fast`` (takes every frame at once) or ``none``.
        baseline: the plain baseline's samples by the same names; empty where it was not asked for.
        fidelity: distance of a lossy profile to ``exact``.
        roofline: floors of the stages, if asked for.
    """

    info: BackendInfo
    samples: Mapping[str, Sequence[float]]
    correctness: Correctness
    timer: str
    consumer: str
    baseline: Mapping[str, Sequence[float]] = field(default_factory=dict)
    fidelity: Fidelity | None = None
    roofline: Roofline | None = None

    def metrics(self) -> tuple[Metric, ...]:
        """Return the statistics of every non-empty sample, in the order of names."""
        return tuple(
            Metric.of(name, unit_of(name), values, self.baseline.get(name, ()))
            for name, values in sorted(self.samples.items())
            if values
        )


NOT_COMPARABLE = ("caption_kv_ms", "context_pass_ms")
"""Stages that the baseline cuts elsewhere: it makes caption keys in the context pass."""


def baseline_samples(watch: Stopwatch, shot: ShotConfig) -> dict[str, list[float]]:
    """Return what the baseline measured under the names of stages that both have, with rates."""
    samples = watch.samples()
    if samples:
        add_rates(samples, shot)
    return {name: values for name, values in samples.items() if name not in NOT_COMPARABLE}


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
