"""Signed distances of simple shapes, and painting with them.

Called by ``characters`` and ``places``. Distances are approximately Euclidean, negative inside, in
the units of the coordinates given. All tensors broadcast over ``[T, H, W]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Color = Sequence[float]

WHITE: Color = (1.0, 1.0, 1.0)
INK: Color = (0.07, 0.06, 0.10)


def ellipse(x: Tensor, y: Tensor, cx: float, cy: float, rx: float, ry: float) -> Tensor:
    """Distance to an ellipse around (cx, cy).

    Args:
        x: of the pixels, broadcasting with ``y``.
        y: alike, downwards.
        cx: of the middle.
        cy: of the middle.
        rx: half width.
        ry: half height.
    """
    squared = ((x - cx) / rx).square() + ((y - cy) / ry).square()
    return ((squared + 1e-9).sqrt() - 1) * min(rx, ry)


def box(
    x: Tensor, y: Tensor, cx: float, cy: float, rx: float, ry: float, corner: float = 0.02
) -> Tensor:
    """Distance to an upright box of half sizes (rx, ry) with rounded corners.

    Args:
        x: of the pixels, broadcasting with ``y``.
        y: alike, downwards.
        cx: of the middle.
        cy: of the middle.
        rx: half width.
        ry: half height.
        corner: radius of the corners.
    """
    qx, qy = (x - cx).abs() + (corner - rx), (y - cy).abs() + (corner - ry)
    outside = (qx.clamp(min=0).square() + qy.clamp(min=0).square() + 1e-12).sqrt()
    return outside + torch.maximum(qx, qy).clamp(max=0) - corner


def capsule(
    x: Tensor,
    y: Tensor,
    start: tuple[float | Tensor, float | Tensor],
    end: tuple[float | Tensor, float | Tensor],
    radius: float,
) -> Tensor:
    """Distance to a thick line; its ends may move with time.

    Args:
        x: of the pixels, broadcasting with ``y``.
        y: alike, downwards.
        start: one end of the line, (x, y).
        end: the other end.
        radius: half of the thickness.
    """
    dx, dy = end[0] - start[0], end[1] - start[1]
    px, py = x - start[0], y - start[1]
    along = ((px * dx + py * dy) / (dx * dx + dy * dy + 1e-9)).clamp(0, 1)
    return ((px - along * dx).square() + (py - along * dy).square() + 1e-12).sqrt() - radius


def triangle(
    x: Tensor, y: Tensor, tip: tuple[float, float], base: tuple[float, float], base_y: float
) -> Tensor:
    """Distance to a triangle from ``tip`` to the horizontal base (left, right) at ``base_y``.

    Args:
        x: of the pixels, broadcasting with ``y``.
        y: alike, downwards.
        tip: its corner off the base, (x, y).
        base: left and right end of the base.
        base_y: height of the base.
    """
    height = base_y - tip[1]
    sign = 1.0 if height > 0 else -1.0
    edges = [
        ((x - tip[0]) * height - (y - tip[1]) * (foot - tip[0]))
        / math.hypot(height, foot - tip[0])
        * sign
        for foot in base
    ]
    return torch.maximum(torch.maximum(-edges[0], edges[1]), (y - base_y) * sign)


def union(*distances: Tensor) -> Tensor:
    """Distance to the nearest of several shapes."""
    nearest = distances[0]
    for distance in distances[1:]:
        nearest = torch.minimum(nearest, distance)
    return nearest


def coverage(distance: Tensor, softness: Tensor | float) -> Tensor:
    """Opacity in [0, 1] of a shape whose edge is ``softness`` wide."""
    return torch.clamp(0.5 - distance / softness, 0, 1)


def blend(first: Color, second: Color, amount: float) -> list[float]:
    """Mix two colours.

    Args:
        first: RGB in [0, 1].
        second: alike.
        amount: share of the second.
    """
    return [a + (b - a) * amount for a, b in zip(first, second, strict=True)]


def tinted(color: Color, offset: Color) -> list[float]:
    """Add an offset and stay in [0, 1]."""
    return [min(1.0, max(0.0, a + b)) for a, b in zip(color, offset, strict=True)]


def paint(image: Tensor, opacity: Tensor, color: Color) -> None:
    """Lay a colour over an image, in place.

    Args:
        image: ``[3, T, H, W]``.
        opacity: broadcasts to ``[T, H, W]``.
        color: three values in [0, 1].
    """
    value = torch.tensor(list(color), dtype=image.dtype).view(3, 1, 1, 1)
    image.lerp_(value, opacity.expand(image.shape[1:]).unsqueeze(0).expand_as(image))
