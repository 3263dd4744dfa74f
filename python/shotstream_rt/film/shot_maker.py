"""Makes the chunks of a shot: begins it, denoises, and applies new captions.

The generator says when (``generator.py``). Everything is called on the generator thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..abandonment import ChunkAbandonedError
from ..nvtx import annotate
from ..plan.noise import NoiseSource
from ..shot_inputs import ShotInputs
from ..types import Place
from .decode_thread import DecodeJob
from .places import next_place
from .shots import ShotRun
from .timeline import NewPrompt, Timeline
from .turn import Turn
from .way_back import WayBack
from .workers import Workers

_log = logging.getLogger("shotstream_rt.film.shot_maker")

_MASK = (1 << 64) - 1


class ShotMaker:
    """Makes the chunks of shots, one shot after the other.

    Args:
        workers: the parts it drives.
        timeline: where the film stands.
        back: knows how far back the caches reach.
        noise: returns the noise source of a seed.
        turn: given back while a caption is waited for; None for a film that never waits for others.

    Attributes:
        run: the shot that it makes chunks of.
        caption: that the pipeline has of it; None if the film went back to it from the shot after.
        viewer_waits: whether the next chunk is the first since the shot began, or since an ask.
    """

    def __init__(
        self,
        workers: Workers,
        timeline: Timeline,
        back: WayBack,
        *,
        noise: Callable[[int], NoiseSource],
        turn: Turn | None = None,
    ) -> None:
        self._workers, self._timeline, self._back, self._turn = workers, timeline, back, turn
        self._noise_of, self._noise = noise, noise(0)
        self.run: ShotRun | None = None
        self.caption: str | None = None
        self.viewer_waits = True

    def begin(self, run: ShotRun, boundary_ns: int) -> None:
        """End the shot before and encode this one's context; it could begin at ``boundary_ns``."""
        workers, timeline, request = self._workers, self._timeline, run.request
        selector, times = workers.selector, run.times
        times.decided_ns = time.perf_counter_ns()
        times.due_ns = max(request.requested_ns, 0 if request.now else boundary_ns)
        self._await(run, [run.caption])
        captions = timeline.captions.encoded([run.caption])
        # While the last chunk before is decoded, of which this shot's context is picked.
        workers.pipeline.film.prepare_captions(captions)
        workers.decoder.wait_idle()
        with timeline.lock:
            if run.epoch != timeline.epoch:
                raise ChunkAbandonedError
            if len(timeline.runs) > 1 or timeline.recalls:
                self._leave_shot_before(run)
            run.past = selector.past
            timeline.changed.notify_all()
        workers.stats.shot_begins(times)
        self.take_up(run)
        with workers.stats.span("context_encode", times, 0):
            with annotate("context.encode", run.shot):
                selection = selector.blank
                if selector.past or request.images:
                    selection = selector.select(run.caption, request.context, request.images)
            with timeline.lock:
                if run.epoch != timeline.epoch:  # the request may have changed with it
                    raise ChunkAbandonedError
                selector.begin_shot(run.shot, run.caption, run.first_index)
                run.memory, run.begun = selector.newest, None
                self.caption, self.viewer_waits = run.caption, True
                run.request = replace(request, context=selection.indices)
                run.context_captions = tuple(selection.captions.values())
            if run.context_captions:
                texts = self._captions(run, run.caption)
                self._await(run, texts)
                captions = timeline.captions.encoded(texts)
            start = request.start
            begins = ShotInputs(
                run.shot, selection.latents, selection.flags, captions, selection.target_flag,
                given=None if start is None else start.latents,
                strength=None if start is None else start.strength,
            )  # fmt: skip
            workers.pipeline.begin_shot(begins, self._unwanted(run))
            run.begun, run.last_begun, run.reread_at = workers.pipeline.running, 0, -1
        place = Place(run.shot, request.take, 0, run.first_index)
        with timeline.lock:
            if request.receipt is not None:
                request.receipt.decide("applied", place)
            if timeline.events.listeners:
                self._note_shot(run, place)
        _log.info("shot %d, take %d: %r", run.shot, request.take, request.text)
        if timeline.events.waiting:
            timeline.events.tell()

    def take_up(self, run: ShotRun) -> None:
        """Make chunks of another shot from now on, with a caption that is still to be given."""
        request = run.request
        seed = take_seed(request.seed, request.take) if request.take else request.seed
        self.run, self.caption, self._noise = run, None, self._noise_of(seed)

    def make_chunk(self, run: ShotRun, begun_s: float) -> int:
        """Make the next chunk, begun then, and let it be decoded; return its number of frames."""
        workers, timeline, chunk = self._workers, self._timeline, run.next_chunk
        if run.committed < chunk - 1:
            self.commit(run)  # left out for a cut, which is not encoded yet or was taken back
        if chunk == 1:
            run.times.second_chunk_ns = time.perf_counter_ns()
        with timeline.lock:
            timeline.denoising = True
        run.last_begun, abandoned = max(chunk, run.last_begun), self._unwanted(run)
        with annotate("chunk", chunk), workers.stats.span("chunk", run.times, chunk):
            x0 = workers.pipeline.run_chunk(chunk, self._noise, abandoned)
        with timeline.lock:
            if abandoned():
                raise ChunkAbandonedError
            size = end = timeline.chunk_frames[chunk > 0]
            if run.request.prompts or run.request.frames is not None or timeline.prompt:
                end = _end_of_part(run, size, timeline.prompt)
            begin, index = run.skip, timeline.next_index
            given = run.request.given - run.frames + begin
            timeline.next_index += end - begin
            run.frames += end - begin
            run.next_chunk, run.skip = chunk + end // size, end % size
            # Behind a shot's last chunk the next shot waits for the frames that it sees of it.
            waits = self.viewer_waits or not timeline.playlist.will_go_on(timeline.captions.ready)
            job = DecodeJob(
                run=run, chunk=chunk, caption=run.caption, begin=begin, end=end, index=index,
                given=given, epoch=run.epoch, abandoned=abandoned, begun_s=begun_s,
                alone=waits and self._turn is None,
            )  # fmt: skip
            timeline.denoising = False
        workers.decoder.submit(x0, job)
        with timeline.lock:
            timeline.making = None
        if self.viewer_waits:  # so nothing competes with the decoding
            self.viewer_waits = False
            workers.decoder.yield_to_decoding()
        return size

    def finish_chunk(self, run: ShotRun) -> None:
        """Run the clean pass of the chunk just made if the shot goes on."""
        timeline = self._timeline
        with timeline.lock:
            if run.epoch != timeline.epoch:
                return
            playlist = timeline.playlist
            goes_on = playlist.will_go_on(timeline.captions.ready)
            is_running = goes_on or playlist.repeats or playlist.makes_again
            if timeline.prompt is not None and not is_running:
                timeline.drop_prompt("late")
        if timeline.events.waiting:
            timeline.events.tell()
        if goes_on and run.skip == 0 and not timeline.stopping:
            self.commit(run)

    def commit(self, run: ShotRun) -> None:
        """Run the clean pass of the chunk before a shot's next one."""
        chunk, epoch, workers = run.next_chunk - 1, run.epoch, self._workers
        with annotate("commit", chunk), workers.stats.span("commit", run.times, chunk):
            workers.pipeline.commit(self._unwanted(run))
        with self._timeline.lock:
            if epoch == self._timeline.epoch:
                run.committed = chunk

    def change_caption(self, run: ShotRun) -> None:
        """Apply a new caption that is encoded, or one that a shot made again had from here on."""
        timeline, captions = self._timeline, self._timeline.captions
        text, reread = None, 0
        for change in run.request.prompts:
            if change.frame == run.frames:
                text, reread = change.caption, change.reread
        prompt = timeline.prompt
        if prompt is not None and prompt.flush and run.frames >= run.request.given:
            self._await(run, [prompt.caption])
        with timeline.lock:
            prompt = timeline.prompt if run.frames >= run.request.given else None
            if prompt is not None and not captions.ready(prompt.caption):
                prompt = None
            elif prompt is not None:
                error = captions.failure(prompt.caption)
                if error is not None:
                    timeline.drop_prompt("failed", error)
                    prompt = None
                else:
                    text, reread = prompt.caption, prompt.reread
        if text is None and self.caption == run.caption:
            return
        wound_back, text = text is None, run.caption if text is None else text
        texts = self._captions(run, text)
        self._await(run, texts)
        rows = captions.encoded(texts)
        again = self._reread_chunks(run, reread)
        if run.committed < run.next_chunk - 1:
            self.commit(run)  # with the caption that it was made with
        with timeline.lock:
            if run.epoch != timeline.epoch:
                raise ChunkAbandonedError
            is_newest = prompt is None or timeline.prompt is prompt
            if is_newest and not wound_back:
                run.change_caption(text, len(again))
            if is_newest and prompt is not None:
                timeline.prompt = None
                place = Place(run.shot, run.request.take, *next_place(timeline))
                prompt.receipt.decide("applied", place)
                timeline.events.note(
                    "prompt_applied", place=place, caption=text, request=prompt.receipt.id
                )
                timeline.wish()
        if not is_newest:  # another prompt came meanwhile, or it was cancelled
            self.change_caption(run)
            return
        with self._workers.stats.span("prompt", run.times, run.next_chunk):
            self._workers.selector.change_caption(text)
            self._workers.pipeline.change_captions(rows, self._unwanted(run))
            if again:
                run.reread_at = run.frames
                # The next chunk, if it was made in part, has overwritten what they read.
                pipeline = self._workers.pipeline
                last = pipeline.overwritten.wind_back(
                    pipeline.running, run.next_chunk, run.last_begun
                )
                run.last_begun = run.last_begun if last is None else last
                self._workers.pipeline.reread(again, self._unwanted(run))
        self.caption, self._back.needs_prompt, self.viewer_waits = text, False, True
        timeline.events.tell()
        _log.info("shot %d from chunk %d: %r", run.shot, run.next_chunk, text)

    def _reread_chunks(self, run: ShotRun, count: int) -> range:
        """Return the chunks before the next one that are computed anew: at most ``count``.

        Only those of which nothing that they read was overwritten by the ones behind them: all in a
        shot of trained length, the last one where the ring has gone round.
        """
        end = first = run.next_chunk
        kept, shot = self._workers.pipeline.overwritten, self._workers.pipeline.running
        while first > max(0, end - count) and kept.can_remake(shot, first - 1, end - 1):
            first -= 1
        return range(first, end)

    def _captions(self, run: ShotRun, caption: str) -> list[str]:
        """Return the caption of each past shot in the context, oldest first, then the own one."""
        multiple = self._workers.pipeline.config.shot.multi_caption
        return [*(run.context_captions if multiple else ()), caption]

    def _await(self, run: ShotRun, texts: Sequence[str]) -> None:
        """Wait until captions are encoded; give the shot up if it is no longer wanted."""
        timeline, ready, turn = self._timeline, self._timeline.captions.ready, self._turn
        with timeline.lock:
            timeline.needed = tuple(texts)
            timeline.wish()
        if turn is not None and not all(map(ready, texts)):
            turn.give_back()  # other films may compute meanwhile
        with timeline.lock:
            while not (all(map(ready, texts)) and (turn is None or timeline.has_turn(turn))):
                if timeline.stopping or run.epoch != timeline.epoch:
                    raise ChunkAbandonedError
                if timeline.playlist.pending and timeline.playlist.pending[0].now:
                    self._supersede(run)
                timeline.changed.wait()

    def _supersede(self, run: ShotRun) -> None:
        """Give up a shot of which nothing was made yet for one that was asked for ``now``.

        A shot that is made again has frames that were shown, so it is not given up.
        """
        if run.frames == 0 and run.request.receipt is not None:
            run.ended = True
            self._timeline.drop_run(run)
            self._timeline.events.drop(run.request.receipt, "superseded", run.caption)
            raise ChunkAbandonedError

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

    def _unwanted(self, run: ShotRun) -> Callable[[], bool]:
        """Return what tells, between the layers of a pass, that nobody wants its result."""
        timeline, epoch = self._timeline, run.epoch
        return lambda: timeline.stopping or run.failed or epoch != timeline.epoch


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
