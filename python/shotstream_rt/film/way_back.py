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
        needs_prompt: the running shot's keys are of use only if the prompt that waits is applied
            next.
    """

    def __init__(self, workers: Workers, timeline: Timeline) -> None:
        self._workers, self._timeline = workers, timeline
        self.needs_prompt = False

    def follow(self) -> None:
        """Go where the timeline was restored or wound back to."""
        if self._timeline.reload is not None:
            self._load()
        else:
            self._wind_back()

    def _load(self) -> None:
        """Go on with the past shots of a restored film."""
        timeline = self._timeline
        self._workers.decoder.wait_idle()
        with timeline.lock:
            if timeline.reload is None:
                return
            self._workers.selector.load_past(timeline.reload)
            timeline.reload, timeline.wound_back = None, False
            timeline.wish()
            timeline.changed.notify_all()  # a snapshot may wait for it, and no turn may follow

    def _wind_back(self) -> None:
        """Go on with the last shot begun, or what comes behind it, where it was wound back to.

        Nothing is to be computed for it while the shot's keys up to there, and its frames, are
        still in their places; otherwise the shot is made again.
        """
        timeline = self._timeline
        self._workers.decoder.wait_idle()
        with timeline.lock:
            if not timeline.wound_back:  # restored meanwhile
                return
            run = timeline.playlist.run
            timeline.wound_back = self.needs_prompt = False
            timeline.changed.notify_all()  # as above
            if run is None:
                timeline.reload = ()
                return
            run.epoch = timeline.epoch
            needs_none = run.ended and not timeline.whole
            has_keys = not needs_none and self._has_keys(run)
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

    def _has_keys(self, run: ShotRun) -> bool:
        """Bring the caches to where a shot's next chunk comes; False if they cannot."""
        if run.begun is None:
            return False
        pipeline = self._workers.pipeline
        # Without the keys of the chunk before the next one there is nothing to go on from.
        goes_on = run.begun is pipeline.running or (
            run.committed >= run.next_chunk - 1 and pipeline.return_to(run.begun)
        )
        return goes_on and (self._can_go_on(run) or self._can_recache(run))

    def _can_go_on(self, run: ShotRun) -> bool:
        """Let the running shot go on with a chunk that it had begun before; False if it cannot.

        Chunks that were computed anew with a caption that the shot no longer has are of no use.
        """
        decoder, pipeline = self._workers.decoder, self._workers.pipeline
        if run.reread_at >= run.frames or not decoder.can_go_back(run, run.next_chunk):
            return False
        last = pipeline.overwritten.wind_back(pipeline.running, run.next_chunk, run.last_begun)
        if last is None:
            return False
        run.last_begun = last
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
