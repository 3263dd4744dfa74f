"""Turns at a shared device: asked for before each chunk, given back whatever comes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from shotstream_rt.errors import ShotStreamError
from shotstream_rt.session import Session

from ..patience import PATIENCE_S, wait_for
from .caption_sets import caption_set

FIRST, LATER = 9, 12
"""Frames of a shot's first chunk and of the others."""


class HandedOut:
    """A turn that a film has when the test says so; remembers what it was told."""

    def __init__(self, grants: int = 0) -> None:
        self.held = False
        self.grants = grants
        self.asked: list[int] = []
        self.given_back: list[int] = []
        self.decodings = 0
        self._wake: Callable[[], object] = bool

    def take(self, ahead_frames: int, wake: Callable[[], object]) -> bool:
        self.asked.append(ahead_frames)
        self._wake = wake
        if not self.held and self.grants > 0:
            self.grants -= 1
            self.held = True
        return self.held

    def give_back(self, frames: int = 0) -> None:
        if self.held:
            self.given_back.append(frames)
        self.held = False

    def decoded(self) -> None:
        self.decodings += 1

    def grant(self, count: int = 1) -> None:
        self.grants += count
        self._wake()


Opener = Callable[..., Session]


@pytest.fixture
def bundle(bundle: Any) -> Any:
    """A model that has encoded the captions of most tests here, for which films let turns go."""
    caption_set(bundle.captions, ["a", "b"])
    return bundle


def test_a_film_makes_a_chunk_for_each_turn(open_session: Opener, bundle: Any) -> None:
    turn = HandedOut()
    session = open_session(bundle, turn=turn)
    session.cut("a")
    wait_for(lambda: bool(turn.asked))
    assert bundle.pipeline.calls == []
    turn.grant()
    chunks = session.chunks(timeout_s=PATIENCE_S)
    assert len(next(chunks).pixels) == FIRST
    wait_for(lambda: turn.given_back == [FIRST] and turn.decodings == 1)
    assert not turn.held
    assert not session.state.making
    turn.grant()
    assert len(next(chunks).pixels) == LATER
    wait_for(lambda: turn.given_back == [FIRST, LATER])


def test_it_tells_how_many_frames_are_ahead(open_session: Opener, bundle: Any) -> None:
    turn = HandedOut(grants=1)
    session = open_session(bundle, turn=turn)
    session.cut("a")
    wait_for(lambda: bool(turn.asked) and turn.asked[-1] == FIRST)
    frames = session.stream(timeout_s=PATIENCE_S)
    for _ in range(4):
        next(frames)
    turn.grant(0)  # asks again
    wait_for(lambda: turn.asked[-1] == FIRST - 4)


def test_the_film_is_the_same_with_turns(open_session: Opener) -> None:
    def play(**options: Any) -> list[bytes]:
        session = open_session(seed=4, **options)
        session.cut("a", chunks=3)
        session.cut("b", chunks=2)
        return [frame.pixels.tobytes() for frame in session.stream(timeout_s=PATIENCE_S)]

    assert play(turn=HandedOut(grants=1000)) == play()


def test_closing_while_it_waits(open_session: Opener, bundle: Any) -> None:
    turn = HandedOut()
    session = open_session(bundle, turn=turn)
    receipt = session.cut("a")
    wait_for(lambda: bool(turn.asked))
    session.close()
    assert receipt.state == "cancelled"
    assert not turn.held


def test_closing_while_it_computes(open_session: Opener, bundle: Any) -> None:
    turn = HandedOut(grants=1)
    bundle.pipeline.gate.clear()
    session = open_session(bundle, turn=turn)
    session.cut("a")
    wait_for(lambda: turn.held)
    session.close()
    assert not turn.held
    assert turn.given_back == [0]


