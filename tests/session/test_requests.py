"""What a request says of itself: where it takes effect, and what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from shotstream_rt import ConfigError, Event, Place, Receipt, Session, Story
from shotstream_rt.loading.load_model import Model

from ..patience import PATIENCE_S, wait_for

Opener = Callable[..., Session]


class HeldText:
    """Lets captions be encoded one by one."""

    def __init__(self, bundle: Model) -> None:
        self.begun: list[str] = []
        self._turns = threading.Semaphore(0)
        text: Any = bundle.text
        real = text.encode

        def encode(prompts: Sequence[str]) -> Any:
            self.begun += prompts
            self._turns.acquire()
            return real(prompts)

        text.encode = encode

    def let(self, count: int = 1) -> None:
        self._turns.release(count)


@pytest.fixture
def held(bundle: Model) -> HeldText:
    return HeldText(bundle)


def shots(session: Session) -> list[tuple[int, int, str]]:
    """(shot, take, caption) of each chunk, each run of equal ones once."""
    seen: list[tuple[int, int, str]] = []
    for chunk in session.chunks():
        entry = (chunk.shot, chunk.take, chunk.caption)
        if not seen or seen[-1] != entry:
            seen.append(entry)
    return seen


def test_newest_interruption_wins(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    session.cut("a")
    session.cut("queued")
    next(session.chunks())
    session.pause()
    receipts = [session.cut(text, now=True) for text in "bcde"]
    session.resume()
    assert [text for _, _, text in shots(session)][-2:] == ["e", "queued"]
    assert [receipt.state for receipt in receipts] == ["superseded"] * 3 + ["applied"]
    assert receipts[-1].place is not None
    assert receipts[-1].place.shot == 1


def test_newest_of_a_retake_and_a_cut_wins(open_session: Opener) -> None:
    for order in (("cut", "retake"), ("retake", "cut")):
        session = open_session(queue_chunks=1)
        session.cut("a")
        next(session.chunks())
        session.pause()
        made = {
            name: session.retake() if name == "retake" else session.cut("b", now=True)
            for name in order
        }
        session.resume()
        assert shots(session)[-1] == ((1, 0, "b") if order[-1] == "cut" else (0, 1, "a"))
        assert made[order[0]].state == "superseded"


def test_requests_say_where_they_take_effect(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    first = session.cut("a")
    second, short = session.cut("b", take=2), session.cut("c", chunks=2)
    third = session.cut("d")
    assert first.place == Place(0, 0, 0, 0)
    assert second.place == Place(1, 2, 0, 81)
    assert short.place == Place(2, 0, 0, 162)
    assert third.place == Place(3, 0, 0, 183)
    seen: dict[tuple[int, int], int] = {}
    steered: Receipt | None = None
    for chunk in session.chunks():
        seen[chunk.shot, chunk.chunk] = chunk.index
        if (chunk.shot, chunk.chunk) == (1, 2):
            steered = session.prompt("other")
            earliest = steered.place
    for receipt in (first, second, short, third, steered):
        assert receipt is not None
        assert receipt.wait(PATIENCE_S) == "applied"
        assert receipt.place is not None
        assert seen[receipt.place.shot, receipt.place.chunk] == receipt.place.index
    assert steered is not None
    assert steered.place is not None
    assert earliest is not None
    # Not before what was said; later if its caption took longer to encode than chunks to make.
    assert earliest.chunk <= steered.place.chunk
    assert steered.place.take == 2


def test_a_place_is_the_one_decided_while_it_was_looked_for() -> None:
    def expected(receipt: Receipt) -> Place:
        receipt.decide("applied", Place(0, 0, 0, 0))
        return Place(0, 0, 0, 9)  # where the film is by now

    assert Receipt("cut", expected=expected).place == Place(0, 0, 0, 0)


def test_frames_show_a_prompt_from_its_place_on(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    session.cut("a")
    captions, receipt = [], None
    for frame in session.stream():
        captions.append(frame.caption)
        if frame.index == 10:
            receipt = session.prompt("b")
    assert receipt is not None
    assert receipt.place is not None
    at = receipt.place.index
    assert captions == ["a"] * at + ["b"] * (81 - at)


def test_receipts_are_tuples_of_notes(open_session: Opener) -> None:
    session = open_session()
    receipt = session.cut("a xyzzy")
    assert receipt == ("unknown word: xyzzy",)
    assert (receipt[0], len(receipt), receipt.notes) == (receipt[0], 1, tuple(receipt))
    assert session.cut("b") == ()
    assert receipt.id != session.cut("b").id


def test_prompt_of_a_shot_that_is_over_is_refused_and_rewords_nothing(
    open_session: Opener,
) -> None:
    session = open_session(queue_chunks=2)
    session.cut("a", chunks=2)
    session.cut("b", chunks=2)
    wait_for(lambda: session.state.waits_for_reader)  # all of shot 0 is made, shot 1 is queued
    with pytest.raises(ConfigError, match="shot=1"):
        session.prompt("c")
    with pytest.raises(ConfigError, match="shot 0"):
        session.prompt("c", shot=0)
    with pytest.raises(ConfigError, match="shot 7"):
        session.prompt("c", shot=7)
    receipt = session.prompt("named", shot=1)
    assert receipt.place == Place(1, 0, 0, 21)
    assert [text for _, _, text in shots(session)] == ["a", "named"]


def test_prompt_right_after_a_cut_is_for_that_cut(open_session: Opener) -> None:
    for _ in range(20):
        session = open_session()
        session.cut("a")
        receipt = session.prompt("b")
        frames = list(session.stream())
        assert frames[-1].caption == "b"
        assert receipt.state == "applied"


def test_late_prompt_is_told(
    open_session: Opener, bundle: Model, held: HeldText, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []
    session = open_session(bundle, queue_chunks=1)
    session.on_event(events.append)
    session.cut("a", chunks=3)
    held.let()
    next(session.chunks())
    receipt = session.prompt("b")  # its caption is not encoded before the shot is over
    assert {chunk.caption for chunk in session.chunks()} == {"a"}
    assert receipt.wait(PATIENCE_S) == "late"
    assert [event.request for event in events if event.kind == "late"] == [receipt.id]
    assert "late" in caplog.text
    held.let()


def test_prompt_goes_over_to_the_shot_that_goes_on(
    open_session: Opener, bundle: Model, held: HeldText
) -> None:
    session = open_session(bundle, at_end="loop", queue_chunks=1)
    session.cut("a", chunks=2)
    held.let()
    chunks = session.chunks()
    next(chunks)
    receipt = session.prompt("b")
    assert [next(chunks).caption for _ in range(3)] == ["a"] * 3
    held.let()
    seen = [next(chunks).caption for _ in range(8)]
    assert seen[-1] == "b"
    assert receipt.state == "applied"


def test_newer_prompt_supersedes(open_session: Opener, bundle: Model, held: HeldText) -> None:
    session = open_session(bundle, queue_chunks=1)
    session.cut("a")
    held.let()
    next(session.chunks())
    receipts = [session.prompt(f"typed {number}") for number in range(30)]
    held.let(2)
    wait_for(lambda: session._film.captions.ready("typed 29"))  # before the shot is read to its end
    captions = [chunk.caption for chunk in session.chunks()]
    assert captions[-1] == "typed 29"
    assert len(held.begun) <= 3, "superseded captions are not encoded"
    assert [receipt.state for receipt in receipts] == ["superseded"] * 29 + ["applied"]


@pytest.mark.parametrize("count", [3, 70, 300])
def test_captions_are_encoded_in_playing_order_and_once(
    open_session: Opener, bundle: Model, held: HeldText, count: int
) -> None:
    session = open_session(bundle, queue_chunks=1)
    texts = [f"shot {number}" for number in range(count)]
    frames = session.story(Story(shots=texts))
    held.let()
    assert next(frames).index == 0, "the first frame needs one caption"
    held.let(count)
    for _ in range(81 * 2 + 5):
        next(frames)
    assert held.begun[:3] == [f"shot{n}:shot {n}" for n in range(3)]
    assert len(held.begun) <= 6
    assert len(set(held.begun)) == len(held.begun)


def test_urgent_captions_come_first(open_session: Opener, bundle: Model, held: HeldText) -> None:
    session = open_session(bundle, queue_chunks=1)
    session.story(Story(shots=[f"{number}" for number in range(40)]))
    held.let()
    chunks = session.chunks()
    next(chunks)
    wait_for(lambda: len(held.begun) == 2)  # it has begun with the next shot's
    session.prompt("steer")
    session.cut("cut", now=True)
    held.let(3)
    list(zip(range(6), chunks, strict=False))
    assert held.begun[2:4] == ["cut", "shot0:steer"]
    held.let(100)


def test_marks_count_shots_as_they_begin(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    session.cut("a", global_caption="g.")
    session.cut("b", global_caption="g.")
    session.cut("c", global_caption="g.")
    next(session.chunks())
    session.cut("n", global_caption="g.", now=True)
    captions = [entry[2] for entry in shots(session)]
    assert captions[-3:] == ["g.shot1:n", "g.shot2:b", "g.shot3:c"]


def test_marks_of_many_threads_are_all_different(open_session: Opener) -> None:
    session = open_session()

    def ask() -> None:
        for _ in range(20):
            session.cut("a", global_caption="g.", chunks=1)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    captions = []
    for thread in threads:
        thread.join()
    captions = [chunk.caption for chunk in session.chunks()]
    assert captions == [f"g.shot{number}:a" for number in range(160)]


def test_waiting_requests_can_be_taken_back(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    session.cut("a")
    receipts = {text: session.cut(text) for text in "bcd"}
    next(session.chunks())
    assert session.cancel(receipts["c"])
    assert not session.cancel(receipts["c"])
    assert not session.cancel(99**9)
    assert session.cancel(receipts["b"].id)
    assert [entry[2] for entry in shots(session)] == ["a", "d"]
    assert {text: receipt.state for text, receipt in receipts.items()} == {
        "b": "cancelled", "c": "cancelled", "d": "applied",
    }  # fmt: skip


def test_clear_takes_everything_back_and_ends_the_wait(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    session.cut("a")
    for _ in range(4):
        session.cut("b")
    next(session.chunks())
    assert session.clear() == 4
    assert session.clear() == 0
    assert [entry[2] for entry in shots(session)] == ["a"]


def test_restore_tells_what_it_drops(open_session: Opener) -> None:
    session = open_session(queue_chunks=1)
    blank = session.snapshot()
    session.cut("a")
    receipt = session.cut("b")
    session.restore(blank)
    assert receipt.state == "cancelled"


def test_numpy_integers_are_integers(open_session: Opener) -> None:
    session = open_session(seed=np.int64(3), threads=np.int32(1), queue_chunks=np.uint8(2))
    session.cut("a", seed=np.uint64(4), take=np.int16(1), chunks=np.int8(1))
    plain = open_session(seed=3)
    plain.cut("a", seed=4, take=1, chunks=1)
    one, other = list(session.stream()), list(plain.stream())
    assert [f.pixels.tobytes() for f in one] == [f.pixels.tobytes() for f in other]
    session.retake(np.int64(0))


@pytest.mark.parametrize(
    "arguments",
    [
        {"now": "no"},
        {"now": 1},
        {"now": None},
        {"flush": "no"},
        {"flush": "no", "now": True},
        {"chunks": 0},
        {"chunks": 1.5},
        {"chunks": True},
    ],
)
def test_unusable_arguments_of_cut(open_session: Opener, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        open_session().cut("a", **arguments)


@pytest.mark.parametrize("value", ["5", float("nan"), -1, -0.001, [], True])
@pytest.mark.parametrize("method", ["stream", "chunks", "astream", "achunks"])
def test_unusable_timeouts(open_session: Opener, method: str, value: Any) -> None:
    with pytest.raises(ConfigError, match="timeout_s"):
        getattr(open_session(), method)(timeout_s=value)


def test_unusable_flags(open_session: Opener) -> None:
    with pytest.raises(ConfigError, match="follow"):
        open_session().stream(follow="yes")
    with pytest.raises(ConfigError, match="keep_on_device"):
        open_session(keep_on_device=1)


@pytest.mark.parametrize(
    "options",
    [{"at_end": "x"}, {"queue_policy": "x"}, {"queue_chunks": 0}, {"threads": -1}, {"seed": "1"},
     {"keep_on_device": "no"}],
)  # fmt: skip
def test_wrong_options_are_refused_before_the_model_is_loaded(
    fake_model: list[Model], options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Session.open("nano", **options)
    assert fake_model == []
