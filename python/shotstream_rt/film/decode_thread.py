"""The decode thread: from latents to frames.

The generator thread hands over each chunk's latents and goes on. This thread decodes them as the
next part of the shot, delivers the frames, and only then stores them as possible context frames of
later shots, which nobody waits for. It knows nothing of prompts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..abandonment import ChunkAbandonedError
from ..device.decode_stream import DecodeStream
from ..device.host_ring import HostRing
from ..device.streams import Event, Streams
from ..errors import ShotStreamError
from ..kernels.reference.frame_pack import frame_pack
from ..model.codec import StreamDecoder
from ..nvtx import annotate
from ..types import Chunk
from .context import ContextSelector
from .frame_queue import as_ordinary
from .shot_decoder import ShotDecoder
from .shots import ShotRun
from .stats import SessionStats
from .threads import WorkerThread, set_thread_count


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeJob:
    """One chunk to decode.

    Attributes:
        run: the shot it belongs to.
        chunk: chunk number in the shot; 0 starts a new decoder stream, and one that was decoded
            before is decoded instead of it.
        caption: what the text encoder read for it.
        begin: its first frame that the film shows; those before it were made before, with another
            caption.
        end: the frame behind the last one that the film shows.
        index: number in the film of frame ``begin``.
        given: frames below this one were delivered before, and the reader does not get them again.
        epoch: that of the shot when the chunk was made.
        abandoned: tells whether nobody wants the chunk any more.
        begun_s: when making it began, ``time.perf_counter`` in seconds.
        alone: whether hardly anything else of the film computes until it is decoded.
    """

    run: ShotRun
    chunk: int
    caption: str
    begin: int
    end: int
    index: int
    given: int
    epoch: int
    abandoned: Callable[[], bool]
    begun_s: float
    alone: bool = False


class DecodeThread:
    """Decodes chunks in the order in which they are submitted.

    Args:
        decoder: decodes every shot, one after the other.
        selector: is given every frame as floats, before packing to 8 bits.
        stats: is told of chunks, and its log how long decoding takes.
        frame_rate_hz: frames per second, for the presentation times.
        threads: intra-op threads of this thread on a CPU.
        alone_threads: those for a chunk that is decoded alone.
        streams: of the device where latents arrive; None where calls return when work is done.
        ring: brings pixels to the host; None leaves them where they are decoded, which on a CPU
            is the host.
        keep_on_device: hand out torch tensors, not NumPy arrays; then without a ring.
        pack: turns float frames ``[P, 3, H, W]`` into uint8 ``[P, H, W, 3]``.
        kept_chunks: first chunks of a shot whose latents are kept; see ``ShotDecoder``.
        kept_states: newest chunks behind which the decoder's memory is kept.

    Attributes:
        thread: the thread, None before ``start``.
        lock: guards what this thread shares with the others.
    """

    def __init__(
        self,
        decoder: StreamDecoder,
        selector: ContextSelector,
        stats: SessionStats,
        *,
        frame_rate_hz: int,
        threads: int = 1,
        alone_threads: int = 1,
        streams: Streams | None = None,
        ring: HostRing | None = None,
        keep_on_device: bool = False,
        pack: Callable[[Tensor], Tensor] = frame_pack,
        kept_chunks: int = 0,
        kept_states: int = 0,
    ) -> None:
        self._decoder = ShotDecoder(decoder, kept_chunks=kept_chunks, kept_states=kept_states)
        self._selector = selector
        self._frame_rate_hz = frame_rate_hz
        self._threads, self._alone_threads = threads, alone_threads
        self._more_alone = alone_threads != threads
        self._stream = None if streams is None else DecodeStream(streams)
        # Gives a chunk's finished pixels as the reader gets them.
        self._to_reader: Callable[[Tensor], Any] = Tensor.numpy
        if keep_on_device:
            self._to_reader = partial(_left_there, self._stream)
        elif ring is not None:
            self._to_reader = partial(_fetched, ring)
        self._pack, self._stats = pack, stats
        self._waiting: tuple[DecodeJob, Tensor, Event | None] | None = None
        # May be entered again by the thread that holds it: a signal handler may close the session.
        self.lock = threading.RLock()
        self._progress = threading.Condition(self.lock)
        self._submitted = self._taken = self._queued = self._done = 0
        self._ending = False
        self.thread: WorkerThread | None = None

    def start(
        self,
        on_chunk: Callable[[DecodeJob, Chunk], None],
        on_done: Callable[[], None],
        on_error: Callable[[DecodeJob, BaseException], None],
    ) -> None:
        """Start the thread, which makes these calls.

        Args:
            on_chunk: called with each chunk that is handed out as soon as it is decoded.
            on_done: called for each chunk when its frames are stored for later shots, or it was
                skipped.
            on_error: called with a chunk and what went wrong with it.
        """
        self._on_chunk, self._on_done, self._on_error = on_chunk, on_done, on_error
        self.thread = WorkerThread("shotstream-decode", self._main, self._threads)
        self.thread.start()

    def submit(self, x0: Tensor, job: DecodeJob) -> None:
        """Hand over a chunk's latents ``[1, F, C, h, w]``; waits while another one waits."""
        latents = x0.clone()  # a backend may reuse its memory
        ready = None if self._stream is None else self._stream.mark()
        with self.lock:
            while self._waiting is not None:
                self._progress.wait()
            self._waiting = job, latents, ready
            self._submitted += 1
            self._progress.notify_all()

    def wait_idle(self) -> None:
        """Wait until everything submitted is decoded and stored for later shots."""
        with self.lock:
            while self._done < self._submitted:
                self._progress.wait()

    def yield_to_decoding(self) -> None:
        """Let nothing compete with decoding: wait for it; with streams, the caller's waits."""
        if self._stream is None:
            self.wait_idle()
        else:
            self._hold_caller(self._stream)

    def _hold_caller(self, stream: DecodeStream) -> None:
        """Wait until decoding is queued on the device, where the caller's stream waits for it."""
        with self.lock:
            while self._queued < self._submitted:
                self._progress.wait()
        stream.hold_caller()

    def can_go_back(self, run: ShotRun, chunk: int) -> bool:
        """Tell whether a chunk of a shot can be decoded next; while nothing is being decoded."""
        return self._decoder.can_go_back(run, chunk)

    def close(self) -> None:
        """Stop after the job at hand and wait for the thread; may be called again."""
        self._ending = True
        with self.lock:
            self._progress.notify_all()
        if self.thread is not None:
            self.thread.wait()

    def forget_callbacks(self) -> None:
        """Let go of the calls given to ``start``, which lead back to this thread; once it ended."""
        self._on_chunk = self._on_done = self._on_error = _nothing

    def _main(self) -> None:
        on_stream = nullcontext() if self._stream is None else self._stream.use()
        with torch.inference_mode(), on_stream:
            while (waiting := self._next_job()) is not None:
                job, latents, ready = waiting
                del waiting
                try:
                    # What is not wanted any more is still taken, so that no other thread waits for
                    # ever.
                    if not (self._ending or job.abandoned()):
                        self._decode(job, latents, ready)
                except ChunkAbandonedError:
                    pass
                except BaseException as error:
                    self._on_error(job, error)
                finally:
                    self._on_done()
                    self._note_queued()
                    with self.lock:
                        self._done += 1
                        self._progress.notify_all()
                del job, latents, ready  # not kept while waiting for the next

    def _next_job(self) -> tuple[DecodeJob, Tensor, Event | None] | None:
        """Wait for a job, its latents and the event that they are ready; None to end."""
        with self.lock:
            while self._waiting is None and not self._ending:
                self._progress.wait()
            waiting, self._waiting = self._waiting, None
            self._taken += waiting is not None
            self._progress.notify_all()
            return waiting

    def _decode(self, job: DecodeJob, latents: Tensor, ready: Event | None) -> None:
        """Decode latents, deliver the frames, then store those that later shots may need."""
        run, chunk, log, pixels = job.run, job.chunk, self._stats.log, None
        if self._stream is not None and ready is not None:
            self._stream.take(latents, ready)
        timed = nullcontext() if log is None else log.span("decode", run.times, chunk)
        with annotate("vae.decode", chunk), timed:
            finite = torch.isfinite(latents).all()
            with self._alone() if job.alone and self._more_alone else nullcontext():
                frames = self._decoder.decode(run, chunk, latents, job.abandoned)[0]
            # A NaN among many numbers is one in their sum, which is read once.
            finite &= torch.isfinite(frames.sum(dtype=torch.float32))
        if self._stream is not None:
            self._stream.note_decoded()
            self._note_queued()
        begin = max(job.begin, job.given)
        if begin < job.end:
            with annotate("frame.pack", chunk):
                pixels = self._to_reader(self._pack(frames[begin : job.end]))
        if not bool(finite):  # here the device has been waited for
            raise _not_finite(job)
        if pixels is not None:
            index = job.index + begin - job.begin
            made = Chunk(
                pixels=pixels, index=index, shot=run.shot, chunk=chunk,
                pts_s=index / self._frame_rate_hz, take=run.request.take, caption=job.caption,
                made_s=time.perf_counter(),
            )  # fmt: skip
            self._stats.chunk_ready(run.times, made)
            self._on_chunk(job, made)
        with annotate("context.encode", run.shot):
            self._selector.add_frames(frames[job.begin : job.end])
            if self._stream is not None:  # the generator thread reads these frames on another one
                self._stream.finish()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Give this thread the intra-op threads of a chunk that is decoded alone."""
        set_thread_count(self._alone_threads)
        try:
            yield
        finally:
            set_thread_count(self._threads)

    def _note_queued(self) -> None:
        """Note that the decoding of the job at hand is queued on the device, or never will be."""
        with self.lock:
            self._queued = self._taken
            self._progress.notify_all()


def _left_there(stream: DecodeStream | None, pixels: Tensor) -> Tensor:
    """Return finished pixels where they were decoded."""
    if stream is not None:
        stream.finish()
    return as_ordinary(pixels)


def _fetched(ring: HostRing, pixels: Tensor) -> Any:
    """Return finished pixels on the host."""
    with annotate("host.copy"):
        return ring.fetch(pixels)


def _not_finite(job: DecodeJob) -> ShotStreamError:
    return ShotStreamError(
        f"shot {job.run.shot}, chunk {job.chunk}: got latents or pixels with NaN or infinite "
        "numbers, wanted finite ones; cut again or restore a snapshot. If it happens again, the "
        "weights or the numbers' type (dtype, profile) do not suit this device"
    )


def _nothing(*_: object) -> None:
    """Stand in for a call that is not wanted any more."""
