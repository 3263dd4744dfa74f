"""One comparison with a golden tensor, its limit and its verdict."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT32_LIMIT = 1e-4
"""Largest relative error in float32 (the original's own spread is about 1e-6)."""

BFLOAT16_SLACK = 1.3
"""Factor on the original's own bfloat16 distance to float32."""

BFLOAT16_DISTANCE = {
    "network": 0.010,
    "rollout": 0.010,
    "decode": 0.016,
    "encode": 0.026,
    "context": 0.07,
    "grey_levels": 0.55,
}
"""The original's own bfloat16 distances, relative l2 (grey levels: mean absolute).

Source: README of the golden vectors.
"""


@dataclass(frozen=True, slots=True)
class Check:
    """A compared tensor.

    Attributes:
        name: of the tensor.
        error: relative l2, or mean absolute grey levels.
        limit: largest error that passes; 0 means equal to the last bit.
    """

    name: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the error is a number within the limit."""
        return self.error <= self.limit


@dataclass(frozen=True, slots=True)
class CaseReport:
    """All comparisons of one golden file."""

    case: str
    checks: list[Check]

    @property
    def passed(self) -> bool:
        """Whether there were checks and all passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def worst(self) -> Check:
        """The check nearest to its limit, or furthest beyond it."""
        return max(self.checks, key=lambda c: c.error / c.limit if c.limit else c.error * 1e30)


def relative_error(got: Tensor, golden: Tensor) -> float:
    """``||got - golden|| / ||golden||`` in float64; infinite for other shapes."""
    if got.shape != golden.shape:
        return float("inf")
    got, golden = got.double().cpu(), golden.double()
    norm = torch.linalg.vector_norm(golden)
    error = torch.linalg.vector_norm(got - golden)
    return float(error / norm) if norm > 0 else float(error)


def compare(name: str, got: Tensor, golden: Tensor, dtype: torch.dtype, kind: str) -> Check:
    """Compare under the limit of a type.

    Args:
        name: of the tensor.
        got: recomputed.
        golden: float32.
        dtype: the type ``got`` was computed in.
        kind: key of ``BFLOAT16_DISTANCE``.
    """
    limit = FLOAT32_LIMIT
    if dtype != torch.float32:
        limit = BFLOAT16_SLACK * BFLOAT16_DISTANCE[kind]
    return Check(name, relative_error(got, golden), limit)


def exact(name: str, got: Tensor, golden: Tensor) -> Check:
    """Compare to the last bit; the error is the largest absolute difference.

    Args:
        name: of the tensor.
        got: recomputed.
        golden: what it must be equal to.
    """
    if got.shape != golden.shape:
        return Check(name, float("inf"), 0.0)
    return Check(name, float((got.double() - golden.double()).abs().max()), 0.0)
