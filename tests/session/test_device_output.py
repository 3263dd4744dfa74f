"""Frames on their way out of a device, on streams that a test can look into.

The fake device runs nothing before it must: a copy happens when its event is waited for, so what is
read too early is wrong. Every wait notes which thread waited.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shotstream_rt.backends.cuda_graph import GraphCapture
from shotstream_rt.device.host_ring import HostRing
from shotstream_rt.device.streams import CudaStreams, streams_of
from shotstream_rt.loading.load_model import Model
from shotstream_rt.model.checkpoint import load_checkpoint
from shotstream_rt.model.chunk_decoder import ChunkCodec, ChunkShape
from shotstream_rt.model.wan_vae.codec import WanCodec
from shotstream_rt.session import Session

GOLDEN = Path(__file__).parents[1] / "golden"
Opener = Callable[..., Session]
SHAPE = (8, 2, 3, 3)


class FakeStream:
    """Work in order, not done yet."""

    def __init__(self, name: str, log: list[tuple[str, ...]]) -> None:
        self.name, self.log = name, log
        self.work: list[Callable[[], None]] = []
        self.done = 0

    def wait_event(self, event: FakeEvent) -> None:
        assert event.place is not None, "waits for an event that marks nothing yet"
        origin, upto = event.place
        self.log.append((self.name, "waits for", origin.name))
        self.work.append(lambda: origin.run(upto))

    def run(self, upto: int) -> None:
        while self.done < upto:
            self.done += 1
            self.work[self.done - 1]()


class FakeEvent:
    """A place in a stream; who waits for it is noted."""

    def __init__(self, log: list[tuple[str, ...]]) -> None:
        self.log = log
        self.place: tuple[FakeStream, int] | None = None

    def record(self, stream: FakeStream) -> None:
        self.place = stream, len(stream.work)
        self.log.append((stream.name, "marks"))

    def synchronize(self) -> None:
        assert self.place is not None
        stream, upto = self.place
        self.log.append((threading.current_thread().name, "waits on the host for", stream.name))
        stream.run(upto)


class FakeStreams:
    """The ``Streams`` of no device."""

    def __init__(self) -> None:
        self.log: list[tuple[str, ...]] = []
        self.main = FakeStream("main", self.log)
        self.made: list[FakeStream] = []
        self.lent: list[tuple[Tensor, FakeStream]] = []
        self.buffers: list[Tensor] = []
        self._current = threading.local()

    def stream(self, *, urgent: bool = False) -> FakeStream:
        self.made.append(FakeStream("urgent" if urgent else "copy", self.log))
        return self.made[-1]

    def current(self) -> FakeStream:
        stream: FakeStream = getattr(self._current, "stream", self.main)
        return stream

    @contextmanager
    def use(self, stream: Any) -> Iterator[None]:
        before = self.current()
        self._current.stream = stream
        yield
        self._current.stream = before

    def event(self) -> FakeEvent:
        return FakeEvent(self.log)

    def host_buffer(self, shape: tuple[int, ...]) -> Tensor:
        self.buffers.append(torch.full(shape, 255, dtype=torch.uint8))
        return self.buffers[-1]

    def copy(self, target: Tensor, source: Tensor) -> None:
        self.log.append((self.current().name, "copies"))
        self.current().work.append(lambda: void(target.copy_(source)))

    def lend(self, tensor: Tensor, stream: Any) -> None:
        self.lent.append((tensor, stream))


def void(_: object) -> None:
    """Drop a value."""


def pictures(value: int, frames: int = 8) -> Tensor:
    return torch.full((frames, *SHAPE[1:]), value, dtype=torch.uint8)


@pytest.fixture
def streams() -> FakeStreams:
    return FakeStreams()


def test_a_cpu_has_no_streams() -> None:
    assert streams_of(torch.device("cpu")) is None


def test_a_copy_runs_behind_the_pictures_on_a_stream_of_its_own(streams: FakeStreams) -> None:
    ring = HostRing(streams, SHAPE, slots=2)
    made = pictures(7, frames=5)
    got = ring.fetch(made)
    assert got.shape == (5, *SHAPE[1:])
    assert (got == 7).all()
    assert [entry[:2] for entry in streams.log] == [
        ("main", "marks"),
        ("copy", "waits for"),
        ("copy", "copies"),
        ("copy", "marks"),
        ("MainThread", "waits on the host for"),
    ]
    assert streams.lent == [(made, streams.made[0])]


def test_pictures_are_the_buffers_and_never_change_while_held(streams: FakeStreams) -> None:
    ring = HostRing(streams, SHAPE, slots=2)
    held = [ring.fetch(pictures(value)) for value in (1, 2)]
    addresses = {buffer.data_ptr() for buffer in streams.buffers}
    assert len(addresses) == 3
    assert {array.ctypes.data for array in held} < addresses
    for value in range(3, 9):
        assert (ring.fetch(pictures(value)) == value).all()
    assert [int(array[0, 0, 0, 0]) for array in held] == [1, 2]


def test_a_buffer_comes_back_with_the_last_view_of_it(streams: FakeStreams) -> None:
    ring = HostRing(streams, SHAPE, slots=2)
    first = ring.fetch(pictures(1))
    where = first.ctypes.data
    frame = first[3][1:]  # a view of a view
    tensor = torch.from_numpy(frame)
    del first
    gc.collect()
    assert ring.free == 1
    del frame
    gc.collect()
    assert ring.free == 1
    assert (tensor == 1).all()
    del tensor
    gc.collect()
    assert ring.free == 2
    # Buffers go round, so the one just left rests longest.
    assert ring.fetch(pictures(2)).ctypes.data != where
    assert ring.fetch(pictures(3)).ctypes.data == where


def test_who_keeps_everything_gets_copies_and_the_ring_does_not_grow(streams: FakeStreams) -> None:
    ring = HostRing(streams, SHAPE, slots=2)
    kept = [ring.fetch(pictures(value)) for value in range(10)]
    assert [int(array.min()) for array in kept] == list(range(10))
    assert [int(array.max()) for array in kept] == list(range(10))
    assert [array.flags.owndata for array in kept] == [False] * 2 + [True] * 8
    assert (ring.free, len(streams.buffers)) == (0, 3)
    kept.clear()
    gc.collect()
    assert ring.free == 2
    assert not ring.fetch(pictures(3)).flags.owndata


def test_the_ring_outlives_nobody(streams: FakeStreams) -> None:
    ring = HostRing(streams, SHAPE, slots=1)
    kept = ring.fetch(pictures(4))
    del ring, streams
    gc.collect()
    assert (kept == 4).all()
    del kept


@pytest.fixture
def on_fake_device(
    monkeypatch: pytest.MonkeyPatch, streams: FakeStreams, open_session: Opener
) -> Opener:
    """Open sessions whose decoding goes through the fake device."""
    monkeypatch.setattr("shotstream_rt.film.workers.streams_of", lambda _device: streams)
    return open_session


def film(session: Session) -> list[Any]:
    session.cut("a")
    session.cut("b")
    return list(session.stream())


def test_films_are_the_same(on_fake_device: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    there = film(on_fake_device())
    monkeypatch.undo()
    here = film(on_fake_device())
    assert len(there) == len(here) > 20
    for one, other in zip(there, here, strict=True):
        assert (one.index, one.shot, one.chunk) == (other.index, other.shot, other.chunk)
        assert np.array_equal(one.pixels, other.pixels)


def test_decoding_runs_behind_its_chunk_and_beside_the_next(
    on_fake_device: Opener, streams: FakeStreams
) -> None:
    session = on_fake_device()
    session.cut("a")
    frames = list(session.stream())
    assert frames
    log = [entry for entry in streams.log if "copy" not in entry]
    chunks = session._config.shot.chunks
    # The chunk is marked on the main stream before the decoding stream waits for it.
    assert log.count(("urgent", "waits for", "main")) == chunks
    marks, waits = 0, 0
    for entry in log:
        marks += entry == ("main", "marks")
        waits += entry == ("urgent", "waits for", "main")
        assert waits <= marks
    # The main stream waits for pixels once, behind a shot's first chunk, and on the device.
    assert log.count(("main", "waits for", "urgent")) == 1
    first = log.index(("main", "waits for", "urgent"))
    assert log[:first].count(("urgent", "marks")) >= 1
    assert log[:first].count(("main", "marks")) == 1


def test_only_the_decode_thread_waits_for_the_device(
    on_fake_device: Opener, streams: FakeStreams
) -> None:
    film(on_fake_device())
    waiting = {entry[0] for entry in streams.log if entry[1] == "waits on the host for"}
    assert waiting == {"shotstream-decode"}


def test_latents_are_kept_until_they_are_decoded(
    on_fake_device: Opener, streams: FakeStreams
) -> None:
    session = on_fake_device()
    session.cut("a")
    next(session.chunks())
    latents, stream = next(pair for pair in streams.lent if pair[0].dim() == 5)
    assert latents.shape[0] == 1
    assert stream.name == "urgent"


def test_frames_on_the_host_are_the_rings_memory(
    on_fake_device: Opener, streams: FakeStreams
) -> None:
    session = on_fake_device()
    session.cut("a")
    chunk = next(session.chunks())
    starts = {buffer.data_ptr() for buffer in streams.buffers}
    assert chunk.pixels.ctypes.data in starts
    assert torch.from_dlpack(chunk).data_ptr() in starts


def test_chunks_that_stay_on_the_device_are_not_copied(
    on_fake_device: Opener, streams: FakeStreams
) -> None:
    session = on_fake_device(keep_on_device=True)
    session.cut("a")
    chunks = list(session.chunks())
    assert all(isinstance(chunk.pixels, Tensor) for chunk in chunks)
    assert torch.from_dlpack(chunks[0]).data_ptr() == chunks[0].pixels.data_ptr()
    assert len({chunk.pixels.data_ptr() for chunk in chunks}) == len(chunks)
    assert not streams.buffers
    assert not any("copies" in entry for entry in streams.log)


def test_a_reader_that_stops_stops_the_device(on_fake_device: Opener, streams: FakeStreams) -> None:
    session = on_fake_device(queue_chunks=2)
    session.cut("a")
    session.cut("b")
    next(session.stream())
    session._film.workers.decoder.wait_idle()
    queued = sum(entry[1] == "copies" for entry in streams.log)
    assert queued <= 1 + 2 + 1  # read, waiting, being made
    rest = list(session.stream())
    assert rest
    assert sum(entry[1] == "copies" for entry in streams.log) > queued


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_films_decoded_by_chunks_are_those_decoded_latent_by_latent(
    bundle: Model, place: str
) -> None:
    device = torch.device(place)
    state = load_checkpoint(GOLDEN / "weights_vae.safetensors")
    fake: Any = type(bundle)
    plain = WanCodec.from_state(state)
    with fake(bundle.config, plain) as model, Session(model) as session:
        wanted = film(session)

    def recorder() -> Callable[[Callable[[], None]], Callable[[], None]]:
        return GraphCapture(device, urgent=True) if place == "cuda" else lambda run: run

    size = bundle.config.model.latent_height, bundle.config.model.latent_width
    shape = ChunkShape(frames=bundle.config.shot.chunk_frames, height=size[0], width=size[1])
    codec = ChunkCodec(WanCodec.from_state(state, device=device), shape, recorder)
    recorded = fake(bundle.config, codec, device)
    made = recorded.pipeline.run_chunk
    recorded.pipeline.run_chunk = lambda *call: made(*call).to(device)
    with recorded, Session(recorded) as session:
        got = film(session)
    assert len(got) == len(wanted) == 2 * 81
    for one, other in zip(got, wanted, strict=True):
        assert one.index == other.index
        # A GPU may take tf32 products.
        assert np.abs(one.pixels.astype(int) - other.pixels.astype(int)).mean() <= 1.0


@pytest.mark.gpu
def test_pictures_come_off_a_gpu_whole_and_in_order() -> None:
    device = torch.device("cuda")
    ring = HostRing(CudaStreams(device), (12, 480, 832, 3), slots=2)
    kept = []
    for value in range(20):
        # Long enough for a copy that does not wait to be seen.
        slow = torch.ones(4096, 4096, device=device)
        for _ in range(20):
            slow = slow @ slow * (1 / 4096)
        made = (slow.flatten()[0] * value).to(torch.uint8).expand(12, 480, 832, 3).contiguous()
        kept.append(ring.fetch(made))
        del made
    assert [(int(array.min()), int(array.max())) for array in kept] == [(v, v) for v in range(20)]
