"""Going back in a film: bringing frames, caches and decoder to where the timeline is.

The timeline is wound back at once, when it is asked for; this is done by the generator thread
before its next turn.
"""

from __future__ import annotations

from ..abandonment import ChunkAbandonedError
from .rewind import replay
from .shots import ShotRun
from .timeline import Timeline
from .workers import Workers


class WayBack:
    """Takes back what was made behind the place that a film goes on from.

    Args:
        workers: the parts that hold it.
        timeline: where the film stands.

    Attributes:
        loaded: the shot that the pipeline has begun.
        last_chunk: number of the last of its chunks that was begun.
        reread_at: frame of it where a new caption last computed chunks anew; -1 if none has.
        needs_prompt: its keys are of use only if the prompt that waits is applied next.
    """

    def __init__(self, workers: Workers, timeline: Timeline) -> None:
        self._workers, self._timeline = workers, timeline
        self.loaded: ShotRun | None = None
        self.last_chunk, self.reread_at = 0, -1
        self.needs_prompt = False

    def load(self) -> None:
        """Go on with the past shots of a restored film."""
        timeline = self._timeline
        self._workers.decoder.wait_idle()
        with timeline.lock:
            if timeline.reload is None:
                return
            self._workers.selector.load_past(timeline.reload)
            timeline.reload, timeline.wound_back, self.loaded = None, False, None
            timeline.wish()
            timeline.changed.notify_all()  # a snapshot may wait for it, and no turn may follow

    def wind_back(self) -> None:
        """Go on with the last shot begun, or what comes behind it, where it was wound back to.

        Nothing is to be computed for it while the shot's keys up to there, and its frames, are
        still in their places; otherwise the shot is made again.
        """
        timeline = self._timeline
        self._workers.decoder.wait_idle()
        with timeline.lock:
            run = timeline.playlist.run
            timeline.wound_back = self.needs_prompt = False
            timeline.changed.notify_all()  # as above
            if run is None:
                timeline.reload = ()
                return
            run.epoch = timeline.epoch
            has_keys = run is self.loaded and (self._can_go_on(run) or self._can_recache(run))
            needs_none = run.ended and not timeline.whole
            if not (needs_none or has_keys) or not self._reopen(run):
                replay(timeline)

    def _reopen(self, run: ShotRun) -> bool:
        """Bring the selector back to a shot's frames; False if it does not have them any more."""
        if run.frames == 0 or run.past is None or run.memory is None:
            return False
        if not self._workers.selector.reopen(run.memory, run.past, run.frames):
            return False
        self._workers.selector.change_caption(run.caption)
        return True

    def _can_go_on(self, run: ShotRun) -> bool:
        """Let the loaded shot go on with a chunk that it had begun before; False if it cannot.

        Chunks that were computed anew with a caption that the shot no longer has are of no use.
        """
        if self.reread_at >= run.frames or not self._workers.decoder.can_go_back(run.next_chunk):
            return False
        last = self._workers.pipeline.wind_back(run.next_chunk, self.last_chunk)
        if last is None:
            return False
        self.last_chunk = last
        return True

    def _can_recache(self, run: ShotRun) -> bool:
        """Tell whether the prompt that waits computes the keys anew that the shot goes on with."""
        pipeline, prompt = self._workers.pipeline, self._timeline.prompt
        if pipeline.config.rollout.prompt != "recache" or prompt is None or not prompt.flush:
            return False
        # Of a chunk that is partly shown, all frames were made with the old text.
        self.needs_prompt = pipeline.go_back(run.next_chunk + (run.skip > 0))
        return self.needs_prompt

    def give_up(self) -> None:
        """Make the shot again: the prompt that its keys depended on was taken back."""
        with self._timeline.lock:
            if self.needs_prompt:
                self.needs_prompt = False
                replay(self._timeline)
        raise ChunkAbandonedError
