"""Which frames of past shots become context of the next shot, on plain numbers.

Source: ShotStream inference, context sampling (``dynamic_sample_frames``).
"""

from __future__ import annotations

from collections.abc import Sequence

from .._native import context_candidates, sample_context
from ..config import ContextChoice


def pick_context(
    frame_counts: Sequence[int], budget: int, choice: ContextChoice = "dynamic"
) -> list[tuple[int, int]]:
    """Pick the context of the next shot: ``(shot, frame in shot)``, oldest first.

    Args:
        frame_counts: decoded frames of each past shot, oldest first; none give no context.
        budget: frames to pick.
        choice: see ``CacheConfig``.
    """
    if choice == "dynamic" or not frame_counts:
        return sample_context(list(frame_counts), budget)
    return _pick_ends(frame_counts, budget, choice)


def _pick_ends(
    frame_counts: Sequence[int], budget: int, choice: ContextChoice
) -> list[tuple[int, int]]:
    """Pick first, or first and last, frames of the newest shots, and repeat them evenly."""
    offered = [
        (shot, frame)
        for shot, count in enumerate(frame_counts)
        for frame in frames_wanted(count, budget, choice)
    ][-budget:]
    base, extra = divmod(budget, len(offered))
    # If the budget does not divide evenly, the newest frames are repeated once more than others:
    # the original's sampling gives the newest shots most frames too.
    times = [base + (index >= len(offered) - extra) for index in range(len(offered))]
    return [pick for pick, count in zip(offered, times, strict=True) for _ in range(count)]


def repeated(frames: Sequence[int], count: int) -> list[int]:
    """Return ``count`` frames; where there are fewer, the newest are repeated once more."""
    base, extra = divmod(count, len(frames))
    times = [base + (number >= len(frames) - extra) for number in range(len(frames))]
    return [frame for frame, n in zip(frames, times, strict=True) for _ in range(n)]


def frames_wanted(frame_count: int, budget: int, choice: ContextChoice = "dynamic") -> list[int]:
    """Return, sorted, every frame of a shot that ``pick_context`` can pick, now or later.

    Args:
        frame_count: decoded frames of the shot.
        budget: frames that are picked for a context.
        choice: see ``CacheConfig``.
    """
    if choice == "dynamic":
        return context_candidates(frame_count, budget)
    return [0] if choice == "first" else sorted({0, frame_count - 1})
