"""Taking turns: how films that share a device are told when each may compute its next chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Turn(Protocol):
    """One film's turns at a device.

    A film asks before each chunk and gives its turn back behind it. It never waits in here: who has
    to wait is woken later, and asks again. So a film that is closed, paused or asked for something
    else meanwhile is never held up.

    Attributes:
        held: whether the film has the turn.
    """

    held: bool

    def take(self, ahead_frames: int, wake: Callable[[], object]) -> bool:
        """Ask for the turn, and tell whether the film has it; may be repeated while it waits.

        Called with the film's lock held: it must neither wait nor call ``wake``.

        Args:
            ahead_frames: frames that are made, or being decoded, and not read yet.
            wake: called from another thread when the film has the turn.
        """
        ...

    def give_back(self, frames: int = 0) -> None:
        """Give the turn back, or stop waiting for it.

        Args:
            frames: of the chunk that was made and is decoded next; 0 if none was.
        """
        ...

    def decoded(self) -> None:
        """Tell that a chunk that was made is decoded, or is not wanted any more."""
        ...
