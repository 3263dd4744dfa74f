"""A film's parts and their end: what a session owns, and what its threads keep alive.

Threads hold the parts, the parts never hold the session: a session that is dropped is freed at once
and closes its film.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING

from .. import nvtx
from ..device.free_memory import give_back_free_memory
from ..errors import SessionClosedError
from ..plan.noise import NoiseSource
from ..plan.planner import planner_of
from ..types import Receipt
from .capture import Capture
from .chunk_log import ChunkLog
from .director import Director
from .film_memory import FilmMemory
from .frame_queue import FrameQueue
from .generator import Generator
from .marks import mark_event
from .options import SessionOptions
from .playlist import Playlist
from .stats import SessionStats
from .threads import holds_one_of, in_background
from .timeline import Timeline
from .turn import Turn
from .workers import Workers

if TYPE_CHECKING:
    from ..loading.load_model import Model

_log = logging.getLogger("shotstream_rt.session")


def _student_threads(threads: int) -> int:
    """Return how many threads an operation of the student gets: one of a film's two.

    Measured on two cores: with both, which then wait for one another beside the decoding, nano's
    film makes 60 frames per second instead of 63. Where halves have the bits of the whole, a
    companion computes half of each pass instead (``device/companion.py``). More threads than two
    were not measured.
    """
    return 1 if threads == 2 else threads


class Film:
    """The parts of one film, running.

    Args:
        model: the loaded model; held until the film is closed.
        options: the session's.
        threads: CPU threads of the film.
        noise: returns the noise source of a seed.
        turn: asked before each chunk; None for a film that never waits for others.
        beside: a film of the same model that this one branches from.

    Attributes:
        stats: times and counts.
        frames: finished chunks on their way to the reader.
        captions: encodes captions, for all sessions of the model.
        timeline: where the film stands.
        director: takes what callers ask.
        marked: whether profiler marks are made.
        closed: whether ``close`` was called.
    """

    def __init__(
        self,
        model: Model,
        options: SessionOptions,
        *,
        threads: int,
        noise: Callable[[int], NoiseSource],
        turn: Turn | None = None,
        beside: Film | None = None,
    ) -> None:
        self._model: Model | None = model
        self._pid = os.getpid()
        self.closed = self._released = False
        self._release_lock = threading.RLock()
        nvtx.mark_garbage_collection()
        self.marked = nvtx.level() > 0
        self._capture = Capture.from_environment(model.device)
        path, queue_chunks = options.stats_path, options.queue_chunks
        self.stats = SessionStats(None if path is None else ChunkLog(path, model.device))
        self.frames = FrameQueue(
            capacity=queue_chunks, policy=options.queue_policy, frame_rate_hz=model.frame_rate_hz
        )
        self._workers: Workers | None = None
        self._generator: Generator | None = None
        model.acquire(self, beside)
        try:
            workers = Workers.assemble(
                model, self.stats, threads=threads, queue_chunks=queue_chunks,
                keep_on_device=options.keep_on_device,
            )  # fmt: skip
        except BaseException:
            model.release(self)
            raise
        stride, latents = model.codec.temporal_stride, model.config.shot.chunk_frames
        first = model.config.rollout.first_frames or latents
        self.captions = workers.captions
        self.timeline = Timeline(
            Playlist(
                trained_chunks=model.config.shot.chunks,
                at_end=options.at_end,
                longest_chunks=planner_of(model.config).longest_shot_chunks,
            ),
            self.frames,
            self.captions,
            capacity=queue_chunks if options.queue_policy == "block" else None,
            # A shot's first latent frame gives one frame, every other one as many as the stride.
            chunk_frames=(stride * (first - 1) + 1, stride * latents),
            whole=model.config.rollout.cut == "keep",
        )
        self.director = Director(self.timeline, model.config.rollout)
        if self.marked:
            self.timeline.events.listen(mark_event)
        if self._capture is not None:
            self.timeline.events.listen(self._capture.hear)
        self._workers = workers
        self._generator = Generator(
            workers,
            self.timeline,
            threads=_student_threads(threads),
            noise=noise,
            turn=turn,
            halves=threads == 2,
        )
        try:
            self.timeline.wish()  # of nothing yet: starts the text thread
            self._generator.start()
        except BaseException:  # no more threads, say
            self.close()
            raise
        _open_films().add(self)

    @property
    def workers(self) -> Workers:
        """The parts that the generator drives.

        Raises:
            SessionClosedError: the film is closed.
            ShotStreamError: this is a forked child of the process that opened it.
        """
        workers = self._workers
        self.frames.check()
        if workers is None:
            raise SessionClosedError("the session is closed; open another one")
        return workers

    @property
    def memory(self) -> FilmMemory:
        """What later shots see of the past; raises as ``workers``."""
        return FilmMemory(self.timeline, self.workers.selector)

    def asked(self, receipt: Receipt) -> None:
        """Mark for profilers that something was asked for, and where the reader is."""
        nvtx.mark("ask", self.frames.read_index(), receipt.id)

    # The end.

    def close(self) -> None:
        """Stop, drop unread frames and free everything.

        May be called from any thread, in a signal handler, and again after it was interrupted:
        every step may be repeated. Another thread does the waiting where this one cannot: where it
        is one of the film's own threads, or a signal interrupted it while it held a lock that one
        of them may want.
        """
        self.closed = True
        if os.getpid() != self._pid:
            return  # the threads and the model are the parent's
        self.frames.closed = self.timeline.stopping = True
        if self._holds_a_lock():
            in_background(self._end)
        else:
            self._end()

    def _end(self) -> None:
        """Stop, and wait for the threads on one that is not the film's own."""
        self.frames.close()
        generator, workers = self._generator, self._workers
        if generator is not None:
            generator.halt()
        own: list[threading.Thread | None] = [] if generator is None else [generator.thread]
        if workers is not None:
            own += [workers.decoder.thread, workers.captions.thread]
        if threading.current_thread() in own:
            in_background(self._release)
        else:
            self._release()

    def abandon(self) -> None:
        """Close in the background; for a session that was dropped without ``close``."""
        if self.closed or os.getpid() != self._pid:
            return
        warnings.warn(
            "a session was dropped without close(); use it in a with block",
            ResourceWarning,
            stacklevel=2,
        )
        # The garbage collector may call this on any thread, with any lock held: also on one that
        # is just starting, for which another one waits.
        in_background(self.close)

    def _holds_a_lock(self) -> bool:
        """Tell whether the calling thread holds a lock that the film's threads may want."""
        workers, log = self._workers, self.stats.log
        locks = [self.timeline.lock, self.frames.lock, self.captions.lock, self.stats.lock]
        locks += [] if workers is None else [workers.decoder.lock]
        locks += [] if log is None else [log.lock]
        return holds_one_of(*locks)

    def _release(self) -> None:
        """Wait for the threads, then let go of the model."""
        generator, workers = self._generator, self._workers
        if generator is not None:
            generator.thread.wait()
            if generator.companion is not None:
                generator.companion.wait()
        self.captions.forget(self.timeline)
        if workers is not None:
            workers.decoder.close()
        with self._release_lock:
            if not self._released:
                if workers is not None:
                    workers.pipeline.close()
                if self._model is not None:
                    self._model.release(self)
                self._released = True
                _log.info("session closed after %d frames", self.stats.frames)
        if self._capture is not None:
            self._capture.close()
        if self.stats.log is not None:
            self.stats.log.close()
        if self.frames.failed is not None:
            _let_go(self.frames.failed)
        if workers is not None:
            workers.decoder.forget_callbacks()
        self._generator = self._workers = self._model = None
        self.timeline.events.listeners.clear()
        for run in self.timeline.runs:
            run.begun = None  # it has copies of what the caches held
        del generator, workers
        _open_films().discard(self)
        give_back_free_memory()


def _let_go(error: BaseException) -> None:
    """Empty the frames of an error, which would keep the model alive for whoever keeps the error.

    They belong to threads that have ended; those that called them hang on behind the traceback.
    """
    chained: BaseException | None = error
    while chained is not None:
        for frame, _ in traceback.walk_tb(chained.__traceback__):
            caller: FrameType | None = frame
            while caller is not None:
                with suppress(RuntimeError):  # still running: not one of the ended threads'
                    caller.clear()
                caller = caller.f_back
        chained = chained.__cause__ or chained.__context__


@cache
def _open_films() -> weakref.WeakSet[Film]:
    """Return the set of open films; those left in it are closed at interpreter exit."""
    films: weakref.WeakSet[Film] = weakref.WeakSet()
    atexit.register(_close_all, films)
    return films


def _close_all(films: weakref.WeakSet[Film]) -> None:
    # A thread that comes back from native code after the interpreter is gone would abort the
    # process, so another Ctrl-C does not cut this short: it lasts at most one denoising step.
    for film in list(films):
        for _ in range(100):
            try:
                film.close()
                break
            except KeyboardInterrupt:
                continue