def test_what_is_asked_while_it_waits_is_what_it_makes(open_session: Opener, bundle: Any) -> None:
    turn = HandedOut(grants=1)
    session = open_session(bundle, turn=turn)
    session.cut("a")
    next(session.chunks(timeout_s=PATIENCE_S))
    wait_for(lambda: turn.given_back == [FIRST])
    session.cut("b", flush=True)
    turn.grant()
    chunk = next(session.chunks(timeout_s=PATIENCE_S))
    assert (chunk.shot, chunk.chunk, chunk.caption) == (1, 0, "b")


def test_a_chunk_given_up_for_an_ask_gives_the_turn_back(open_session: Opener, bundle: Any) -> None:
    turn = HandedOut(grants=1)
    bundle.pipeline.gate.clear()
    session = open_session(bundle, turn=turn)
    session.cut("a")
    wait_for(lambda: turn.held and session.state.making)
    session.cut("b", flush=True)
    wait_for(lambda: turn.given_back == [0])
    bundle.pipeline.gate.set()
    turn.grant()
    assert next(session.chunks(timeout_s=PATIENCE_S)).caption == "b"


def test_a_failure_gives_the_turn_back(open_session: Opener, bundle: Any) -> None:
    turn = HandedOut(grants=1)
    bundle.pipeline.fail_at = (0, 0)
    session = open_session(bundle, turn=turn)
    session.cut("a")
    with pytest.raises(ShotStreamError, match="on fire"):
        next(session.chunks(timeout_s=PATIENCE_S))
    wait_for(lambda: turn.given_back == [0])
    assert turn.decodings == 0
    bundle.pipeline.fail_at = None
    turn.grant()
    session.cut("b")
    assert next(session.chunks(timeout_s=PATIENCE_S)).caption == "b"


def test_a_chunk_that_cannot_be_decoded_is_decoded_for_the_others(
    open_session: Opener, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no picture")

    turn = HandedOut(grants=1)
    session = open_session(bundle, turn=turn)
    monkeypatch.setattr(session._film.workers.decoder, "_decode", fail)
    session.cut("a")
    with pytest.raises(ShotStreamError, match="no picture"):
        next(session.chunks(timeout_s=PATIENCE_S))
    wait_for(lambda: turn.decodings == 1 and turn.given_back == [FIRST])


def test_a_paused_film_passes_its_turn_on(open_session: Opener, bundle: Any) -> None:
    turn = HandedOut()
    session = open_session(bundle, turn=turn)
    session.cut("a")
    wait_for(lambda: bool(turn.asked))
    session.pause()
    turn.held = True  # it came at the same moment
    turn.grant(0)
    wait_for(lambda: turn.given_back == [0])
    asked = len(turn.asked)
    turn.grant(0)
    session.resume()
    wait_for(lambda: len(turn.asked) > asked)


def test_no_turn_is_held_while_a_caption_is_encoded(
    open_session: Opener, bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding, encode = threading.Event(), bundle.fake_text.encode

    def encode_later(prompts: Any) -> Any:
        assert encoding.wait(PATIENCE_S)
        return encode(prompts)

    monkeypatch.setattr(bundle.fake_text, "encode", encode_later)
    turn = HandedOut(grants=1)
    session = open_session(bundle, turn=turn)
    session.cut("c")
    wait_for(lambda: turn.given_back == [0])
    asked = len(turn.asked)
    encoding.set()
    wait_for(lambda: len(turn.asked) > asked)
    assert bundle.pipeline.calls == []
    turn.grant()
    assert len(next(session.chunks(timeout_s=PATIENCE_S)).pixels) == FIRST


def test_a_branch_takes_turns_of_its_own(open_session: Opener, bundle: Any) -> None:
    turn, other = HandedOut(grants=1), HandedOut()
    session = open_session(bundle, turn=turn)
    session.cut("a")
    next(session.chunks(timeout_s=PATIENCE_S))
    with session.branch(turn=other):
        wait_for(lambda: bool(other.asked))
        assert turn.given_back == [FIRST]
