"""A failure ends a shot, not the session: what was made is delivered, and the film can go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from shotstream_rt import Event, Session, ShotStreamError, Story
from shotstream_rt.loading.load_model import Model

from ..patience import PATIENCE_S

Opener = Callable[..., Session]


def fail_on(bundle: Model, *words: str) -> None:
    """Let the text encoder fail on captions with one of these words."""
    text: Any = bundle.text
    real = text.encode

    def encode(prompts: Sequence[str]) -> Any:
        if any(word in prompt for prompt in prompts for word in words):
            raise ValueError("the tokenizer says no")
        return real(prompts)

    text.encode = encode


def read(session: Session) -> tuple[list[int], Exception | None]:
    got: list[int] = []
    try:
        got += (frame.index for frame in session.stream())
    except ShotStreamError as error:
        return got, error
    return got, None


def chunks_until_error(session: Session) -> tuple[list[tuple[int, int]], Exception]:
    got: list[tuple[int, int]] = []
    with pytest.raises(ShotStreamError) as caught:
        for chunk in session.chunks():
            got.append((chunk.shot, chunk.chunk))  # noqa: PERF401 - ends by an error
    return got, caught.value


def test_a_caption_that_fails_ends_its_shot(open_session: Opener, bundle: Model) -> None:
    fail_on(bundle, "BAD")
    events: list[Event] = []
    session = open_session(bundle)
    session.on_event(events.append)
    session.story(Story(shots=["one", "BAD", "three"]))
    made, error = chunks_until_error(session)
    assert made == [(0, n) for n in range(7)]
    assert isinstance(error.__cause__, ValueError)
    assert session.failed is error.__cause__
    assert "the tokenizer says no" in session.state.failed
    failed = session.failed
    receipt = session.cut("four")
    assert session.failed is None
    rest = [(chunk.shot, chunk.chunk, chunk.index) for chunk in session.chunks()]
    assert [entry[:2] for entry in rest] == [(s, n) for s in (1, 2) for n in range(7)]
    assert rest[0][2] == 81
    assert receipt.state == "applied"
    assert receipt.place is not None
    assert receipt.place.index == 162
    assert [e.error for e in events if e.kind == "failed"] == [failed]


def test_a_caption_that_failed_may_be_asked_for_again(open_session: Opener, bundle: Model) -> None:
    text: Any = bundle.text
    encode = text.encode
    fail_on(bundle, "one")
    session = open_session(bundle)
    session.cut("one")
    chunks_until_error(session)
    text.encode = encode  # what failed was out of memory, say
    session.cut("one")
    assert len(list(session.stream())) == session.shot_frames


def test_a_prompt_that_fails_changes_nothing(open_session: Opener, bundle: Model) -> None:
    fail_on(bundle, "BAD")
    session = open_session(bundle, queue_chunks=1)
    session.cut("a")
    next(session.stream())
    steered, cut = session.prompt("BAD prompt"), session.cut("BAD cut", now=True)
    frames = list(session.stream())
    assert [frame.index for frame in frames] == list(range(1, 81))
    assert {frame.caption for frame in frames} == {"a"}
    assert steered.wait(PATIENCE_S) in ("failed", "late")
    assert cut.wait(PATIENCE_S) == "failed"
    assert isinstance(cut.error, ValueError)
    assert session.failed is None


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), MemoryError(), KeyError("x")])
@pytest.mark.parametrize("chunk", [0, 3])
def test_a_chunk_that_fails_ends_its_shot(
    open_session: Opener, bundle: Model, error: Exception, chunk: int
) -> None:
    pipeline: Any = bundle.pipeline
    real, tries = pipeline.run_chunk, []

    def run_chunk(number: int, *rest: Any) -> torch.Tensor:
        if pipeline.running.number == 1 and number == chunk and not tries:
            tries.append(1)
            raise error
        made: torch.Tensor = real(number, *rest)
        return made

    pipeline.run_chunk = run_chunk
    session = open_session(bundle, queue_chunks=2)
    for text in "abc":
        session.cut(text)
    made, _ = chunks_until_error(session)
    assert made == [(0, n) for n in range(7)] + [(1, n) for n in range(chunk)]
    # Reading on says so again, until the film goes on.
    assert chunks_until_error(session)[0] == []
    session.retake() if chunk else session.cut("b again", now=True)
    made = [(c.shot, c.chunk) for c in session.chunks()]
    assert made == [(s, n) for s in (1, 2) for n in range(7)]
    assert session.failed is None


def test_decoding_that_fails_ends_its_shot(open_session: Opener, bundle: Model) -> None:
    codec: Any = bundle.codec
    gate, codec.decode_gate = codec.decode_gate, None
    session = open_session(bundle)
    session.cut("a")
    assert read(session)[0] == []
    codec.decode_gate = gate
    session.cut("b")
    assert read(session) == (list(range(81)), None)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("chunk", [0, 3])
def test_latents_that_are_not_finite_end_their_shot(
    open_session: Opener, bundle: Model, number: float, chunk: int
) -> None:
    pipeline: Any = bundle.pipeline
    real, bad = pipeline.run_chunk, []

    def run_chunk(this: int, *rest: Any) -> torch.Tensor:
        made: torch.Tensor = real(this, *rest)
        if pipeline.running.number == 1 and this == chunk and not bad:
            bad.append(this)
            made = made.clone()
            made[0, 1, 2, 1, 3] = number
        return made

    pipeline.run_chunk = run_chunk
    events: list[Event] = []
    session = open_session(bundle, queue_chunks=2)
    session.on_event(events.append)
    for text in "abc":
        session.cut(text)
    made, error = chunks_until_error(session)
    assert made == [(0, n) for n in range(7)] + [(1, n) for n in range(chunk)]
    assert f"shot 1, chunk {chunk}: got latents or pixels with NaN or infinite" in str(error)
    session.cut("d", chunks=1)
    later = [(c.shot, c.chunk, c.caption) for c in session.chunks()]
    number_of_c = 2 if chunk else 1
    wanted = [(number_of_c, n, "c") for n in range(7)]
    assert later == [*wanted, (number_of_c + 1, 0, "d")]
    assert session.failed is None
    [failed] = [event for event in events if event.kind == "failed"]
    assert failed.place is not None
    assert (failed.place.shot, failed.place.chunk) == (1, chunk)


def test_pixels_that_are_not_finite_end_their_shot(
    open_session: Opener, bundle: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, bad = type(bundle.codec.decoder()), [float("nan"), float("inf")]
    real: Any = kind.decode

    def decode(decoder: Any, latents: torch.Tensor) -> torch.Tensor:
        frames: torch.Tensor = real(decoder, latents)
        if bad:
            frames[0, -1, 2, 1, 3] = bad.pop()
        return frames

    monkeypatch.setattr(kind, "decode", decode)
    session = open_session(bundle)
    for text in "ab":
        session.cut(text)
        made, error = chunks_until_error(session)
        assert made == []
        assert "chunk 0: got latents or pixels with NaN" in str(error)
    session.cut("c")
    assert len(list(session.stream())) == session.shot_frames


def test_what_was_made_can_be_saved_and_restored(
    open_session: Opener, bundle: Model, new_bundle: Callable[[], Model]
) -> None:
    pipeline: Any = bundle.pipeline
    pipeline.fail_at = (1, 2)
    session = open_session(bundle)
    session.cut("a")
    session.cut("b")
    chunks_until_error(session)
    data = session.snapshot()
    session.restore(data)
    assert session.failed is None
    session.cut("c")
    pipeline.fail_at = None
    here = [(c.shot, c.chunk, c.index, c.pixels.tobytes()) for c in session.chunks()]
    there = open_session(new_bundle())
    there.restore(data)
    there.cut("c")
    assert here == [(c.shot, c.chunk, c.index, c.pixels.tobytes()) for c in there.chunks()]
    assert here[0][2] == 81 + 21


def test_the_error_comes_behind_the_frames_made_before(open_session: Opener, bundle: Model) -> None:
    fail_on(bundle, "BAD")
    session = open_session(bundle, queue_chunks=8)
    session.cut("a", chunks=2)
    bad = session.cut("BAD")
    assert bad.wait(PATIENCE_S) == "failed"
    session.cut("b", chunks=1)  # the film goes on before anybody has read the failure
    got, error = read(session)
    assert got == list(range(21))
    assert error is not None
    assert read(session) == (list(range(21, 30)), None)


def test_a_looping_film_does_not_repeat_what_fails(open_session: Opener, bundle: Model) -> None:
    pipeline: Any = bundle.pipeline
    pipeline.fail_at = (2, 0)
    session = open_session(bundle, at_end="loop")
    session.cut("a", chunks=1)
    made, _ = chunks_until_error(session)
    assert made == [(0, 0), (1, 0)]
    tries = sum(call == ("begin", 2, (0, 0, 0, 1, 1, 1), 3, 2) for call in pipeline.calls)
    assert tries == 1


def test_a_listener_that_fails_is_logged(
    open_session: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    session = open_session()

    def listen(_: Event) -> None:
        raise ValueError("a listener's own mistake")

    session.on_event(listen)
    session.cut("a", chunks=1)
    assert read(session) == (list(range(9)), None)
    assert "a listener's own mistake" in caplog.text


def test_failures_from_many_threads_leave_the_session_usable(
    open_session: Opener, bundle: Model
) -> None:
    fail_on(bundle, "BAD")
    session = open_session(bundle, queue_chunks=8)

    def ask(number: int) -> None:
        for turn in range(10):
            session.cut("BAD" if (turn + number) % 3 else "good", chunks=1, now=turn % 2 == 0)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        if read(session)[1] is None and not any(thread.is_alive() for thread in threads):
            break
        if session.failed is not None:
            session.cut("good", chunks=1)
    for thread in threads:
        thread.join()
    session.clear()
    session.cut("last", chunks=1)
    while read(session)[1] is not None:
        session.cut("last", chunks=1)
    assert session.state.idle


def test_a_prompt_whose_shot_fails_before_it_is_applied_has_failed(
    open_session: Callable[..., Session], bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is encoded itself; the caption of a context frame is not any more."""
    session = open_session(bundle, queue_chunks=1)
    session.cut("a", chunks=2)
    session.cut("b")
    stream = session.stream(timeout_s=PATIENCE_S)
    for _ in range(41):  # in the second shot
        next(stream)
    encode = bundle.fake_text.encode

    def fail(prompts: list[str]) -> Any:
        if "a" in prompts:
            raise RuntimeError("no memory for captions")
        return encode(prompts)

    monkeypatch.setattr(bundle.fake_text, "encode", fail)
    with bundle.captions.lock:
        del bundle.captions._done["a"]
    receipt = session.prompt("c")
    with pytest.raises(ShotStreamError, match="no memory for captions"):
        list(stream)
    assert receipt.state == "failed"


def test_a_prompt_that_is_superseded_while_it_is_applied_is_not_applied(
    open_session: Callable[..., Session], bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(bundle, queue_chunks=1)
    session.cut("a")
    stream = session.stream(timeout_s=PATIENCE_S)
    for _ in range(10):
        next(stream)
    later: list[Any] = []
    encoded = bundle.captions.encoded

    def asks_again(captions: list[str]) -> Any:
        if captions[-1] == "b" and not later:
            later.append(session.prompt("c"))
        return encoded(captions)

    monkeypatch.setattr(bundle.captions, "encoded", asks_again)
    receipt = session.prompt("b")
    captions = [frame.caption for frame in stream]
    assert (receipt.state, later[0].state) == ("superseded", "applied")
    assert "b" not in captions and captions[-1] == "c"
