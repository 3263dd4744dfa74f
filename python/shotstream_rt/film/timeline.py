"""Where a film stands: what its callers and its threads share, under one lock.

Plain values; it knows no model, so whoever keeps it keeps no weights. Callers change it through
``director.py``, and take it back through ``rewind.py``; the generator thread takes its turns from
it, and readers ask it whether more will come.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import SessionClosedError
from ..printable import printable
from ..types import Chunk, Place, Receipt
from .caption_encoder import CaptionEncoder
from .events import EventLog, Unshown
from .frame_queue import FrameQueue
from .playlist import Playlist
from .reference import ReferencePicture, check_room
from .shot_memory import ShotMemory
from .shots import ResumePoint, ShotRequest, ShotRun
from .turn import Turn

if TYPE_CHECKING:
    from .decode_thread import DecodeJob

_KEPT_PASTS = 2
"""Shots begun last whose past shots are kept, so that the film can go back to them at once; to go
back further, it is made again from its beginning."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewPrompt:
    """A caption that the running shot is to have from the next chunk boundary on.

    Attributes:
        caption: with a story's prefix.
        receipt: is told what becomes of it.
        flush: the shot does not go on without it.
        reread: how many of the newest chunks are computed anew with it.
    """

    caption: str
    receipt: Receipt
    flush: bool = False
    reread: int = 0


