"""Reads what a character does off its silhouette's path through a shot.

Called by the evaluation. Positions are shares of the frame, times seconds. In close-ups the camera
follows walks and jumps in part: a walker still crosses the frame in its direction, but a jump shows
mostly as the background moving, so the camera's height is found first and added.

The limits below stand where drawn shots of different actions lie farthest apart; how often they
decide rightly on drawn shots and on codec reconstructions is in docs/evaluation.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_WALK_PER_S = 0.022
_SWAY = 0.030
_BOUNCE = 0.050
_LEAST_AREA = 0.006
_LEAST_FRAMES = 6
_REACH_ROWS = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """How a silhouette moved.

    Attributes:
        slope_per_s: typical horizontal speed, frame widths a second, positive to the right.
        sway: width of what is left beside that line, frame widths (5 % to 95 %).
        bounce: height of its movement in the scene, frame heights (5 % to 95 %).
        frames: frames it was seen in.
    """

    slope_per_s: float
    sway: float
    bounce: float
    frames: int

    @property
    def action(self) -> str:
        """The action it looks like; ``none`` when seen too rarely."""
        if self.frames < _LEAST_FRAMES:
            return "none"
        if abs(self.slope_per_s) > _WALK_PER_S:
            return "walks-right" if self.slope_per_s > 0 else "walks-left"
        if self.sway > _SWAY and self.sway > 1.2 * self.bounce:
            return "dances"
        return "jumps" if self.bounce > _BOUNCE else "stands-still"


def _spread(values: Tensor) -> float:
    low, high = (float(values.quantile(q)) for q in (0.05, 0.95))
    return high - low


def camera_rows(small: Tensor, subjects: Tensor) -> Tensor:
    """Estimate how far the background moved down since the middle frame.

    Args:
        small: ``[T, 3, h, w]`` frames.
        subjects: bool ``[T, h, w]``, where characters are.

    Returns:
        ``[T]`` shares of the frame's height, the shift with the least difference outside
        characters, among at most 14 rows either way.
    """
    count, _, height, _ = small.shape
    middle = count // 2
    costs = []
    for shift in range(-_REACH_ROWS, _REACH_ROWS + 1):
        here = slice(max(0, shift), height + min(0, shift))
        there = slice(max(0, -shift), height + min(0, -shift))
        free = ~(subjects[:, here] | subjects[middle : middle + 1, there])
        change = (small[:, :, here] - small[middle : middle + 1, :, there]).abs().mean(1)
        costs.append((change * free).sum((1, 2)) / free.sum((1, 2)).clamp(min=1))
    # A small cost of moving decides where the picture shows nothing.
    price = 1e-4 * torch.arange(-_REACH_ROWS, _REACH_ROWS + 1).abs()[:, None]
    return (torch.stack(costs) + price).argmin(0).sub(_REACH_ROWS) / height


def follow(masks: Tensor, times_s: Tensor, camera: Tensor) -> Path:
    """Follow one silhouette.

    Args:
        masks: bool ``[T, h, w]``.
        times_s: ``[T]`` seconds.
        camera: ``[T]`` of ``camera_rows``.
    """
    weight = masks.float()
    areas = weight.mean((1, 2))
    seen = areas > _LEAST_AREA
    frames = int(seen.sum())
    if frames < 2:
        return Path(slope_per_s=0.0, sway=0.0, bounce=0.0, frames=frames)
    rows = torch.linspace(0, 1, masks.shape[1])[:, None]
    columns = torch.linspace(0, 1, masks.shape[2])[None]
    x = ((weight * columns).mean((1, 2)) / areas.clamp(min=1e-6))[seen]
    y = ((weight * rows).mean((1, 2)) / areas.clamp(min=1e-6) - camera)[seen]
    t = times_s[seen]
    # The median over all pairs of frames ignores the few in which parts are missing.
    first, second = torch.triu_indices(frames, frames, 1)
    slope = float(((x[second] - x[first]) / (t[second] - t[first])).median())
    return Path(
        slope_per_s=slope, sway=_spread(x - slope * t), bounce=_spread(y), frames=frames
    )  # fmt: skip
