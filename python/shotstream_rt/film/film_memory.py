"""What later shots see of a film's past, as far as callers say it: frames pinned, shots forgotten.

Every method may be called from any thread, and counts from the next shot on.
"""

from __future__ import annotations

from ..errors import ConfigError
from ..printable import listed
from ..types import MemoryFrame
from .context import ContextSelector
from .timeline import Timeline


class FilmMemory:
    """Changes what a film remembers.

    Args:
        timeline: has what was asked for.
        selector: keeps the frames.
    """

    def __init__(self, timeline: Timeline, selector: ContextSelector) -> None:
        self._timeline, self._selector = timeline, selector

    def frames(self) -> tuple[MemoryFrame, ...]:
        """Return the frames that the next shot would see if it began now."""
        with self._timeline.lock:
            self._show()
            return self._selector.remembered()

    def pin(self, index: int) -> None:
        """Let every later shot see a frame.

        Args:
            index: its number in the film.

        Raises:
            ConfigError: it is not kept, or as many are pinned as a shot sees.
        """
        timeline = self._timeline
        with timeline.lock:
            kept = self._selector.kept_frames()
            if index not in kept:
                raise ConfigError(
                    f"pin: got frame {index}, which is not kept; wanted one of the shot being made "
                    f"or of {listed(sorted(kept))}"
                )
            if len(timeline.pins | {index}) > self._selector.budget:
                raise ConfigError(
                    f"pin: {listed(sorted(timeline.pins))} are pinned, and a shot sees "
                    f"{self._selector.budget} frames; unpin one"
                )
            timeline.pins.add(index)
            self._show()

    def unpin(self, index: int) -> None:
        """Take ``pin`` back.

        Raises:
            ConfigError: the frame is not pinned.
        """
        with self._timeline.lock:
            if index not in self._timeline.pins:
                pinned = listed(sorted(self._timeline.pins)) or "none"
                raise ConfigError(f"unpin: got frame {index}, wanted a pinned one ({pinned})")
            self._timeline.pins.remove(index)

    def forget(self, shot: int) -> None:
        """Let no later shot see anything of a shot.

        Args:
            shot: its number.

        Raises:
            ConfigError: nothing is kept of it.
        """
        timeline = self._timeline
        with timeline.lock:
            kept = self._selector.kept_frames()
            if shot not in kept.values():
                known = listed(sorted({*kept.values()})) or "none"
                raise ConfigError(f"forget: got shot {shot}, wanted one that is kept ({known})")
            timeline.forgotten.add(shot)
            timeline.pins -= {frame for frame, of in kept.items() if of == shot}
            self._show()

    def _show(self) -> None:
        """Tell the selector what is pinned and forgotten."""
        timeline, selector = self._timeline, self._selector
        timeline.recalls = True
        selector.picker.pins = frozenset(timeline.pins)
        selector.picker.forgotten = frozenset(timeline.forgotten)
        selector.wanted = timeline.wanted_frames()
