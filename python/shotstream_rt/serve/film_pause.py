"""Why a film stands still: a director has paused it, or nobody watches."""

from __future__ import annotations

from ..session import Session


class FilmPause:
    """Whether a film is paused, and for whom. Used on the event loop's thread.

    Args:
        asked: whether a director has paused the film, in a process before this one.

    Attributes:
        asked: whether a director, or the quota of its token, has paused it: it stays so.
        held: whether it is paused until somebody watches.
    """

    def __init__(self, *, asked: bool) -> None:
        self.asked, self.held = asked, False
        self._ends = False

    def __bool__(self) -> bool:
        return self.asked or self.held

    def begin(self, session: Session) -> None:
        """Pause the session of a film that wakes, if it was paused when it went to sleep."""
        if self.asked:
            session.pause()
        self.held = False

    def hold(self, session: Session) -> None:
        """Pause until somebody watches."""
        self.held = True
        session.pause()

    def let_go(self, session: Session) -> None:
        """Go on, for somebody watches; a film that is paused for good, or that ends, stays so."""
        if self._ends:
            return
        self.held = False
        if not self.asked:
            session.resume()

    def end(self, session: Session) -> None:
        """Pause until the film is closed, whoever watches."""
        self._ends = True
        self.hold(session)

    def stop(self, session: Session) -> None:
        """Pause for good."""
        self.asked = True
        session.pause()

    def obeyed(self, *, paused: bool) -> None:
        """Note that a director has paused the session, or has let it go on."""
        self.asked, self.held = paused, False
