"""A film on two threads is the film on one, to the byte."""

from __future__ import annotations

import threading
from hashlib import sha256

import pytest
import torch
from torch import Tensor

from shotstream_rt import Session
from shotstream_rt.model.nano.codec import NanoStreamDecoder

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


def test_chunks_that_something_waits_for_are_decoded_by_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A shot's first chunk the viewer waits for, and its last one the shot behind it."""
    decode, threads = NanoStreamDecoder.decode, []

    def counted(self: NanoStreamDecoder, latents: Tensor) -> Tensor:
        threads.append(torch.get_num_threads())
        return decode(self, latents)

    monkeypatch.setattr(NanoStreamDecoder, "decode", counted)
    monkeypatch.setattr(NanoStreamDecoder, "same_on_any_threads", True)
    with Session.open("nano", threads=2, device="cpu") as session:
        for text in ("a red cat", "a blue dog"):
            session.cut(text, chunks=4)
        assert len(list(session.stream())) == 2 * (9 + 3 * 12)
    assert threads == [2, 1, 1, 2] * 2
