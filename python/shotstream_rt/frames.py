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
from dataclasses import dataclass

import torch
from torch import Tensor

from .context import ContextSelector
from .kernels.reference.frame_pack import frame_pack
from .model.codec import LatentCodec
from .nvtx import annotate
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
    ready: torch.cuda.Event | None
    done: Callable[[Chunk], None]
    settled: Callable[[], None]


class DecodeWorker:
    """The decode thread.

    Args:
        codec: makes the streaming decoder.
        selector: is told every frame in float, before 8-bit packing.
        on_error: called once, from the thread, with what stopped it.
        threads: intra-op threads of this thread on a CPU.
        device: where latents arrive.
        keep_on_device: leave pixels there, as torch tensors, instead of copying them to the host.
    """

    def __init__(
        self,
        codec: LatentCodec,
        selector: ContextSelector,
        *,
        on_error: Callable[[BaseException], None],
        threads: int = 1,
        device: torch.device | str = "cpu",
        keep_on_device: bool = False,
    ) -> None:
        self._keep_on_device = keep_on_device
        self._decoder = codec.decoder()
        self._selector = selector
        self._on_error = on_error
        self._threads = threads
        self._device = torch.device(device)
        self._jobs: queue.Queue[DecodeJob | None] = queue.Queue(maxsize=1)
        self._next_index = 0
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="shotstream-decode", daemon=True)
        self._thread.start()

    def submit(self, job: DecodeJob) -> None:
        """Hand over a chunk; waits while another one is already waiting."""
        self._jobs.put(job)

    def wait_idle(self) -> None:
        """Wait until everything handed over is decoded and its context frames are stored."""
        self._jobs.join()

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
        on_device = self._device.type == "cuda"
        stream = torch.cuda.Stream(self._device) if on_device else None
        with torch.inference_mode(), torch.cuda.stream(stream):
            while (job := self._jobs.get()) is not None:
                self._attempt(job)
                self._jobs.task_done()
            self._jobs.task_done()

    def _attempt(self, job: DecodeJob) -> None:
        """Decode unless something failed before: jobs are still taken, so that nobody waits."""
        if self._failed:
            return
        try:
            self._decode(job)
        except BaseException as error:
            self._failed = True
            self._on_error(error)

    def _decode(self, job: DecodeJob) -> None:
        stream = torch.cuda.current_stream(self._device) if job.ready is not None else None
        if stream is not None and job.ready is not None:
            stream.wait_event(job.ready)
            job.latents.record_stream(stream)
        if job.chunk == 0:
            self._decoder.reset()
        with annotate("vae.decode", job.chunk):
            frames = self._decoder.decode(job.latents)[0]  # [P, 3, H, W]
        if job.deliver:
            with annotate("frame.pack", job.chunk):
                packed = frame_pack(frames)
                pixels = packed if self._keep_on_device else packed.cpu().numpy()
                if stream is not None:
                    stream.synchronize()
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
            if stream is not None:
                stream.synchronize()  # other threads read these frames on streams of their own
        job.settled()