class Timeline:
    """Where a film stands. Everything is read and changed under ``lock``.

    Args:
        playlist: the order of shots.
        frames: where finished chunks wait for the reader.
        captions: encodes captions.
        capacity: chunks that may be computed and not taken; None never waits for the reader.
        chunk_frames: frames of a shot's first chunk, and of every later one.
        whole: shots read what those before left in the caches, so that none of them can be made
            again without all before it.

    Attributes:
        lock: guards all of this. The condition is not used to take it: its own ``__enter__`` is
            Python, and Ctrl-C inside would leave the lock taken.
        changed: notified when something changed that a thread may wait for.
        events: what happened and is not told yet.
        prompt: a new caption that is not applied yet.
        reload: the past shots to go on with after a restore, not taken up yet.
        wound_back: the last shot begun was wound back, and caches and decoder were not yet.
        pins: numbers in the film of frames that every later shot sees.
        forgotten: numbers of shots that no later shot sees.
        recalls: whether anything but the model's rule says what is kept of past shots: frames were
            pinned, shots forgotten, or shots are made again with the context that they had.
        undone: what was taken back or dropped, as ``Session.directions`` tells it.
        epoch: how often the film was restored or wound back; chunks from before are discarded.
        runs: every shot begun since the film's first, as far as the film still has them.
        making: the shot of which a chunk is being made.
        denoising: whether that chunk is past applying new captions.
        needed: captions that the generator waits for.
        in_flight: chunks begun and not decoded yet.
        next_index: number of the first frame of the next chunk that is not made.
        failed: what stopped the film; None while it goes on.
        paused: whether no further chunk is to be begun.
        stopping: whether the film is being closed.
        steady_ns: host time since when chunks are made without a pause, 0 in a pause.
        steady_frames: frames made since then.
    """

    def __init__(
        self,
        playlist: Playlist,
        frames: FrameQueue,
        captions: CaptionEncoder,
        *,
        capacity: int | None,
        chunk_frames: tuple[int, int],
        whole: bool = False,
    ) -> None:
        self.playlist, self.frames, self.captions = playlist, frames, captions
        self.whole = whole
        self.capacity, self.chunk_frames = capacity, chunk_frames
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.events = EventLog()
        self.prompt: NewPrompt | None = None
        self.reload: tuple[ShotMemory, ...] | None = None
        self.wound_back = False
        self.undone: list[dict[str, Any]] = []
        self.pins: set[int] = set()
        self.forgotten: set[int] = set()
        self.recalls = False
        self.epoch = 0
        self.runs: list[ShotRun] = []
        self.making: ShotRun | None = None
        self.denoising = False
        self.needed: tuple[str, ...] = ()
        self.in_flight = 0
        self.next_index = 0
        self.failed: BaseException | None = None
        self.paused = self.stopping = False
        self.steady_ns = self.steady_frames = 0

    # Called from any thread, without the lock.

    def queue(self, requests: Sequence[ShotRequest]) -> None:
        """Queue shots, and go on if the film had stopped at a failure."""
        with self.lock:
            self.add(requests)
        if self.events.waiting:
            self.events.tell()

    def idle(self) -> bool:
        """Tell whether nothing more will come until another shot is queued."""
        with self.lock:
            return self.in_flight == 0 and not self.has_work()

    def wake(self) -> None:
        """Look again whether there is something to do."""
        with self.lock:
            self.changed.notify_all()

    def deliver(self, job: DecodeJob, chunk: Chunk) -> None:
        """Pass a decoded chunk on to the reader, unless the film was restored meanwhile."""
        with self.lock:
            if job.epoch != self.epoch:
                return
            self.steady_frames += len(chunk.pixels)
            dropped = self.frames.put(chunk)
            if self.events.listeners:
                self._note_chunk(chunk, chunk.made_s - job.begun_s, dropped)
        if self.events.waiting:
            self.events.tell()

    def _note_chunk(self, chunk: Chunk, took_s: float, dropped: Sequence[Chunk]) -> None:
        """Keep for listeners that a chunk waits for the reader, and that others no longer do."""
        note, place = self.events.note, _place_of(chunk)
        note("chunk_made", place=place, caption=chunk.caption, took_s=took_s)
        for older in dropped:
            note("chunk_dropped", place=_place_of(older), caption=older.caption)

    def fail(self, run: ShotRun, chunk: int, index: int, epoch: int, error: BaseException) -> None:
        """End a shot of which a chunk could not be made; what is ready is still delivered.

        Args:
            run: the shot.
            chunk: the chunk.
            index: number of its first frame.
            epoch: of the shot when the chunk was begun.
            error: why.
        """
        with self.lock:
            if self.stopping or run.failed or epoch != self.epoch:
                return
            run.failed = run.ended = True
            self.next_index, run.frames = index, index - run.first_index
            place, receipt = Place(run.shot, run.request.take, chunk, index), run.request.receipt
            if chunk == 0:
                self.drop_run(run)
            if receipt is not None:
                receipt.decide("failed", place, error)
            self.drop_prompt("failed", error)
            # A caption that failed is forgotten with the shot, and may be asked for again.
            self.needed = ()
            self.wish()
            self.failed = error
            self.frames.fail(error)
            self.events.note(
                "failed", place=place, caption=run.caption, error=error,
                request=0 if receipt is None else receipt.id,
            )  # fmt: skip
            self.changed.notify_all()
        # Under the session's own name, where a program listens for what concerns it.
        logging.getLogger("shotstream_rt.session").error(
            "shot %d, chunk %d failed: %s: %s",
            place.shot, place.chunk, type(error).__name__, printable(error),
        )  # fmt: skip
        self.events.tell()

    def cancel_everything(self) -> None:
        """Decide every request left when the film is closed, so that nobody waits for it."""
        with self.lock:
            left = [request.receipt for request in self.playlist.clear()]
            if self.playlist.run is not None:
                left.append(self.playlist.run.request.receipt)
            if self.prompt is not None:
                left.append(self.prompt.receipt)
                self.prompt = None
            for receipt in left:
                if receipt is not None:
                    receipt.decide("cancelled")

    # Under the lock.

    def check_running(self) -> None:
        """Raise ``SessionClosedError`` if nobody will decide any more what becomes of requests."""
        if self.stopping:
            raise SessionClosedError("the session is closed; open another one")

    def add(self, requests: Sequence[ShotRequest]) -> None:
        """Queue shots; those that they supersede are told."""
        self.check_running()
        for request in requests:
            if request.images:
                self.check_room(request)
        if self.failed is not None:
            self.revive()
        for request in requests:
            for older in self.playlist.add(request):
                self.events.drop(older.receipt, "superseded", older.prefix + older.text)
        self.wish()
        self.changed.notify_all()

    def pictures(self) -> list[ReferencePicture]:
        """Return the reference pictures of all shots."""
        asked = [*(run.request for run in self.runs), *self.playlist.pending]
        return [image for request in asked for image in request.images]

    def check_room(self, request: ShotRequest) -> None:
        """Check that the film has room for a shot's pictures, also if others came in meanwhile.

        Raises:
            ConfigError: with them it would hold too many.
        """
        height, width, _ = request.images[0].pixels.shape
        pictures = [*self.pictures(), *request.images]
        check_room([picture.digest for picture in pictures], (height, width))

    def has_work(self) -> bool:
        """Tell whether there is a chunk to make."""
        return self.failed is None and self.playlist.has_work()

    def has_turn(self, turn: Turn) -> bool:
        """Tell whether the film may compute now; if not, it is woken when it may."""
        # Of a shot that is made again, frames come that were read before.
        ahead = max(0, self.next_index - self.frames.read_index())
        return turn.take(ahead, self.wake)

    def wish(self) -> None:
        """Ask for captions in the order of need.

        Of queued shots only the first one's: more would keep an urgent one waiting. A new prompt
        needs those of the context once more.
        """
        if self.stopping:
            return
        captions, run, pending = [*self.needed], self.playlist.run, self.playlist.pending
        if self.prompt is not None:
            captions.append(self.prompt.caption)
        if pending:
            captions.insert(0 if pending[0].now else len(captions), self.playlist.next_caption())
        if run is not None:
            captions += run.context_captions
        self.captions.want(self, captions)

    def drop_prompt(self, state: Unshown, error: BaseException | None = None) -> None:
        """Give up the new caption that was not applied, and tell it."""
        prompt, self.prompt = self.prompt, None
        if prompt is not None:
            self.events.drop(prompt.receipt, state, prompt.caption, error)

    def wanted_frames(self) -> frozenset[int]:
        """Return numbers of frames that are to be kept whatever the model's rule says."""
        queued = (request.context or () for request in self.playlist.pending)
        return frozenset(self.pins.union(*queued))

    def revive(self) -> None:
        """Go on after a failure."""
        self.failed = None
        self.frames.revive()

    def begin_chunk(self) -> ShotRun:
        """Return the shot that the next chunk, made from now on, belongs to; see ``has_work``."""
        now_ns, was_queued = time.perf_counter_ns(), len(self.playlist.pending) > 0
        if self.steady_ns == 0:
            self.steady_ns, self.steady_frames = now_ns, 0
        self.making = run = self.playlist.next_run(self.captions.ready, now_ns=now_ns)
        self.in_flight += 1
        if run.frames == 0:
            run.epoch, run.first_index = self.epoch, self.next_index
            run.chunk_frames = self.chunk_frames
            self.runs.append(run)
            for old in self.runs[:-_KEPT_PASTS][-1:]:
                old.past = old.memory = old.begun = None
            if was_queued and self.prompt and not (self.prompt.flush or run.request.again):
                self.drop_prompt("late")  # it was for the shot before
        return run

    def drop_run(self, run: ShotRun) -> None:
        """Forget a shot that was begun and of which no chunk was made."""
        self.playlist.drop_run(run)
        if run in self.runs:
            self.runs.remove(run)
        if run.replaces and run.past is not None:
            self.wound_back = True  # the take before it counts again, of which nothing was kept

    def restore(self, point: ResumePoint) -> None:
        """Go on from there instead of everything there is."""
        self.epoch += 1
        self.revive()
        self.runs, index = [], 0
        for shot, request in point.history:
            self.runs.append(ShotRun.made(request, shot, index, self.chunk_frames))
            index += request.given
        self.next_index = index
        self.playlist.reset(point.requests, next_shot=point.next_shot)
        self.reload, self.wound_back = point.past, False
        self.pins, self.forgotten, self.recalls = {*point.pins}, {*point.forgotten}, True
        # The generator may be waiting for room in the queue, so make some before waking it.
        self.frames.clear(point.next_index)
        self.changed.notify_all()


def _place_of(chunk: Chunk) -> Place:
    return Place(chunk.shot, chunk.take, chunk.chunk, chunk.index)
