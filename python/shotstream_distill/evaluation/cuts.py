"""Finds the cuts of a film, and counts them against those asked for.

Called by the evaluation. A cut is a frame that differs from the one before it far more than the
frames around it do (``candidates``) and that shows something else: other characters, other places
for them, another size, or another background (``confirmed``). The second test is needed because a
dancer who turns round changes as many pixels at once as a small cut does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .detectors import Detector, Sight

# Fitted to drawn films and their codec reconstructions, see docs/evaluation.md. Where a cut keeps
# its cast, characters move by at least 9.9 % of the frame or grow by 74 %, and the background
# changes by 4 %. A drawn character covers at least 5.2 % of the frame, what the segmenter sees
# where there is none at most 2.9 %.
_LEAST_CHANGE = 0.025
_OVER_TYPICAL = 2.5
_OVER_LARGEST = 1.1
_NEIGHBOURS = 24
_FLOOR = 0.002
_LEAST_AREA = 0.03
_MOVED = 0.09
_GROWN = 1.4
_BACKGROUND = 0.03
TOLERANCE_FRAMES = 1
"""A found cut counts for an asked one this near to it."""


def frame_changes(film: Tensor) -> Tensor:
    """Mean absolute change ``[P - 1]`` of consecutive frames ``[P, 3, H, W]`` at quarter size."""
    small = torch.cat([F.avg_pool2d(part, 4) for part in film.split(81)])
    return (small[1:] - small[:-1]).abs().mean((1, 2, 3))


def candidates(changes: Tensor) -> list[int]:
    """Return frames that stand out from their surroundings; ``changes[i]`` leads to frame i + 1."""
    found = []
    for index, value in enumerate(changes.tolist()):
        before = changes[max(0, index - _NEIGHBOURS) : index]
        around = torch.cat((before, changes[index + 1 : index + 1 + _NEIGHBOURS]))
        typical, largest = float(around.median()) + _FLOOR, float(around.max()) + _FLOOR
        if value > max(_LEAST_CHANGE, _OVER_TYPICAL * typical, _OVER_LARGEST * largest):
            found.append(index + 1)
    return found


def differs(sight: Sight) -> bool:
    """Return whether two frames (rows 0 and 1) show different things.

    That is: another set of species, one that moved by more than 9 % of the frame or grew or
    shrank by more than 40 %, or a background that changed by more than 3 % of the brightness.
    """
    rows = torch.linspace(0, 1, sight.classes.shape[1])[:, None]
    columns = torch.linspace(0, 1, sight.classes.shape[2])[None]
    for label in range(1, 5):
        masks = (sight.classes == label).float()
        areas = masks.mean((1, 2))
        if float(areas.max()) < _LEAST_AREA:
            continue
        if float(areas.min()) < _LEAST_AREA or float(areas.max() / areas.min()) > _GROWN:
            return True
        x = (masks * columns).mean((1, 2)) / areas
        y = (masks * rows).mean((1, 2)) / areas
        if max(float((x[1] - x[0]).abs()), float((y[1] - y[0]).abs())) > _MOVED:
            return True
    # Edges of characters are left out: they move a little all the time.
    filled = F.max_pool2d((sight.classes > 0).float()[:, None], 5, 1, 2)[:, 0]
    empty = (filled == 0).all(0)
    if not bool(empty.any()):
        return False
    change = (sight.small[1] - sight.small[0]).abs().mean(0)[empty]
    return float(change.mean()) > _BACKGROUND


def find_cuts(film: Tensor, detector: Detector) -> list[int]:
    """Return the frames at which new shots begin.

    Args:
        film: ``[P, 3, 96, 160]`` in [0, 1], consecutive frames.
        detector: reads the frames around a candidate.

    Cost:
        About 40 ms for 405 frames and 10 ms a candidate on one CPU core.
    """
    return [
        frame
        for frame in candidates(frame_changes(film))
        if differs(detector.see(film[frame - 1 : frame + 1]))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutCount:
    """Cuts that were asked for and found, asked for and not found, found and not asked for."""

    hits: int
    missed: int
    false: int

    @classmethod
    def compare(cls, found: Sequence[int], wanted: Sequence[int]) -> CutCount:
        """Match each asked cut to the nearest free found one within the tolerance."""
        free = list(found)
        hits = 0
        for frame in wanted:
            near = [f for f in free if abs(f - frame) <= TOLERANCE_FRAMES]
            if near:
                free.remove(min(near, key=lambda f: abs(f - frame)))
                hits += 1
        return cls(hits=hits, missed=len(wanted) - hits, false=len(free))

    @property
    def exact(self) -> bool:
        """Whether every cut and no other was found."""
        return self.missed == 0 and self.false == 0
