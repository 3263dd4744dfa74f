"""Profiler marks of what happens in a film: from a request to the frame that shows it."""

from __future__ import annotations

from ..nvtx import mark
from ..types import Event

_SHOWS_A_REQUEST = ("shot_began", "prompt_applied")


def mark_event(event: Event) -> None:
    """Mark an event that frames are about; a listener of ``Session.on_event``."""
    if event.place is None:
        return
    if event.kind in _SHOWS_A_REQUEST:
        mark("applied", event.place.index, event.request or None)
    elif event.kind == "chunk_made":
        mark("frame.made", event.place.index)
