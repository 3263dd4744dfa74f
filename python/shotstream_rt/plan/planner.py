"""The native core's planner for a configuration: it turns shots and chunks into integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _native

if TYPE_CHECKING:
    from ..config import StreamConfig


def planner_of(config: StreamConfig) -> _native.Planner:
    """Return the planner of every pass of a film; equal configurations give equal plans."""
    return _native.Planner(
        context_frames=config.cache.context_frames,
        chunk_frames=config.shot.chunk_frames,
        shot_frames=config.shot.shot_frames,
        sink_frames=config.cache.sink_frames,
        window_frames=config.cache.window_frames or 0,
        rotate_on_read=config.cache.key_rotation == "on_read",
        number_by_slot=config.cache.numbering == "slot",
    )
