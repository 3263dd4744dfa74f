"""What the next cut of a film will see, as its viewers are shown it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..errors import SessionClosedError
from ..session import Session
from ..types import MemoryFrame
from .from_server import Memory, RememberedFrame
from .pictures import small_picture


class ShownMemory:
    """Finds out what a film remembers, and tells it when it has changed.

    Used on the event loop's thread.

    Args:
        tell: called with the message.

    Attributes:
        message: what was told last; None before.
    """

    def __init__(self, tell: Callable[[Memory], None]) -> None:
        self._tell = tell
        self.message: Memory | None = None
        self._known: tuple[tuple[int, int, bool], ...] = ()
        self._looking: asyncio.Task[None] | None = None

    def refresh(self, session: Session) -> None:
        """Begin to find out, unless that is under way.

        Args:
            session: makes the film; where it is closed meanwhile, nothing is told.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look(session))

    async def _look(self, session: Session) -> None:
        try:
            seen = await asyncio.to_thread(_memory_of, session)
        except SessionClosedError:
            return
        known = tuple((frame.shot, frame.index, frame.pinned) for frame in seen)
        if known == self._known:
            return
        self._known = known
        self.message = Memory(
            frames=tuple(
                RememberedFrame(
                    shot=frame.shot,
                    index=frame.index,
                    pinned=frame.pinned,
                    picture=small_picture(frame.picture),
                )
                for frame in seen
            )
        )
        self._tell(self.message)


def _memory_of(session: Session) -> tuple[MemoryFrame, ...]:
    """Return what the next cut will see; this waits for the device."""
    return session.memory
