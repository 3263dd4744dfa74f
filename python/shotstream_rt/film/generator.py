"""The generator thread: takes commands at chunk boundaries and drives the pipeline.

One turn makes one chunk: begin the next shot if one is due, apply a new caption, denoise, hand the
latents to the decode thread, and run the clean pass while they are decoded. A turn may restore a
snapshot instead. This thread never looks at pixels.

A turn begins only when the reader's queue has room for its chunk: a reader that stops reading stops
the generator, and nothing is computed further ahead than the queue is long. Films that share a
device also wait for one another there (``turn.py``).

A failure ends the shot that it happened in. Then no turn begins until shots are queued or a
snapshot is restored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..abandonment import ChunkAbandonedError
from ..device.float_precision import check_float_precision
from ..model.captions import CaptionSet
from ..nvtx import annotate
from ..plan.noise import NoiseSource
from ..printable import printable
from ..types import Chunk, Place
from .decode_thread import DecodeJob
from .places import next_place
from .shots import Delivery, ShotRun
from .threads import WorkerThread
from .timeline import NewPrompt, Timeline
from .turn import Turn
from .way_back import WayBack
from .workers import Workers

_log = logging.getLogger("shotstream_rt.film.generator")

_MASK = (1 << 64) - 1


class Generator:
    """Makes the chunks of shots, in order.

    Args:
        workers: the parts it drives.
        timeline: where it finds what to make.
        threads: intra-op threads of this thread on a CPU.
        noise: returns the noise source of a seed.
        turn: asked before each chunk; None for a film that never waits for others.

    Attributes:
        thread: the generator thread.
    """

    def __init__(
        self,
        workers: Workers,
        timeline: Timeline,
        *,
        threads: int,
        noise: Callable[[int], NoiseSource],
        turn: Turn | None = None,
    ) -> None:
        self._workers, self._timeline, self._turn = workers, timeline, turn
        self._noise_of, self._noise = noise, noise(0)
        self._boundary_ns = 0
        self._caption = ""
        self._viewer_waits = True
        self._back = WayBack(workers, timeline)
        self.thread = WorkerThread("shotstream-generate", self._main, threads)

    def start(self) -> None:
        """Start this thread and the decode thread."""
        self._workers.decoder.start(self._deliver, self._note_done, self._fail_job, self._is_wanted)
        self.thread.start()

    def halt(self) -> None:
        """Ask the thread to end before its next denoising step."""
        self._timeline.stopping = True
        self._workers.decoder.skip()
        self._timeline.wake()

    # On the generator thread.

    def _main(self) -> None:
        try:
            with torch.inference_mode():
                while (due := self._next_turn()) is not None:
                    if isinstance(due, ShotRun):
                        self._take_turn(due)
                    else:
                        due()
                        self._viewer_waits = True
                    self._boundary_ns = time.perf_counter_ns()
                    del due
        finally:
            self._give_turn_back()
        self._timeline.cancel_everything()

    def _next_turn(self) -> Callable[[], None] | ShotRun | None:
        """Wait for something to do: make a chunk of a shot, or go back; None to end.

        A turn that others could use meanwhile is given back, which is something to do as well,
        because it wakes another film and that needs a moment without this one's lock.
        """
        timeline = self._timeline
        if timeline.events.waiting:
            timeline.events.tell()
        with timeline.lock:
            while not timeline.stopping:
                if timeline.reload is not None:
                    return self._back.load
                if timeline.wound_back:
                    return self._back.wind_back
                if len(timeline.playlist.pending) > 0 and timeline.playlist.run is not None:
                    self._drop_failed_cut()
                has_work, ahead = timeline.has_work(), timeline.in_flight + len(timeline.frames)
                has_room = timeline.capacity is None or ahead < timeline.capacity
                if has_work and has_room and not timeline.paused:
                    if self._has_turn():
                        return self._begin_turn()
                    timeline.changed.wait()
                    continue
                if self._turn is not None and self._turn.held:
                    return self._turn.give_back
                timeline.steady_ns = 0
                timeline.changed.wait()
                if has_work:  # the reader kept it waiting, which no shot's times should include
                    self._boundary_ns = time.perf_counter_ns()
            return None

    def _has_turn(self) -> bool:
        """Tell whether this film may compute now; if not, it is woken when it may.

        Called under the lock.
        """
        turn, timeline = self._turn, self._timeline
        if turn is None:
            return True
        # Of a shot that is made again, frames come that were read before.
        ahead = max(0, timeline.next_index - timeline.frames.read_index())
        return turn.take(ahead, timeline.wake)

    def _give_turn_back(self, frames: int = 0) -> None:
        """Let other films compute; called without the lock, because it wakes one of them."""
        if self._turn is not None:
            self._turn.give_back(frames)

    def _begin_turn(self) -> ShotRun:
        """Choose the shot that the next chunk belongs to."""
        timeline, now_ns = self._timeline, time.perf_counter_ns()
        if timeline.steady_ns == 0:
            timeline.steady_ns, timeline.steady_frames = now_ns, 0
        queued = len(timeline.playlist.pending) > 0
        run = timeline.playlist.next_run(timeline.captions.ready, now_ns=now_ns)
        timeline.in_flight += 1
        timeline.making = run
        if run.frames == 0:
            timeline.begin(run)
            if queued and timeline.prompt is not None:
                self._drop_late(timeline.prompt, run)
        return run

    def _take_turn(self, run: ShotRun) -> None:
        """Make the next chunk of a shot; a failure ends the shot."""
        timeline, made, begun_s = self._timeline, 0, time.perf_counter()
        try:
            check_float_precision(self._workers.device)
            if run.frames == 0:
                self._begin_shot(run)
            if timeline.prompt or run.request.prompts or self._caption != run.caption:
                self._change_caption(run)
            if self._back.needs_prompt:
                self._back.give_up()
            made = self._denoise(run, begun_s)
            self._finish_chunk(run)
        except ChunkAbandonedError:
            _log.debug("shot %d: given up", run.shot)
        except BaseException as error:
            self._workers.decoder.wait_idle()  # what was made before is still delivered
            timeline.fail(run, run.next_chunk, timeline.next_index, run.epoch, error)
        finally:
            with timeline.lock:
                if not made:
                    timeline.in_flight -= 1
                timeline.making, timeline.denoising, timeline.needed = None, False, ()
                timeline.changed.notify_all()
            if timeline.idle():
                timeline.frames.wake()
            self._give_turn_back(made)

    def _begin_shot(self, run: ShotRun) -> None:
        """End the shot before, choose this one's context from the past and encode it."""
        workers, timeline, request = self._workers, self._timeline, run.request
        selector, run.times.decided_ns = workers.selector, time.perf_counter_ns()
        captions = self._encoded(run, [run.caption])
        # While the last chunk before is decoded, of which this shot's context is picked.
        workers.pipeline.prepare_captions(captions)
        workers.decoder.wait_idle()
        with timeline.lock:
            place = Place(run.shot, request.take, 0, timeline.next_index)
            if run.epoch != timeline.epoch:
                raise ChunkAbandonedError
            if len(timeline.runs) > 1 or timeline.recalls:
                self._leave_shot_before(run)
            run.past = selector.past
            timeline.changed.notify_all()
        waited_ns = 0 if request.now else self._boundary_ns
        run.times.due_ns = max(request.requested_ns, waited_ns)
        workers.stats.shot_begins(run.times)
        seed = take_seed(request.seed, request.take) if request.take else request.seed
        self._noise = self._noise_of(seed)
        with workers.stats.span("context_encode", run.times, 0):
            with annotate("context.encode", run.shot):
                selection = selector.select(run.caption, request.context, request.images)
            with timeline.lock:
                if run.epoch != timeline.epoch:  # the request may have changed with it
                    raise ChunkAbandonedError
                selector.begin_shot(run.shot, run.caption, run.first_index)
                run.memory, self._back.loaded = selector.newest, None
                self._caption, self._viewer_waits = run.caption, True
                run.request = replace(request, context=selection.indices)
                run.context_captions = tuple(selection.captions.values())
            if run.context_captions:
                captions = self._encoded(run, self._captions(run, run.caption))
            start = request.start
            workers.pipeline.begin_shot(
                run.shot, selection.latents, selection.flags, captions, selection.target_flag,
                given=None if start is None else start.latents,
                strength=None if start is None else start.strength,
                abandoned=self._unwanted(run),
            )  # fmt: skip
            self._back.loaded, self._back.last_chunk, self._back.reread_at = run, 0, -1
        with timeline.lock:
            if request.receipt is not None:
                request.receipt.decide("applied", place)
            if timeline.events.listeners:
                self._note_shot(run, place)
        if _log.isEnabledFor(logging.INFO):
            _log.info("shot %d, take %d: %s", run.shot, request.take, printable(request.text))
        if timeline.events.waiting:
            timeline.events.tell()

    def _leave_shot_before(self, run: ShotRun) -> None:
        """Let the selector keep of the past what later shots may see, and callers want."""
        selector, timeline = self._workers.selector, self._timeline
        if timeline.recalls:
            selector.picker.pins = frozenset(timeline.pins)
            selector.picker.forgotten = frozenset(timeline.forgotten)
            selector.wanted = timeline.wanted_frames().union(run.request.context or ())
        if not run.replaces:
            selector.end_shot()
        elif len(timeline.runs) > 1:
            selector.drop_shot(timeline.runs[-2].past or ())

    def _note_shot(self, run: ShotRun, place: Place) -> None:
        """Keep for listeners that a shot began."""
        receipt = run.request.receipt
        self._timeline.events.note(
            "shot_began", place=place, caption=run.caption,
            request=0 if receipt is None else receipt.id,
        )  # fmt: skip

    def _captions(self, run: ShotRun, caption: str) -> list[str]:
        """Return the caption of each past shot in the context, oldest first, then the own one."""
        multiple = self._workers.pipeline.config.shot.multi_caption
        return [*(run.context_captions if multiple else ()), caption]

    def _encoded(self, run: ShotRun, texts: Sequence[str]) -> CaptionSet:
        """Return captions when they are encoded."""
        self._await(run, texts)
        return self._timeline.captions.encoded(texts)

    def _await(self, run: ShotRun, texts: Sequence[str]) -> None:
        """Wait until captions are encoded; give the shot up if it is no longer wanted.

        Other films may compute meanwhile.
        """
        timeline, ready = self._timeline, self._timeline.captions.ready
        with timeline.lock:
            timeline.needed = tuple(texts)
            timeline.wish()
            waits = not all(map(ready, texts))
        if waits:
            self._give_turn_back()
        with timeline.lock:
            while not (all(map(ready, texts)) and self._has_turn()):
                if timeline.stopping or run.epoch != timeline.epoch:
                    raise ChunkAbandonedError
                if timeline.playlist.pending and timeline.playlist.pending[0].now:
                    self._supersede(run)
                timeline.changed.wait()

    def _denoise(self, run: ShotRun, begun_s: float) -> int:
        """Make the latents of the next chunk, begun then, and hand them over to be decoded.

        Returns its frames, shown or not.
        """
        workers, timeline, chunk = self._workers, self._timeline, run.next_chunk
        if run.committed < chunk - 1:
            # It was left out for a cut, whose caption is not encoded yet or which was taken back.
            self._commit(run)
        if chunk == 1:
            run.times.second_chunk_ns = time.perf_counter_ns()
        with timeline.lock:
            timeline.denoising = True
        self._back.last_chunk = max(chunk, self._back.last_chunk)
        abandoned = self._unwanted(run)
        with annotate("chunk", chunk), workers.stats.span("chunk", run.times, chunk):
            x0 = workers.pipeline.run_chunk(chunk, self._noise, abandoned)
        with timeline.lock:
            if abandoned():
                raise ChunkAbandonedError
            size = end = timeline.chunk_frames[chunk > 0]
            if run.request.prompts or run.request.frames is not None or timeline.prompt:
                end = _end_of_part(run, size, timeline.prompt)
            job = DecodeJob(
                run=run, chunk=chunk, caption=run.caption, begin=run.skip, end=end, epoch=run.epoch,
                index=timeline.next_index, given=run.request.given - run.frames + run.skip,
                begun_s=begun_s,
            )  # fmt: skip
            timeline.next_index += end - run.skip
            run.frames += end - run.skip
            run.next_chunk, run.skip = chunk + end // size, end % size
            timeline.denoising = False
        workers.decoder.submit(x0, job)
        return size

    def _finish_chunk(self, run: ShotRun) -> None:
        """Decide whether the shot goes on, and if so, run the clean pass of its last chunk."""
        timeline = self._timeline
        with timeline.lock:
            timeline.making = None
            if run.epoch != timeline.epoch:
                return
            complete = run.skip == 0
            playlist = timeline.playlist
            goes_on = playlist.will_go_on(timeline.captions.ready)
            is_running = goes_on or playlist.repeats or playlist.makes_again
            if timeline.prompt is not None and not is_running:
                timeline.drop_prompt("late")
        if timeline.events.waiting:
            timeline.events.tell()
        if self._viewer_waits:
            # For the first frames of a shot or after an ask; nothing competes with their decoding.
            self._viewer_waits = False
            self._workers.decoder.yield_to_decoding()
        if goes_on and complete and not timeline.stopping:
            self._commit(run)

    def _commit(self, run: ShotRun) -> None:
        """Run the clean pass of the chunk before a shot's next one."""
        chunk, epoch, workers = run.next_chunk - 1, run.epoch, self._workers
        with annotate("commit", chunk), workers.stats.span("commit", run.times, chunk):
            workers.pipeline.commit(self._unwanted(run))
        with self._timeline.lock:
            if epoch == self._timeline.epoch:
                run.committed = chunk

    def _unwanted(self, run: ShotRun) -> Callable[[], bool]:
        """Return what tells, between the layers of a pass, that nobody wants its result."""
        timeline, epoch = self._timeline, run.epoch
        return lambda: timeline.stopping or run.failed or epoch != timeline.epoch

    # On the generator thread, when something else than the next chunk is due.

    def _change_caption(self, run: ShotRun) -> None:
        """Apply a new caption that is encoded, or one that a shot made again had from here on."""
        timeline, captions = self._timeline, self._timeline.captions
        text, receipt, reread = None, None, 0
        for change in run.request.prompts:
            if change.frame == run.frames:
                text, reread = change.caption, change.reread
        prompt = timeline.prompt
        if prompt is not None and prompt.flush and run.frames >= run.request.given:
            self._await(run, [prompt.caption])
        with timeline.lock:
            prompt = timeline.prompt if run.frames >= run.request.given else None
            if prompt is not None and captions.ready(prompt.caption):
                error = captions.failure(prompt.caption)
                if error is not None:
                    timeline.drop_prompt("failed", error)
                else:
                    text, receipt, timeline.prompt = prompt.caption, prompt.receipt, None
                    reread = prompt.reread
        if text is None and self._caption == run.caption:
            return
        wound_back, text = text is None, run.caption if text is None else text
        rows = self._encoded(run, self._captions(run, text))
        again = self._reread_chunks(run, reread)
        if run.committed < run.next_chunk - 1:
            self._commit(run)  # with the caption that it was made with
        with timeline.lock:
            if run.epoch != timeline.epoch:
                if receipt is not None:
                    timeline.events.drop(receipt, "superseded", text)
                raise ChunkAbandonedError
            if not wound_back:
                run.change_caption(text, len(again))
            place = Place(run.shot, run.request.take, *next_place(timeline))
            if receipt is not None:
                receipt.decide("applied", place)
                timeline.events.note(
                    "prompt_applied", place=place, caption=text, request=receipt.id
                )
                timeline.wish()
        with self._workers.stats.span("prompt", run.times, run.next_chunk):
            self._workers.selector.change_caption(text)
            self._workers.pipeline.change_captions(rows, self._unwanted(run))
            if again:
                self._back.reread_at = run.frames
                self._workers.pipeline.reread(again, self._unwanted(run))
        self._caption, self._back.needs_prompt, self._viewer_waits = text, False, True
        timeline.events.tell()
        _log.info("shot %d from chunk %d: %s", run.shot, run.next_chunk, printable(text))

    def _drop_late(self, prompt: NewPrompt, run: ShotRun) -> None:
        """Give up a caption for the shot before one that begins, unless it is for this one."""
        if not (prompt.flush or run.request.again):
            self._timeline.drop_prompt("late")

    def _reread_chunks(self, run: ShotRun, count: int) -> range:
        """Return the chunks before the next one that are computed anew: at most ``count``.

        Only those of which nothing that they read was overwritten by the ones behind them: all in a
        shot of trained length, the last one where the ring has gone round.
        """
        end = first = run.next_chunk
        while first > max(0, end - count) and self._workers.pipeline.can_remake(first - 1, end - 1):
            first -= 1
        return range(first, end)

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

    def _supersede(self, run: ShotRun) -> None:
        """Give up a shot of which nothing was made yet for one that was asked for ``now``.

        A shot that is made again has frames that were shown, so it is not given up.
        """
        if run.frames == 0 and run.request.receipt is not None:
            run.ended = True
            self._timeline.drop_run(run)
            self._timeline.events.drop(run.request.receipt, "superseded", run.caption)
            raise ChunkAbandonedError

    # On the decode thread.

    def _deliver(self, delivery: Delivery) -> None:
        """Pass a decoded chunk on to the reader, unless the film was restored meanwhile."""
        timeline, run, chunk = self._timeline, delivery.run, delivery.chunk
        self._workers.stats.chunk_ready(run.times, chunk)
        with timeline.lock:
            if delivery.epoch != timeline.epoch:
                return
            timeline.steady_frames += len(chunk.pixels)
            dropped = timeline.frames.put(delivery)
            if timeline.events.listeners:
                self._note_chunk(delivery, dropped)
        if timeline.events.waiting:
            timeline.events.tell()

    def _note_chunk(self, made: Delivery, dropped: Sequence[Delivery]) -> None:
        """Keep for listeners that a chunk waits for the reader, and that others no longer do."""
        events, chunk = self._timeline.events, made.chunk
        events.note("chunk_made", place=_place_of(chunk), caption=chunk.caption, took_s=made.took_s)
        for older in (delivery.chunk for delivery in dropped):
            events.note("chunk_dropped", place=_place_of(older), caption=older.caption)

    def _is_wanted(self, job: DecodeJob) -> bool:
        """Tell whether a chunk is still part of the film."""
        return not job.run.failed and job.epoch == self._timeline.epoch

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


def _end_of_part(run: ShotRun, size: int, prompt: NewPrompt | None) -> int:
    """Return up to which frame a shot shows its next chunk.

    Args:
        run: the shot; if it is made again, its captions change where they did.
        size: frames of the chunk.
        prompt: a new caption that waits; one that is not to wait for a chunk's end begins where
            the reader is.
    """
    start = run.frames - run.skip
    ends = [change.frame for change in run.request.prompts if change.frame > run.frames]
    if run.request.frames is not None:
        ends.append(run.request.frames)
    if prompt is not None and prompt.flush and run.request.given > run.frames:
        ends.append(run.request.given)
    return min([size, *(end - start for end in ends)])


def take_seed(seed: int, take: int) -> int:
    """Return the noise seed of a take: the seed itself for take 0, else a hash of both numbers.

    Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
    """
    if take == 0:
        return seed
    z = (seed + take * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) & (_MASK >> 1)


def _place_of(chunk: Chunk) -> Place:
    return Place(chunk.shot, chunk.take, chunk.chunk, chunk.index)
