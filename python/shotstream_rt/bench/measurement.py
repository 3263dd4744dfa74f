"""What a run of a workload hands to the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shotstream_rt.backends.base import BackendInfo

from .record import Correctness, Metric

_UNITS = {"s": "s", "ms": "ms", "fps": "fps", "mib": "MiB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Samples and their check.

    Attributes:
        info: what the backend resolved to.
        samples: by metric name, which ends in its unit; ``speedup`` is a ratio.
        correctness: distance to the oracle.
        timer: how time was read.
        consumer: ``fast`` (takes every frame at once) or ``none``.
    """

    info: BackendInfo
    samples: Mapping[str, Sequence[float]]
    correctness: Correctness
    timer: str
    consumer: str

    def metrics(self) -> tuple[Metric, ...]:
        """Return the statistics of every non-empty sample, in the order of names."""
        return tuple(
            Metric.of(name, unit_of(name), values)
            for name, values in sorted(self.samples.items())
            if values
        )


def unit_of(name: str) -> str:
    """Return the unit that a metric's name ends in; ``x`` for a ratio."""
    return _UNITS.get(name.split(".")[0].rsplit("_", 1)[-1], "x")
