"""A film on two threads is the film on one, to the byte."""

from __future__ import annotations

import threading
from hashlib import sha256

import pytest

from shotstream_rt import Session

ASKED = 5


def digest(threads: int, names: set[str]) -> str:
    """Play two shots of nano, the second one cut and steered; note the threads that there are."""
    found = sha256()
    with Session.open("nano", seed=3, threads=threads, dtype="float32", device="cpu") as session:
        session.cut("Wide shot: a red cat walks right on a beach.", chunks=2)
        session.cut("Close-up: the cat stands still.", chunks=2)
        for frame in session.stream():
            found.update(frame.pixels.tobytes())
            if frame.index == ASKED:
                names.update(thread.name for thread in threading.enumerate())
    return found.hexdigest()


@pytest.mark.timeout(300)
def test_bytes_do_not_depend_on_threads() -> None:
    one: set[str] = set()
    two: set[str] = set()
    assert digest(1, one) == digest(2, two)
    assert two - one == {"shotstream-halves"}
    assert "shotstream-halves" not in {thread.name for thread in threading.enumerate()}
