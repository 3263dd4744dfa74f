"""From latents to frames: the decode thread.

The generator thread hands over each chunk's latents and goes on; this thread decodes them with the
shot's streaming decoder, lets the chunk out, and only then does what the next cut will need (the
context frames). It knows nothing of prompts.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .context import ContextSelector
from .host_ring import HostRing
from .kernels.reference.frame_pack import frame_pack
from .model.codec import StreamDecoder
from .nvtx import annotate
from .streams import Event, Stream, Streams
from .types import FRAME_RATE_HZ, Chunk

_log = logging.getLogger("shotstream_rt.frames")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeJob:
    """One chunk to decode.

    Attributes:
        latents: ``[1, F, C, h, w]``, owned by the job.
        shot: shot number in the film.
        chunk: chunk number in the shot; 0 starts a new decoder stream.
        deliver: whether its frames leave (false while a snapshot is being caught up with).
        ready: event after which a device has finished writing ``latents``.
        done: called with the chunk as soon as it is decoded, if it is to be delivered.
        settled: called when its context frames are stored too.
    """

    latents: Tensor
    shot: int
    chunk: int
    deliver: bool
    ready: Event | None
    done: Callable[[Chunk], None]
    settled: Callable[[], None]


class DecodeWorker:
    """The decode thread.

    Args:
        decoder: decodes every shot, one after the other.
        selector: is told every frame in float, before 8-bit packing.
        on_error: called once, from the thread, with what stopped it.
        threads: intra-op threads of this thread on a CPU.
        streams: of the device where latents arrive; None where calls return when work is done.
        ring: brings pixels to the host; None leaves them where they are decoded, which on a CPU
            is the host.
        keep_on_device: hand out torch tensors, not NumPy arrays; then without a ring.
        pack: makes bytes of frames.
    """

    def __init__(
        self,
        decoder: StreamDecoder,
        selector: ContextSelector,
        *,
        on_error: Callable[[BaseException], None],
        threads: int = 1,
        streams: Streams | None = None,
        ring: HostRing | None = None,
        keep_on_device: bool = False,
        pack: Callable[[Tensor], Tensor] = frame_pack,
    ) -> None:
        self._decoder, self._selector = decoder, selector
        self._on_error = on_error
        self._threads = threads
        self._streams, self._ring = streams, ring
        self._keep_on_device, self._pack = keep_on_device, pack
        self._stream: Stream | None = None
        if streams is not None:
            self._stream = streams.stream(urgent=True)
            self._decoded, self._settled = streams.event(), streams.event()
        self._jobs: queue.Queue[DecodeJob | None] = queue.Queue(maxsize=1)
        self._turn = threading.Condition()
        self._submitted = self._taken = self._queued = 0
        self._next_index = 0
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="shotstream-decode", daemon=True)
        self._thread.start()

    def submit(self, job: DecodeJob) -> None:
        """Hand over a chunk; waits while another one is already waiting."""
        self._submitted += 1
        self._jobs.put(job)

    def wait_idle(self) -> None:
        """Wait until everything handed over is decoded and its context frames are stored."""
        self._jobs.join()

    def yield_to_decoding(self) -> None:
        """Let nothing compete with the decoding of what was handed over.

        With streams, the calling thread's stream waits for it on the device, and the thread only
        until the decoding is queued; without, the thread waits for it.
        """
        if self._streams is None:
            self.wait_idle()
            return
        with self._turn:
            self._turn.wait_for(lambda: self._queued == self._submitted)
        if not self._failed:
            self._streams.current().wait_event(self._decoded)

    def set_next_index(self, index: int) -> None:
        """Number the next frame ``index``; call only while idle."""
        self._next_index = index

    def close(self) -> None:
        """Stop after the jobs at hand and wait for the thread; idempotent."""
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        streams, stream = self._streams, self._stream
        there = nullcontext() if streams is None or stream is None else streams.use(stream)
        with torch.inference_mode(), there:
            while (job := self._jobs.get()) is not None:
                self._attempt(job)
                self._jobs.task_done()
            self._jobs.task_done()

    def _attempt(self, job: DecodeJob) -> None:
        """Decode unless something failed before: jobs are still taken, so that nobody waits."""
        self._taken += 1
        try:
            if not self._failed:
                self._finish(job, self._decode(job))
        except BaseException as error:
            self._failed = True
            self._on_error(error)
        finally:
            self._note_queued()

    def _decode(self, job: DecodeJob) -> Tensor:
        """Queue the decoding of a job; its frames are float ``[P, 3, H, W]``."""
        streams, stream = self._streams, self._stream
        if streams is not None and stream is not None and job.ready is not None:
            stream.wait_event(job.ready)
            streams.lend(job.latents, stream)
        if job.chunk == 0:
            self._decoder.reset()
        with annotate("vae.decode", job.chunk):
            frames = self._decoder.decode(job.latents)[0]
        if stream is not None:
            self._decoded.record(stream)
            self._note_queued()
        return frames

    def _note_queued(self) -> None:
        """Tell whoever waits that the decoding of the job at hand is queued, or will never be."""
        with self._turn:
            self._queued = self._taken
            self._turn.notify_all()

    def _finish(self, job: DecodeJob, frames: Tensor) -> None:
        """Let a chunk out, then do what the next cut will need."""
        if job.deliver:
            with annotate("frame.pack", job.chunk):
                pixels = self._take_out(self._pack(frames))
            index, self._next_index = self._next_index, self._next_index + len(pixels)
            _log.debug("shot %d chunk %d: frames from %d", job.shot, job.chunk, index)
            job.done(
                Chunk(
                    pixels=pixels,
                    index=index,
                    shot=job.shot,
                    chunk=job.chunk,
                    pts_s=index / FRAME_RATE_HZ,
                )
            )
        with annotate("context.encode", job.shot):
            self._selector.add_frames(frames)
            if self._stream is not None:
                # Other threads read these frames on streams of their own.
                self._settled.record(self._stream)
                self._settled.synchronize()
        job.settled()

    def _take_out(self, packed: Tensor) -> Any:
        """Return a chunk's pixels as the consumer wants them, complete."""
        if self._ring is not None:
            with annotate("host.copy"):
                return self._ring.fetch(packed)
        if self._stream is not None:
            self._settled.record(self._stream)
            self._settled.synchronize()
        return packed if self._keep_on_device else packed.numpy()
