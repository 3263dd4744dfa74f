"""Bad arguments, failures inside, and a session that was closed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shotstream_rt import (
    ConfigError,
    Session,
    SessionClosedError,
    ShotStreamError,
    Story,
    WeightsError,
)
from shotstream_rt.loading.load_model import Model
from shotstream_rt.loading.placement import parse_size

Opener = Callable[..., Session]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(None, ShotStreamError), (WeightsError("layer 3 is NaN"), WeightsError)],
)
def test_failure_reaches_the_reader_with_its_cause(
    open_session: Opener, bundle: Model, error: Exception | None, kind: type[Exception]
) -> None:
    pipeline: Any = bundle.pipeline
    pipeline.fail_at = (0, 2)
    if error is not None:
        pipeline.commit = lambda *_: (_ for _ in ()).throw(error)
    session = open_session(bundle)
    session.cut("a")
    seen = 0
    with pytest.raises(kind) as caught:
        for _ in session.stream():
            seen += 1
    assert caught.value.__cause__ is not None
    assert seen == (21 if error is None else 9), "what was ready before is delivered"
    assert session.failed is caught.value.__cause__
    with pytest.raises(kind):
        next(session.stream())
    session.close()


def test_decoder_failure_reaches_the_reader(open_session: Opener, bundle: Model) -> None:
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
    others = set(threading.enumerate())
    session = open_session()
    timer = threading.Timer(0.05, session.close)
    timer.start()
    with pytest.raises(SessionClosedError):
        next(session.stream(follow=True))
    timer.join()
    assert set(threading.enumerate()) <= others


def test_sessions_left_open_are_closed_at_exit() -> None:
    program = """
from conftest import fake_bundle
from shotstream_rt import Session

sessions = [Session(fake_bundle()) for _ in range(2)]
for session in sessions:
    session.cut("a")
    next(session.stream())
"""
    # The last callback registered runs first, so this one sees what the sessions' own have done.
    head = "import atexit\natexit.register(lambda: print(*(s.closed for s in sessions)))\n"
    done = subprocess.run(
        [sys.executable, "-c", head + program],
        capture_output=True,
        cwd=Path(__file__).parent,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\n", "")


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


@pytest.mark.parametrize(
    "options",
    [
        {"kernels": 5}, {"kernels": []}, {"ema": "no"}, {"engines": 5}, {"engines": "a\0b"},
        {"threads": "2"}, {"choose": 5}, {"stats_path": 5}, {"stats_path": ""}, {"progress": 5},
        {"dtype": 5}, {"profile": []}, {"backend": None}, {"device": 5}, {"size": 5},
    ],
    ids=str,
)  # fmt: skip
def test_options_are_refused_before_the_model_is_opened(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shotstream_rt.loading.layouts.open_parts", None)
    with pytest.raises(ShotStreamError, match=next(iter(options))):
        Session.open("nano", **options)


def test_notes_tell_what_is_not_understood(open_session: Opener) -> None:
    session = open_session()
    assert session.cut("a xyzzy") == ("unknown word: xyzzy",)
    assert session.check("a plain one") == ()


def test_integers_of_numpy_are_taken_everywhere(open_session: Opener) -> None:
    session = open_session(seed=np.int64(5), queue_chunks=np.uint8(3), threads=np.int32(1))
    assert session.stats["seed"] == 5
    json.dumps(session.stats)
    session.cut("a", seed=np.uint16(7), take=np.int8(2))
    frames = [frame.pixels.copy() for frame in session.stream()]
    plain = open_session(seed=5)
    plain.cut("a", seed=7, take=2)
    assert all(map(np.array_equal, frames, (frame.pixels for frame in plain.stream())))
    assert parse_size((np.int64(32), np.int32(48))) == parse_size(np.array([32, 48])) == (32, 48)


@pytest.mark.parametrize(
    "size", [480, None, [32], (32.0, 48), (32, True), ["a", [1]], "9" * 5000 + "x16", b"32x48", {}]
)
def test_sizes_of_another_kind_are_config_errors(size: Any) -> None:
    with pytest.raises(ConfigError, match="wanted height x width"):
        parse_size(size)


def test_long_prompts_are_refused_everywhere(open_session: Opener) -> None:
    session = open_session()
    long = "a" * 10_001
    for use in (
        lambda: session.cut(long),
        lambda: session.cut("a", global_caption=long),
        lambda: session.prompt(long),
        lambda: session.check(long),
        lambda: Story(shots=[long]),
    ):
        with pytest.raises(ConfigError, match="at most 10000"):
            use()
