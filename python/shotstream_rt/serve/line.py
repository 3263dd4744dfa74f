"""Which films play and which wait in line, because others play as many as can in real time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable


class Line:
    """First come, first served. Used on the event loop's thread.

    Args:
        capacity: returns how many films can play now; it may change at any time.
    """

    def __init__(self, capacity: Callable[[], int]) -> None:
        self._capacity = capacity
        self._playing: set[str] = set()
        self._waiting: OrderedDict[str, asyncio.Future[None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def playing(self) -> int:
        """How many films play."""
        return len(self._playing)

    @property
    def has_room(self) -> bool:
        """Whether a film that comes now would not have to wait."""
        return not self._waiting and len(self._playing) < self._capacity()

    def position(self, id: str) -> int:
        """Return a film's place in the line, from 1; 0 if it does not wait."""
        return next((at for at, other in enumerate(self._waiting, 1) if other == id), 0)

    async def enter(self, id: str) -> None:
        """Return when a film may play; until it leaves, it does.

        Args:
            id: of a film that does not wait; one that took its place before has it.

        Raises:
            Exception: what was given to ``turn_away``.
        """
        if id in self._playing or self.take(id):
            return
        admitted = self._waiting[id] = asyncio.get_running_loop().create_future()
        try:
            await admitted
        except BaseException:
            self.leave(id)  # also where it was admitted at the moment at which it gave up
            raise

    def take(self, id: str) -> bool:
        """Let a film play from now on if it need not wait, and tell whether it does."""
        if not self.has_room:
            return False
        self._playing.add(id)
        return True

    def leave(self, id: str) -> None:
        """Note that a film neither plays nor waits any more; who is next may play."""
        self._playing.discard(id)
        self._waiting.pop(id, None)
        self.advance()

    def turn_away(self, id: str, error: Exception) -> None:
        """Let a film that waits do so no longer."""
        waiting = self._waiting.pop(id, None)
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)

    def advance(self) -> None:
        """Admit as many as can play now."""
        while self._waiting and len(self._playing) < self._capacity():
            id, admitted = self._waiting.popitem(last=False)
            if not admitted.done():
                self._playing.add(id)
                admitted.set_result(None)
