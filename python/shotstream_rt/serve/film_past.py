"""What there is of a film so far, whether it plays or sleeps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from .from_server import Kept, Take
from .recording import Recording
from .samples import TemporarySamples
from .saved_film import SavedFilm

_TAKES_KEPT = 200
"""Takes whose first pictures are kept for who joins later."""


class FilmPast:
    """The past of one film. Use ``new``, ``of`` or ``branch``.

    Args:
        recording: the frames that the film consists of.
        takes: the takes begun, the oldest first.
        snapshot: what the film's next session goes on from; None for a film without a past.
        saved: what a store has of the film; None if it is in none.

    Attributes:
        takes: the takes begun, the oldest first; of a long film the last ones.
        directions: what makes the film again, as of when it was saved or slept last; None before.
    """

    def __init__(
        self,
        recording: Recording,
        takes: Iterable[Take] = (),
        snapshot: bytes | None = None,
        saved: SavedFilm | None = None,
    ) -> None:
        self.recording, self.snapshot, self.saved = recording, snapshot, saved
        self.directions: dict[str, Any] | None = None if saved is None else saved.film
        self.takes: deque[Take] = deque(takes, maxlen=_TAKES_KEPT)

    @classmethod
    def new(cls, limit_bytes: int) -> FilmPast:
        """Return that of a new film, which no store keeps.

        Args:
            limit_bytes: largest size of its recording, and of those of its branches.
        """
        return cls(Recording(TemporarySamples(limit_bytes)))

    @classmethod
    def of(cls, saved: SavedFilm) -> FilmPast:
        """Return that of a film in a store."""
        return cls(saved.recording, saved.takes, saved.snapshot or None, saved)

    def branch(self, snapshot: bytes) -> FilmPast:
        """Return that of a film that goes on from here, which no store keeps.

        Args:
            snapshot: of this film's session, where the other one goes on.
        """
        return FilmPast(self.recording.branch(), self.takes, snapshot)

    @property
    def begun(self) -> bool:
        """Whether the film has a shot."""
        return bool(self.takes or self.snapshot is not None)

    def release(self, *, delete: bool) -> None:
        """Let another process have a film that is in a store.

        Args:
            delete: delete it first.

        Raises:
            StoreError: it cannot be deleted; it is let go all the same.
        """
        if self.saved is not None:
            self.saved.end(delete=delete)

    def kept(self) -> Kept:
        """Return the message that tells which takes the film consists of."""
        return Kept(takes=self.recording.takes())
