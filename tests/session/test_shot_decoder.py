"""Going back in a shot: the same frames, and no chunk decoded again where a state is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import islice

import pytest
import torch
from torch import Tensor

from shotstream_rt import Session
from shotstream_rt.abandonment import ChunkAbandonedError, never
from shotstream_rt.film.shot_decoder import ShotDecoder
from shotstream_rt.model.codec import AbandonableDecoder, ResumableDecoder

from ..patience import PATIENCE_S, wait_for

CHUNKS = 7


class SumDecoder:
    """Every frame is the sum of the stream's latents so far; counts what is decoded."""

    def __init__(self) -> None:
        self.decoded, self._sum, self.broken = 0, torch.zeros(()), False

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded += 1
        self._sum = self._sum + latents.sum()
        if self.broken:
            raise RuntimeError("the accelerator is on fire")
        return self._sum.expand(1, 1, 3, 8, 8)

    def reset(self) -> None:
        self._sum = torch.zeros(())


class ResumableSum(SumDecoder):
    """The same, and it can be resumed."""

    def state(self) -> tuple[Tensor, ...]:
        return (self._sum,)

    def resume(self, state: tuple[Tensor, ...]) -> None:
        (self._sum,) = state


def chunks(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(CHUNKS, 1, 3, 16, 1, 1, generator=generator))


class AbandonableSum(ResumableSum):
    """Gives up behind what it has done."""

    abandoned: Callable[[], bool] = staticmethod(never)

    def decode(self, latents: Tensor) -> Tensor:
        frames = super().decode(latents)
        if self.abandoned():
            raise ChunkAbandonedError
        return frames


@pytest.mark.parametrize("kind", [SumDecoder, ResumableSum])
@pytest.mark.parametrize("back", range(CHUNKS))
def test_a_chunk_takes_the_place_of_all_behind_it(kind: type[SumDecoder], back: int) -> None:
    first, other = chunks(), chunks(1)
    decoder = ShotDecoder(kind(), kept_chunks=CHUNKS, kept_states=3)
    for number, latents in enumerate(first):
        decoder.decode(0, number, latents)
    plain, wanted = kind(), Tensor()
    for latents in [*first[:back], *other[back:]]:
        wanted = plain.decode(latents)
    for number in range(back, CHUNKS):
        frames = decoder.decode(0, number, other[number])
    assert torch.equal(frames, wanted)


@pytest.mark.parametrize(
    ("kind", "back", "decodes"),
    [(ResumableSum, 6, 1), (ResumableSum, 4, 1), (ResumableSum, 3, 4), (ResumableSum, 0, 1),
     (SumDecoder, 6, 7), (SumDecoder, 4, 5), (SumDecoder, 0, 1)],
)  # fmt: skip
def test_what_going_back_decodes(kind: type[SumDecoder], back: int, decodes: int) -> None:
    """Behind each of the newest three chunks nothing but the chunk itself."""
    counted = kind()
    decoder = ShotDecoder(counted, kept_chunks=CHUNKS, kept_states=3)
    for number, latents in enumerate(chunks()):
        decoder.decode(0, number, latents)
    counted.decoded = 0
    decoder.decode(0, back, chunks(1)[back])
    assert counted.decoded == decodes


@pytest.mark.parametrize("kind", [SumDecoder, ResumableSum])
def test_a_failed_decode_leaves_nothing_behind(kind: type[SumDecoder]) -> None:
    counted, latents = kind(), chunks()
    decoder = ShotDecoder(counted, kept_chunks=CHUNKS, kept_states=3)
    wanted = [decoder.decode(0, number, latents[number]) for number in range(3)][-1]
    decoder.decode(0, 0, latents[0])
    decoder.decode(0, 1, latents[1])
    counted.broken = True
    with pytest.raises(RuntimeError, match="on fire"):
        decoder.decode(0, 2, latents[2])
    counted.broken = False
    assert torch.equal(decoder.decode(0, 2, latents[2]), wanted)


@pytest.mark.parametrize("back", [1, 3])
def test_a_decode_that_was_given_up_leaves_nothing_behind(back: int) -> None:
    counted, latents = AbandonableSum(), chunks()
    assert isinstance(counted, AbandonableDecoder)
    decoder = ShotDecoder(counted, kept_chunks=CHUNKS, kept_states=3)
    wanted = [decoder.decode(0, number, latents[number]) for number in range(CHUNKS)]
    with pytest.raises(ChunkAbandonedError):
        decoder.decode(0, back, latents[back], lambda: True)
    for number in range(back, CHUNKS):
        assert torch.equal(decoder.decode(0, number, latents[number]), wanted[number])


def test_an_ask_ends_the_decoding_of_what_it_drops(
    open_session: Callable[..., Session], bundle: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, begun = bundle.fake_codec, threading.Event()  # type: ignore[attr-defined]
    plain, counted = fake.decoder(), AbandonableSum()

    def decode(latents: Tensor) -> Tensor:
        counted.decoded += 1
        if counted.decoded == 2:  # it would go on for ever
            begun.set()
            while not counted.abandoned():
                time.sleep(0.001)
            raise ChunkAbandonedError
        return plain.decode(latents)  # type: ignore[no-any-return]

    monkeypatch.setattr(counted, "decode", decode)
    monkeypatch.setattr(counted, "reset", plain.reset)
    monkeypatch.setattr(counted, "resume", lambda _: None)
    monkeypatch.setattr(fake, "decoder", lambda: counted)
    session = open_session(bundle)
    session.cut("a")
    assert begun.wait(PATIENCE_S)
    session.prompt("b", flush=True)
    captions = [frame.caption for frame in session.stream(timeout_s=PATIENCE_S)]
    assert captions[-1] == "b"
    assert session.failed is None


def test_a_flushed_prompt_decodes_nothing_twice(
    open_session: Callable[..., Session], bundle: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = ResumableSum()
    assert isinstance(counted, ResumableDecoder)
    fake = bundle.fake_codec  # type: ignore[attr-defined]
    plain = fake.decoder()

    def decode(latents: Tensor) -> Tensor:
        counted.decoded += 1
        return plain.decode(latents)  # type: ignore[no-any-return]

    monkeypatch.setattr(counted, "decode", decode)
    monkeypatch.setattr(counted, "reset", plain.reset)
    monkeypatch.setattr(counted, "resume", lambda _: None)
    monkeypatch.setattr(fake, "decoder", lambda: counted)
    session = open_session(bundle, queue_chunks=1)
    session.cut("a")
    list(islice(session.stream(timeout_s=PATIENCE_S), 50))  # within chunk 4
    wait_for(lambda: session.state.waits_for_reader)
    made = counted.decoded
    session.prompt("b", flush=True)
    [frame] = islice(session.stream(timeout_s=PATIENCE_S), 1)
    assert (frame.chunk, frame.caption) == (4, "b")
    wait_for(lambda: session.state.waits_for_reader)
    assert (made, counted.decoded) == (6, 8), "chunk 4 again, and the one behind it"
