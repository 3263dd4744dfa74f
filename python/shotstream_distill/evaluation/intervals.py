"""Shares and means with their 95 % intervals.

Called by whatever reports a figure. Shares of independent trials get Wilson's interval; means,
correlations and other statistics of stories are resampled over whole stories, because the shots of
one story are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_Z95 = 1.959964
_ROUNDS = 1000


@dataclass(slots=True, kw_only=True)
class Share:
    """Hits out of trials, with a 95 % Wilson interval."""

    hits: int = 0
    trials: int = 0

    @classmethod
    def of(cls, answers: Iterable[bool | None]) -> Share:
        """Count answers; ``None`` is no trial."""
        share = cls()
        for answer in answers:
            if answer is not None:
                share.add(answer)
        return share

    def add(self, hit: bool) -> None:
        """Count one trial."""
        self.hits += hit
        self.trials += 1

    @property
    def value(self) -> float:
        """The share, 0 without trials."""
        return self.hits / self.trials if self.trials else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound. Source: Wilson (1927)."""
        if not self.trials:
            return 0.0, 1.0
        n, p, z2 = self.trials, self.value, _Z95**2
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def estimate(self) -> Estimate:
        """Return the share and its interval as plain numbers."""
        low, high = self.interval
        return Estimate(value=self.value, low=low, high=high, n=self.trials)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure, its 95 % interval, and how many values it rests on."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        """Return plain JSON types."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}

    def apart_from(self, other: Estimate) -> bool:
        """Return whether the two intervals do not overlap."""
        return self.high < other.low or other.high < self.low


def resample(
    count: int, statistic: Callable[[Tensor], float], *, n: int | None = None,
    rounds: int = _ROUNDS, seed: int = 0,
) -> Estimate:  # fmt: skip
    """Bootstrap a statistic of stories (percentile interval).

    Args:
        count: stories, at least 1.
        statistic: maps story numbers, int64 ``[count]`` with repetitions, to a figure; not a
            number where it is undefined, such rounds are left out.
        n: values behind the figure; default: ``count``.
        rounds: resamplings.
        seed: of the resampling, so that a report is reproducible.

    Source: Efron (1979).
    """
    generator = torch.Generator().manual_seed(seed)
    value = statistic(torch.arange(count))
    draws = torch.randint(count, (rounds, count), generator=generator)
    found = torch.tensor([statistic(draw) for draw in draws], dtype=torch.float64)
    found = found[found.isfinite()]
    low, high = (found.quantile(q).item() for q in (0.025, 0.975)) if len(found) else (value, value)
    return Estimate(value=value, low=low, high=high, n=count if n is None else n)


def mean_over_stories(values: Sequence[Sequence[float]], *, seed: int = 0) -> Estimate | None:
    """Mean of all values, each story's together; ``None`` without any.

    Args:
        values: per story its values, of any number; those that are not finite are left out.
        seed: of the resampling.
    """
    finite = [[v for v in story if math.isfinite(v)] for story in values]
    kept = [story for story in finite if story]
    if not kept:
        return None
    sums = torch.tensor([sum(story) for story in kept], dtype=torch.float64)
    counts = torch.tensor([len(story) for story in kept], dtype=torch.float64)

    def statistic(rows: Tensor) -> float:
        return float(sums[rows].sum() / counts[rows].sum())

    return resample(len(kept), statistic, n=int(counts.sum()), seed=seed)
