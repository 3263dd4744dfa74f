"""The generator thread: takes commands at chunk boundaries and drives the pipeline.

One turn = one chunk: take what was asked (begin a shot, change its caption, restore a snapshot),
denoise, hand the latents to the decode thread, then run the clean pass while they are decoded.
Owned by the session. It never looks at pixels.

A turn is taken only when there is room for its frames, so a consumer that stops reading stops the
generator too, and nothing is computed further ahead than the queue is long.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import torch

from .caption_book import Encoded
from .context import ShotMemory
from .crew import Crew
from .errors import SessionClosedError
from .frames import DecodeJob
from .model.captions import CaptionSet
from .noise import NoiseSource
from .nvtx import annotate
from .playlist import Playlist
from .shots import Delivery, FilmState, ShotRequest, ShotRun, take_seed
from .stats import ShotTimes
from .types import Chunk

_log = logging.getLogger("shotstream_rt.generator")

_KEPT_RUNS = 64
"""Shots begun but not taken; more can only pile up when the consumer lets frames drop."""


class Generator:
    """Makes chunks of shots, in order.

    Args:
        crew: everything it drives.
        playlist: the order of shots; from now on used under the generator's lock only.
        capacity: chunks that may be computed but not taken; None never waits for the consumer.
        threads: intra-op threads of this thread on a CPU.
        noise: gives the noise of a seed.
    """

    def __init__(
        self,
        crew: Crew,
        playlist: Playlist,
        *,
        capacity: int | None,
        threads: int,
        noise: Callable[[int], NoiseSource],
    ) -> None:
        self._crew, self._playlist = crew, playlist
        self._noise_of, self._noise = noise, noise(0)
        self._capacity, self._threads = capacity, threads
        self._turn = threading.Condition()
        self._prompt: str | None = None
        self._restore: FilmState | None = None
        self._runs: deque[ShotRun] = deque(maxlen=_KEPT_RUNS)
        self._taken: tuple[ShotRun, int, int] | None = None
        self._first_index = 0
        self._making = 0
        self._epoch = 0
        self._stopping = False
        self._boundary_ns = 0
        self._committed = False
        self._context_captions: dict[int, str] = {}
        self._times: ShotTimes | None = None
        self._thread = threading.Thread(target=self._main, name="shotstream-generate", daemon=True)

    # Called from any thread.

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ask(self, requests: Sequence[ShotRequest]) -> None:
        """Queue shots."""
        for request in requests:
            self._encode(request.caption)
        with self._turn:
            for request in requests:
                self._playlist.add(request)
            self._turn.notify_all()

    def upcoming_shot(self) -> int:
        """Return the number that the next queued shot will get."""
        with self._turn:
            return self._playlist.upcoming_shot

    def steer(self, text: str) -> None:
        """Change the caption of the running shot, or of the next one when none is running.

        Raises:
            ConfigError: nothing is running or queued.
        """
        with self._turn:
            run = self._playlist.running()
            if run is not None:
                self._prompt = caption = run.request.prefix + text
            else:
                caption = self._playlist.reword_next(text).caption
        self._encode(caption)

    def retake(self, shot: int | None) -> None:
        """Make the last shot again with other noise.

        Raises:
            ConfigError: no shot was begun, or ``shot`` is not the last one begun.
        """
        with self._turn:
            request = self._playlist.retake_request(shot, requested_ns=time.perf_counter_ns())
            self._playlist.add(request)
        self._encode(request.caption)

    def restore(self, state: FilmState) -> None:
        """Drop everything at the next chunk boundary and go on from ``state``."""
        with self._turn:
            self._epoch += 1
            self._prompt = None
            self._playlist.clear(next_shot=state.next_shot)
            self._runs.clear()
            self._taken = None
            self._restore = state
            self._crew.reader.clear()  # makes room, so it must come before the wake-up
            self._turn.notify_all()

    def take(self, delivery: Delivery) -> bool:
        """Note that the consumer took a chunk; tells whether it is still valid."""
        with self._turn:
            self._turn.notify_all()
            if delivery.epoch != self._epoch:
                return False
            chunk = delivery.chunk
            while self._runs and self._runs[0] is not delivery.run:
                self._runs.popleft()
            self._taken = (delivery.run, chunk.chunk + 1, chunk.index + len(chunk.pixels))
            return True

    def idle(self) -> bool:
        """Tell whether nothing more will come unless something is asked for."""
        with self._turn:
            return not self._has_work() and self._making == 0

    def film_state(self) -> FilmState:
        """Return what the consumer has not taken yet, as shots to make again.

        Raises:
            SessionClosedError: the thread ended before it could tell.
        """
        with self._turn:
            while (state := self._film_state()) is None:
                if self._stopping:
                    raise SessionClosedError("the session closed while a snapshot was taken")
                self._turn.wait()
            return state

    def halt(self) -> None:
        """Ask the thread to end after the chunk at hand."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()

    def stop(self) -> None:
        """End the thread after the chunk at hand and wait for it; idempotent."""
        self.halt()
        if self._thread.is_alive():
            self._thread.join()

    def _film_state(self) -> FilmState | None:
        """Return the state, None while the threads are stepping over a shot boundary."""
        if self._restore is not None:
            return self._restore
        runs, pending = list(self._runs), self._playlist.pending
        index = self._taken[2] if self._taken is not None else self._first_index
        past: tuple[ShotMemory, ...] | None = self._crew.selector.past
        shot = self._playlist.next_shot
        if runs and self._is_taken(runs[0]):
            done = runs.pop(0)
            if not runs:
                if self._making or done.past is None:
                    return None
                ended = self._crew.selector.ended_shot()
                past = (*done.past, ended) if ended is not None else done.past
                past = past[-self._crew.selector.budget :]
        again = [run.replayed(self._taken_chunks(run), first=run is runs[0]) for run in runs]
        if runs:
            past, shot = runs[0].past, runs[0].shot
        if past is None:
            return None
        return FilmState(requests=(*again, *pending), past=past, next_shot=shot, next_index=index)

    def _is_taken(self, run: ShotRun) -> bool:
        """Tell whether the consumer has all of a shot, and no more of it will come."""
        if self._taken_chunks(run) < run.next_chunk or run.next_chunk == 0:
            return False
        return run is not self._playlist.run or not self._playlist.can_go_on(run)

    def _taken_chunks(self, run: ShotRun) -> int:
        """Return how many chunks of a shot the consumer has, now or before a restore."""
        if self._taken is not None and self._taken[0] is run:
            return self._taken[1]
        return run.request.delivered_chunks

    def _encode(self, caption: str) -> None:
        def wake(_: Future[Encoded]) -> None:
            with self._turn:
                self._turn.notify_all()

        self._crew.book.encode(caption).add_done_callback(wake)

    def _ready(self, request: ShotRequest) -> bool:
        return self._crew.book.encode(request.caption).done()

    def _has_work(self) -> bool:
        return self._restore is not None or self._playlist.has_work()

    def _has_room(self) -> bool:
        return self._capacity is None or self._making + len(self._crew.reader) < self._capacity

    # Called from the generator thread.

    def _main(self) -> None:
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                while self._take_turn():
                    self._boundary_ns = time.perf_counter_ns()
        except BaseException as error:
            self._crew.decoder.wait_idle()  # what was made before is still delivered
            self._crew.on_error(error)

    def _take_turn(self) -> bool:
        with self._turn:
            if self._has_work() and not self._has_room():
                self._turn.wait_for(lambda: self._stopping or self._restore or self._has_room())
                self._boundary_ns = time.perf_counter_ns()  # the wait was the consumer's
            self._turn.wait_for(
                lambda: self._stopping or self._restore or (self._has_work() and self._has_room())
            )
            if self._stopping:
                return False
            state, epoch = self._restore, self._epoch
            now_ns = time.perf_counter_ns()
            if state is None:
                self._making += 1
                request = self._playlist.next_request(self._ready, now_ns=now_ns)
                if request is not None:
                    self._runs.append(self._playlist.begin(request))
                    if self._prompt is not None:
                        _log.info("the shot ended before its new caption: %s", self._prompt)
                    self._prompt = None
            run = self._playlist.run
        if state is not None:
            self._load(state)
        elif run is not None:
            if request is not None:
                self._begin(run, epoch, now_ns)
            self._change_caption(run)
            self._make_chunk(run, epoch)
        return True

    def _load(self, state: FilmState) -> None:
        self._crew.decoder.wait_idle()
        for request in state.requests:
            self._encode(request.caption)
        with self._turn:
            if self._restore is not state:
                return
            self._crew.decoder.set_next_index(state.next_index)
            self._crew.selector.load_past(state.past)
            asked_since = self._playlist.pending
            self._playlist.clear((*state.requests, *asked_since), next_shot=state.next_shot)
            self._first_index = state.next_index
            self._restore = None

    def _begin(self, run: ShotRun, epoch: int, decided_ns: int) -> None:
        crew, request = self._crew, run.request
        crew.decoder.wait_idle()
        with self._turn:
            if epoch == self._epoch and not run.replaces:
                crew.selector.end_shot()
            run.past = crew.selector.past
            self._turn.notify_all()
        waited = not request.now and request.requested_ns < self._boundary_ns
        self._times = ShotTimes(
            shot=run.shot,
            take=request.take,
            prompt=request.text,
            due_ns=self._boundary_ns if waited else request.requested_ns,
            decided_ns=decided_ns,
        )
        crew.stats.shot_begins(self._times)
        begun_ns = time.perf_counter_ns()
        with annotate("context.encode", run.shot):
            selection = crew.selector.select()
            crew.selector.begin_shot(run.shot, request.caption)
        self._context_captions = selection.captions
        self._noise = self._noise_of(take_seed(request.seed, request.take))
        crew.pipeline.begin_shot(
            run.shot,
            selection.latents,
            selection.flags,
            self._captions(request.caption),
            selection.target_flag,
        )
        crew.stats.add("context_encode", begun_ns)
        _log.info("shot %d, take %d: %s", run.shot, request.take, request.text)

    def _captions(self, caption: str) -> CaptionSet:
        """Return one row per past shot in the context, oldest first, and the shot's own last."""
        if not self._crew.pipeline.config.shot.multi_caption:
            return self._crew.book.rows([caption])
        return self._crew.book.rows([*self._context_captions.values(), caption])

    def _change_caption(self, run: ShotRun) -> None:
        """Apply a change of the running shot's caption that is ready, or due when made again."""
        again = [text for chunk, text in run.request.prompts if chunk == run.next_chunk]
        with self._turn:
            text = again[-1] if again else None
            if self._prompt is not None and self._crew.book.encode(self._prompt).done():
                text, self._prompt = self._prompt, None
        if text is None:
            return
        begun_ns = time.perf_counter_ns()
        run.prompts.append((run.next_chunk, text))
        self._crew.selector.change_caption(text)
        self._crew.pipeline.set_captions(self._captions(text))
        self._crew.stats.add("prompt", begun_ns)
        _log.info("shot %d from chunk %d: %s", run.shot, run.next_chunk, text)

    def _make_chunk(self, run: ShotRun, epoch: int) -> None:
        crew, chunk, times = self._crew, run.next_chunk, self._times
        if chunk > 0 and not self._committed:
            crew.pipeline.commit()  # the shot was about to be cut short, and then was not
        crew.stats.chunk_begins(chunk)
        begun_ns = time.perf_counter_ns()
        with annotate("chunk", chunk):
            x0 = crew.pipeline.run_chunk(chunk, self._noise)
        crew.stats.add("chunk", begun_ns)
        latents = x0.clone()  # backends may reuse x0's memory for the next chunk
        ready = None
        if crew.streams is not None:
            ready = crew.streams.event()
            ready.record(crew.streams.current())

        def done(made: Chunk) -> None:
            if times is not None:
                crew.stats.chunk_ready(times, len(made.pixels))
            if epoch == self._epoch:
                crew.reader.put(Delivery(chunk=made, run=run, epoch=epoch))

        crew.decoder.submit(
            DecodeJob(
                latents=latents,
                shot=run.shot,
                chunk=chunk,
                deliver=chunk >= run.request.delivered_chunks,
                ready=ready,
                done=done,
                settled=self._settled,
            )
        )
        with self._turn:
            run.next_chunk = chunk + 1
            self._committed = self._playlist.will_go_on(self._ready)
        if self._committed:
            begun_ns = time.perf_counter_ns()
            with annotate("commit", chunk):
                crew.pipeline.commit()
            crew.stats.add("commit", begun_ns)
        if chunk == 0:
            # A viewer waits for the first frames: nothing competes with their decoding.
            crew.decoder.yield_to_decoding()

    def _settled(self) -> None:
        with self._turn:
            self._making -= 1
            self._turn.notify_all()
