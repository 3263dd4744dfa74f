"""The generator thread: takes commands at chunk boundaries and drives the pipeline.

One turn makes one chunk: begin the next shot if one is due, apply a new caption, denoise, hand the
latents to the decode thread, and run the clean pass while they are decoded (``shot_maker.py``). A
turn may restore a snapshot instead. This thread never looks at pixels.

A turn begins only when the reader's queue has room for its chunk: a reader that stops reading stops
the generator, and nothing is computed further ahead than the queue is long. Films that share a
device also wait for one another there (``turn.py``).

A failure ends the shot that it happened in. Then no turn begins until shots are queued or a
snapshot is restored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from ..abandonment import ChunkAbandonedError
from ..backends.base import AccompaniedFilm
from ..checks import check_float_precision
from ..device.companion import Companion
from ..plan.noise import NoiseSource
from .decode_thread import DecodeJob
from .shot_maker import ShotMaker
from .shots import ShotRun
from .threads import WorkerThread
from .timeline import Timeline
from .turn import Turn
from .way_back import WayBack
from .workers import Workers

_log = logging.getLogger("shotstream_rt.film.generator")


class Generator:
    """Takes a film's turns, and passes on what was made.

    Args:
        workers: the parts it drives.
        timeline: where it finds what to make.
        threads: intra-op threads of this thread on a CPU.
        noise: returns the noise source of a seed.
        turn: asked before each chunk; None for a film that never waits for others.
        halves: give the film a companion, which computes one half of each pass, if it takes one.

    Attributes:
        thread: the generator thread.
        companion: its companion's thread, or None.
    """

    def __init__(
        self,
        workers: Workers,
        timeline: Timeline,
        *,
        threads: int,
        noise: Callable[[int], NoiseSource],
        turn: Turn | None = None,
        halves: bool = False,
    ) -> None:
        self._workers, self._timeline, self._turn = workers, timeline, turn
        self._boundary_ns = 0
        self._back = WayBack(workers, timeline)
        self._maker = ShotMaker(workers, timeline, self._back, noise=noise, turn=turn)
        self.thread = WorkerThread("shotstream-generate", self._main, threads)
        self.companion, self._companion = None, None
        film = workers.pipeline.film
        if halves and isinstance(film, AccompaniedFilm):
            film.companion = self._companion = Companion()
            self.companion = WorkerThread("shotstream-halves", self._companion.serve, threads)

    def start(self) -> None:
        """Start this thread, its companion and the decode thread."""
        self._workers.decoder.start(self._timeline.deliver, self._note_done, self._fail_job)
        self.thread.start()
        if self.companion is not None:
            self.companion.start()  # last: this thread dismisses it when it ends

    def halt(self) -> None:
        """Ask the thread to end before its next denoising step."""
        self._timeline.stopping = True
        self._timeline.wake()

    # On the generator thread.

    @torch.inference_mode()
    def _main(self) -> None:
        """Make chunk after chunk; a failure ends the shot that it happened in."""
        timeline, maker, back = self._timeline, self._maker, self._back
        try:
            while (due := self._next_turn()) is not None:
                if isinstance(due, ShotRun):
                    run, begun_s, made = due, time.perf_counter(), 0
                    try:
                        check_float_precision(self._workers.device)
                        if run.frames == 0:
                            maker.begin(run, self._boundary_ns)
                        elif run is not maker.run:
                            maker.take_up(run)
                        if timeline.prompt or run.request.prompts or maker.caption != run.caption:
                            maker.change_caption(run)
                        if back.needs_prompt:
                            back.give_up()
                        made = maker.make_chunk(run, begun_s)
                        maker.finish_chunk(run)
                    except ChunkAbandonedError:
                        _log.debug("shot %d: given up", run.shot)
                    except BaseException as error:
                        self._workers.decoder.wait_idle()  # what was made is still delivered
                        timeline.fail(run, run.next_chunk, timeline.next_index, run.epoch, error)
                    finally:
                        self._end_turn(made)
                    del run
                else:
                    due()
                    maker.viewer_waits = True
                del due
        finally:
            if self._companion is not None:
                self._companion.dismiss()
            self._give_turn_back()
        timeline.cancel_everything()

    def _next_turn(self) -> Callable[[], None] | ShotRun | None:
        """Wait for what comes next and return it, to be done without the lock; None to end."""
        timeline, self._boundary_ns = self._timeline, time.perf_counter_ns()
        if timeline.events.waiting:
            timeline.events.tell()
        with timeline.lock:
            while not timeline.stopping:
                if timeline.reload is not None or timeline.wound_back:
                    return self._back.follow
                if timeline.playlist.pending and timeline.playlist.run is not None:
                    self._drop_failed_cut()
                has_work, ahead = timeline.has_work(), timeline.in_flight + len(timeline.frames)
                has_room = timeline.capacity is None or ahead < timeline.capacity
                if has_work and has_room and not timeline.paused:
                    if self._turn is None or timeline.has_turn(self._turn):
                        return timeline.begin_chunk()
                    timeline.changed.wait()
                    continue
                if self._turn is not None and self._turn.held:
                    return self._turn.give_back  # it wakes another film
                timeline.steady_ns = 0
                timeline.changed.wait()
                if has_work:  # the reader kept it waiting, which no shot's times should include
                    self._boundary_ns = time.perf_counter_ns()
            return None

    def _give_turn_back(self, frames: int = 0) -> None:
        """Let other films compute; called without the lock, because it wakes one of them."""
        if self._turn is not None:
            self._turn.give_back(frames)

    def _end_turn(self, made: int) -> None:
        """Let the film, its reader and other films go on behind a chunk of so many frames."""
        timeline = self._timeline
        with timeline.lock:
            if not made:
                timeline.in_flight -= 1
            timeline.making, timeline.denoising, timeline.needed = None, False, ()
            timeline.changed.notify_all()
        if timeline.idle():
            timeline.frames.wake()
        self._give_turn_back(made)

    def _drop_failed_cut(self) -> None:
        """Give up a shot that was to interrupt the running one if its caption cannot be encoded."""
        timeline, playlist = self._timeline, self._timeline.playlist
        while playlist.pending and playlist.running() is not None:
            request, caption = playlist.pending[0], playlist.next_caption()
            error = timeline.captions.failure(caption)
            if not request.now or error is None or request.receipt is None:
                return
            playlist.remove(request.receipt.id)
            timeline.events.drop(request.receipt, "failed", caption, error)
            timeline.wish()

    # On the decode thread.

    def _note_done(self) -> None:
        """Note that a chunk is decoded and stored, or was skipped."""
        timeline = self._timeline
        with timeline.lock:
            timeline.in_flight -= 1
            timeline.changed.notify_all()
            if timeline.idle():
                timeline.frames.wake()  # a reader may be waiting for the end
        if self._turn is not None:
            self._turn.decoded()

    def _fail_job(self, job: DecodeJob, error: BaseException) -> None:
        """End the shot of a chunk that could not be decoded."""
        self._timeline.fail(job.run, job.chunk, job.index, job.epoch, error)
