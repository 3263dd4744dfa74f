"""One caption encoder may serve any number of sessions and threads."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from shotstream_rt import ConfigError, Session, SessionClosedError
from shotstream_rt.film.caption_encoder import CaptionEncoder
from shotstream_rt.loading.load_model import Model

from ..patience import PATIENCE_S
from .caption_sets import Woken, caption_set


class GatedText:
    """Encodes a caption as its length, when the gate is open; notes what it was asked for."""

    text_dim, text_len = 2, 4

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, list[int]]:
        self.asked.set()
        self.gate.wait()
        self.encoded += prompts
        self.threads.add(threading.current_thread().name)
        return torch.stack([torch.full((4, 2), float(len(p))) for p in prompts]), [1] * len(prompts)

    def check(self, prompt: str) -> list[str]:
        return [f"note on {prompt}"]


@pytest.fixture
def text() -> GatedText:
    return GatedText()


@pytest.fixture
def captions(text: GatedText) -> Iterator[CaptionEncoder]:
    made = CaptionEncoder(text)
    yield made
    text.gate.set()
    made.close()


def test_threads_that_ask_for_the_same_captions_share_the_work(
    captions: CaptionEncoder, text: GatedText
) -> None:
    wanted = ["a", "bb", "ccc"]
    got: list[list[float]] = []

    def ask() -> None:
        for _ in range(20):
            found = caption_set(captions, wanted)
            got.append(found.embeddings[:, 0, 0].tolist())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [[1.0, 2.0, 3.0]] * 160
    assert sorted(text.encoded) == wanted
    assert all(name.startswith("shotstream-text") for name in text.threads)
    assert len(text.threads) == 1


def test_rows_stand_in_the_order_asked_for(captions: CaptionEncoder) -> None:
    found = caption_set(captions, ["ccc", "a", "ccc"])
    assert found.embeddings[:, 0, 0].tolist() == [3.0, 1.0, 3.0]
    assert found.lengths == (1, 1, 1)


def test_cache_is_bounded_and_keeps_what_was_used_last(
    captions: CaptionEncoder, text: GatedText
) -> None:
    for number in range(70):
        caption_set(captions, ["first", f"caption {number}"])
    caption_set(captions, ["first"])
    assert text.encoded.count("first") == 1
    caption_set(captions, ["caption 0"])
    assert text.encoded.count("caption 0") == 2


def test_closing_drops_what_was_not_begun_and_refuses_more(text: GatedText) -> None:
    captions = CaptionEncoder(text)
    text.gate.clear()
    woken = Woken()
    captions.want(woken, ["begun", "waiting"])
    assert text.asked.wait(PATIENCE_S)
    closing = threading.Thread(target=captions.close)
    closing.start()
    woken.wait(PATIENCE_S)  # closing wakes whoever waits, and then waits for the caption at hand
    text.gate.set()
    closing.join()
    captions.close()
    assert text.encoded == ["begun"]
    with pytest.raises(SessionClosedError):
        captions.want(woken, ["begun"])
    with pytest.raises(SessionClosedError):
        caption_set(captions, ["waiting"])


@pytest.mark.parametrize(
    ("shape", "lengths", "told"),
    [
        ((4, 2), [1], r"got embeddings \(4, 2\) with 1 length"),
        ((1, 1, 4, 2), [1], r"got embeddings \(1, 1, 4, 2\)"),
        ((1, 4, 2), [5], r"lengths: got \(5,\), wanted 0 to text_len 4"),
        ((1, 4, 2), [-1], r"lengths: got \(-1,\), wanted 0 to text_len 4"),
    ],
)
def test_what_a_text_encoder_returns_is_checked(
    captions: CaptionEncoder,
    text: GatedText,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    lengths: list[int],
    told: str,
) -> None:
    monkeypatch.setattr(text, "encode", lambda _: (torch.zeros(shape), lengths))
    with pytest.raises(ConfigError, match=told):
        caption_set(captions, ["a"])


def test_cached_captions_keep_no_session_alive(bundle: Model) -> None:
    session = Session(bundle)
    session.cut("a")
    list(session.stream())
    captions = session._film.captions
    session.close()
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None
    assert captions.ready("a")
