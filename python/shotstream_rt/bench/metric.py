"""One measured quantity: its statistics, and those of the baseline beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_RISING = ("fps", "GB/s", "TFLOP/s", "x", "ratio", "dB", "%")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """Statistics of one measured quantity.

    Attributes:
        name: such as ``chunk_ms`` or, for the third chunk of a shot alone, ``chunk_ms.3``.
        unit: ``s``, ``ms``, ``fps``, ``MiB``, ``GB/s``, ``TFLOP/s``, ``dB``, ``chunks`` (a time in
            those of a chunk), ``encodes`` (a time in those of encoding a frame), ``frames``,
            ``count``, ``ratio`` (a part of a whole, 0 to 1) or ``x`` (how many times better).
        n: number of samples.
        min: smallest sample.
        p50: median.
        p95: 95th percentile, linearly interpolated.
        p99: 99th percentile.
        max: largest sample.
        baseline_n: samples of the plain baseline in the same run; None where it was not measured.
        baseline_p50: their median.
        baseline_best: the best of them.
        ratio: how many times better the median is than the baseline's.
        best_ratio: how many times better the best sample is than the baseline's best.
    """

    name: str
    unit: str
    n: int
    min: float
    p50: float
    p95: float
    p99: float
    max: float
    baseline_n: int | None = None
    baseline_p50: float | None = None
    baseline_best: float | None = None
    ratio: float | None = None
    best_ratio: float | None = None

    @classmethod
    def of(
        cls, name: str, unit: str, samples: Sequence[float], baseline: Sequence[float] = ()
    ) -> Metric:
        """Summarise samples, beside those of the baseline.

        Args:
            name: such as ``chunk_ms``.
            unit: of the samples, such as ``ms``.
            samples: at least one.
            baseline: the plain baseline's samples of the same metric; empty for none.
        """
        low, p50, p95, p99, high = (
            round(float(value), 6) for value in np.percentile(samples, (0, 50, 95, 99, 100))
        )
        metric = cls(
            name=name, unit=unit, n=len(samples), min=low, p50=p50, p95=p95, p99=p99, max=high
        )
        return metric._beside(cls.of(name, unit, baseline)) if baseline else metric

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is the better one."""
        return self.unit in _RISING

    @property
    def best(self) -> float:
        """The best sample."""
        return self.max if self.higher_is_better else self.min

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without the fields of a baseline that was not measured."""
        data = dataclasses.asdict(self)
        return {key: value for key, value in data.items() if value is not None}

    def _beside(self, baseline: Metric) -> Metric:
        return dataclasses.replace(
            self,
            baseline_n=baseline.n,
            baseline_p50=baseline.p50,
            baseline_best=baseline.best,
            ratio=self._times_better(self.p50, baseline.p50),
            best_ratio=self._times_better(self.best, baseline.best),
        )

    def _times_better(self, value: float, base: float) -> float | None:
        better, worse = (value, base) if self.higher_is_better else (base, value)
        return round(better / worse, 4) if worse > 0 else None
