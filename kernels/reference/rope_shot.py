"""Three-axis rotary embedding with a phase jump per shot.

The ``c = D / 2`` feature pairs ``(2j, 2j + 1)`` of a head are split over time, height and width:
``c - 2 * (c // 3)``, ``c // 3`` and ``c // 3`` of them. Pair ``i`` of an axis with ``n`` pairs
is rotated by ``position * 10000^(-i / n)``; the shot phase is added to the angle of every time
pair, whatever its frequency.

Source: ShotStream ``wan/modules/causal_model.py`` (``causal_rope_apply_dynamic``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SHOT_PHASE_RAD = 1 / 6
"""Phase added per shot number (the original's ``theta``)."""


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Return how many of the ``head_dim / 2`` pairs rotate with time, height and width."""
    pairs = head_dim // 2
    return pairs - 2 * (pairs // 3), pairs // 3, pairs // 3


def axis_frequencies(head_dim: int) -> list[Tensor]:
    """Return by how much each pair of an axis turns per position, float64 ``[pairs]`` per axis."""
    return [10000.0 ** (-torch.arange(n, dtype=torch.float64) / n) for n in axis_pairs(head_dim)]


def rope_angles(
    positions: Sequence[float] | Tensor,
    phases_rad: Sequence[float] | Tensor,
    grid: tuple[int, int],
    head_dim: int,
) -> Tensor:
    """Angles of every token of some latent frames.

    Args:
        positions: temporal position of each of the ``F`` frames.
        phases_rad: shot phase of each frame in radians.
        grid: token rows and columns of a frame.
        head_dim: features per head, even.

    Returns:
        float64 ``[F * rows * columns, head_dim / 2]``; columns are time | height | width.
    """
    frequencies = axis_frequencies(head_dim)
    rows, columns = grid
    time = torch.as_tensor(positions, dtype=torch.float64)[:, None] * frequencies[0]
    time = time + torch.as_tensor(phases_rad, dtype=torch.float64)[:, None]
    height = torch.arange(rows, dtype=torch.float64)[:, None] * frequencies[1]
    width = torch.arange(columns, dtype=torch.float64)[:, None] * frequencies[2]
    frames = time.shape[0]
    angles = torch.cat(
        [
            time.view(frames, 1, 1, -1).expand(frames, rows, columns, -1),
            height.view(1, rows, 1, -1).expand(frames, rows, columns, -1),
            width.view(1, 1, columns, -1).expand(frames, rows, columns, -1),
        ],
        dim=-1,
    )
    return angles.reshape(frames * rows * columns, -1)


def rotation(angles: Tensor, scale: float = 1.0) -> Tensor:
    """Tabulate ``scale * exp(i * angle)`` as complex64, for ``rotate``."""
    return torch.polar(torch.full_like(angles, scale), angles).to(torch.complex64)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate every feature pair: ``(a, b) -> (a cos - b sin, a sin + b cos)``.

    Args:
        x: ``[..., T, N, D]``.
        table: complex64 ``[T, D / 2]`` (or with leading axes like those of ``x``).

    Returns:
        Like ``x``; float32 inside.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table.unsqueeze(-2)).flatten(-2).to(x.dtype)
