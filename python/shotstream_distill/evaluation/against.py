"""One evaluation against another of the same stories: how much of the other's adherence is reached.

Called by the evaluation, to compare a few-step student with the many-step teacher it came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shotstream_rt.errors import ConfigError

from .intervals import Estimate, resample
from .records import FilmRecord, read_records
from .report import shot_values

ADHERENCE_NAMES = (
    "place", "framing", "species", "color", "accessory", "direction", "action", "adherence",
)  # fmt: skip
"""Figures of what the captions ask for."""

LEAST_RATIO = 0.9
"""Within 10 % of the other; more than the other is no mistake."""

_SAME_RULER = ("detector", "shots")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One figure of these films divided by the same figure of the others.

    Attributes:
        estimate: resampled over stories, the two films of a story together.
        mine: the figure of these films, over the stories compared.
        other: the figure of the others.
    """

    estimate: Estimate
    mine: float
    other: float

    @property
    def within(self) -> str:
        """``yes`` or ``no`` where the whole interval says so, ``open`` otherwise."""
        if self.estimate.low >= LEAST_RATIO:
            return "yes"
        return "no" if self.estimate.high < LEAST_RATIO else "open"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            **self.estimate.as_dict(), "mine": self.mine, "other": self.other,
            "within": self.within,
        }  # fmt: skip


def paired_ratio(films: Sequence[FilmRecord], others: Sequence[FilmRecord], name: str) -> Ratio:
    """Compare one figure.

    Args:
        films: at least one.
        others: of the same stories in the same order.
        name: of ``ADHERENCE_NAMES``.

    Returns:
        The ratio; not a number where the other figure is 0 or nothing was asked.
    """
    sums = torch.tensor(
        [_sums(a, name) + _sums(b, name) for a, b in zip(films, others, strict=True)]
    )

    def means(rows: Tensor) -> tuple[float, float]:
        hits, trials, other_hits, other_trials = sums[rows].sum(0).tolist()
        return (
            hits / trials if trials else math.nan,
            other_hits / other_trials if other_trials else math.nan,
        )

    def ratio(rows: Tensor) -> float:
        mine, other = means(rows)
        return mine / other if other else math.nan

    mine, other = means(torch.arange(len(films)))
    return Ratio(estimate=resample(len(films), ratio), mine=mine, other=other)


def _sums(film: FilmRecord, name: str) -> list[float]:
    values = [value for shot in film.shots for value in shot_values(shot, name)]
    return [sum(values), float(len(values))]


def compare_records(
    films: Sequence[FilmRecord], file: Path, ruler: dict[str, Any]
) -> dict[str, Any]:
    """Compare films with those on record in a file, story by story.

    Args:
        films: of one source.
        file: records of another evaluation; its films of source ``model`` are compared.
        ruler: this evaluation's identity, as records begin with.

    Returns:
        Plain JSON types: ``file``, ``stories`` compared, ``limit``, and by name ``figures``.

    Raises:
        ConfigError: the file is none of records, was measured otherwise, or shares no story.
    """
    header, found = read_records(file)
    for name in _SAME_RULER:
        if header.get(name) != ruler[name]:
            raise ConfigError(
                f"against: {file} was measured with {name} {header.get(name)!r}, wanted "
                f"{ruler[name]!r}; measure it again"
            )
    pairs = [
        (film, other) for film in films if (other := found.get(("model", film.seed))) is not None
    ]
    if not pairs:
        raise ConfigError(
            f"against: {file} shares no story with these films; use the same --seed for both"
        )
    mine, others = [film for film, _ in pairs], [other for _, other in pairs]
    ratios = {name: paired_ratio(mine, others, name) for name in ADHERENCE_NAMES}
    return {
        "file": str(file), "stories": len(pairs), "limit": LEAST_RATIO,
        "figures": {
            name: ratio.as_dict()
            for name, ratio in ratios.items()
            if math.isfinite(ratio.estimate.value)
        },
    }  # fmt: skip
