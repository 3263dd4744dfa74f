"""Films that tests compare, or leave in the middle."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from shotstream_rt import Session


def film(session: Session, chunks: int | None = None) -> list[tuple[int, int, int, bytes]]:
    """Index, shot, chunk and pixels of the chunks that are still to come, or of so many of them."""
    made = islice(session.chunks(), chunks)
    return [(c.index, c.shot, c.chunk, c.pixels.tobytes()) for c in made]


def film_with_a_past(open_session: Callable[..., Session]) -> Session:
    """A session of three shots of which the second is being read."""
    session = open_session(queue_chunks=1)
    for text in ("a", "b", "c"):
        session.cut(text)
    for _ in islice(session.chunks(), 10):
        pass
    return session
