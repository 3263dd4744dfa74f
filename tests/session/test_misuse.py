"""Bad arguments, failures inside, and a session that was closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from shotstream_rt import (
    ConfigError,
    Session,
    SessionClosedError,
    ShotStreamError,
    Story,
    WeightsError,
)
from shotstream_rt.model.loading import ModelBundle

Opener = Callable[..., Session]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(None, ShotStreamError), (WeightsError("layer 3 is NaN"), WeightsError)],
)
def test_failure_reaches_the_reader_with_its_cause(
    open_session: Opener, bundle: ModelBundle, error: Exception | None, kind: type[Exception]
) -> None:
    pipeline: Any = bundle.pipeline
    pipeline.fail_at = (0, 2)
    if error is not None:
        pipeline.commit = lambda: (_ for _ in ()).throw(error)
    session = open_session(bundle)
    session.cut("a")
    seen = 0
    with pytest.raises(kind) as caught:
        for _ in session.stream():
            seen += 1
    assert caught.value.__cause__ is not None
    assert seen == (21 if error is None else 9), "what was ready before is delivered"
    with pytest.raises(kind):
        session.cut("b")
    session.close()


def test_decoder_failure_reaches_the_reader(open_session: Opener, bundle: ModelBundle) -> None:
    codec: Any = bundle.codec
    codec.decode_gate = None
    session = open_session(bundle)
    session.cut("a")
    with pytest.raises(ShotStreamError, match="AttributeError"):
        list(session.stream())
    codec.decode_gate = threading.Event()


def test_closed_session_refuses_everything(open_session: Opener) -> None:
    session = open_session()
    session.cut("a")
    stream = session.stream()
    next(stream)
    session.close()
    session.close()
    assert session.closed
    for use in (
        lambda: session.cut("b"),
        lambda: session.prompt("b"),
        lambda: session.retake(),
        lambda: session.snapshot(),
        lambda: session.restore(b""),
        lambda: session.story(Story(shots=["a"])),
        lambda: session.check("a"),
        lambda: next(session.stream()),
        lambda: next(session.chunks()),
        lambda: next(stream),
    ):
        with pytest.raises(SessionClosedError):
            use()


def test_close_wakes_a_waiting_reader_and_ends_the_threads(open_session: Opener) -> None:
    session = open_session()
    timer = threading.Timer(0.05, session.close)
    timer.start()
    with pytest.raises(SessionClosedError):
        next(session.stream(follow=True))
    timer.join()
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith("shotstream-") for name in names)


def test_close_with_unread_frames_does_not_hang(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    for _ in range(5):
        session.cut("a")
    session.close()


@pytest.mark.parametrize("text", ["", "   \n", None, 7, b"bytes", ["a"]])
def test_unusable_prompts_are_config_errors(open_session: Opener, text: Any) -> None:
    session = open_session()
    for use in (session.cut, session.prompt, session.check):
        with pytest.raises(ConfigError, match="prompt"):
            use(text)


@pytest.mark.parametrize("seed", [float("nan"), -1, 2**63, 1.0, "1", None, True])
def test_unusable_seeds_are_config_errors(open_session: Opener, seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed"):
        open_session(seed=seed)
    if seed is not None:
        with pytest.raises(ConfigError, match="seed"):
            open_session().cut("a", seed=seed)


@pytest.mark.parametrize(
    "options",
    [
        {"at_end": "stop"},
        {"queue_policy": "drop"},
        {"queue_chunks": 0},
        {"queue_chunks": 1.5},
        {"threads": 0},
    ],
)
def test_unusable_options_are_config_errors(open_session: Opener, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        open_session(**options)


def test_notes_tell_what_is_not_understood(open_session: Opener) -> None:
    session = open_session()
    assert session.cut("a xyzzy") == ("unknown word: xyzzy",)
    assert session.check("a plain one") == ()
