"""What callers ask of a film that is not just another shot at its end.

Every method may be called from any thread; what it decides takes effect at the next chunk boundary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..checks import check_one_of, check_range
from ..config import RolloutConfig
from ..errors import ConfigError
from ..printable import listed, shown
from ..types import Place, Receipt
from . import rewind
from .places import next_place, shot_place
from .reference import ReferencePicture, reference_pictures
from .shots import ResumePoint, ShotRequest, ShotRun
from .timeline import NewPrompt, Timeline

_WHOLE_SHOT = 1 << 20
"""More chunks than a shot has."""


class Director:
    """Changes a film's timeline.

    Args:
        timeline: the film's.
        rollout: of the student; whether a running shot may get another prompt, and read again.
    """

    def __init__(self, timeline: Timeline, rollout: RolloutConfig) -> None:
        self._timeline, self._rollout = timeline, rollout

    def upcoming_shot(self, *, now: bool) -> int:
        """Return the number that the next shot to be queued gets if no other is queued before."""
        with self._timeline.lock:
            playlist = self._timeline.playlist
            # One that is asked for ``now`` comes behind those that are made again.
            before = [shot for shot, one in playlist.upcoming() if one.again or not now]
            return before[-1] + 1 if before else playlist.next_shot

    def pictures(
        self, images: Sequence[Any], size: tuple[int, int], budget: int
    ) -> tuple[ReferencePicture, ...]:
        """Return a shot's reference pictures; arguments and errors of ``reference_pictures``.

        Args:
            images: as given.
            size: of the film.
            budget: context frames of a shot.
        """
        with self._timeline.lock:
            held = self._timeline.pictures()
        return reference_pictures(images, size, budget, held)

    def cut(self, request: ShotRequest) -> None:
        """Begin a shot where the reader is, and drop what is not read.

        Raises:
            ConfigError: with its pictures the film would hold too many.
            SessionClosedError: the film is being closed.
        """
        timeline = self._timeline
        with timeline.lock, timeline.frames.standstill() as index:
            timeline.check_running()
            if request.images:
                timeline.check_room(request)
            rewind.count_as_made(timeline)
            rewind.wind_back(timeline, index, "cut", ends=True, keeps_later=False)
            timeline.add([request])
        timeline.events.tell()

    def reread_chunks(self, reread: object) -> int:
        """Return how many chunks a prompt computes anew at most.

        Args:
            reread: as of ``Session.prompt``.

        Raises:
            ConfigError: it is not usable, or the student's caches are not made chunk by chunk.
        """
        if isinstance(reread, str):
            check_one_of("reread", reread, ("none", "shot"))
            chunks = 0 if reread == "none" else _WHOLE_SHOT
        else:
            chunks = check_range("reread", reread, 0, _WHOLE_SHOT)
        if chunks and self._rollout != RolloutConfig():
            raise ConfigError(
                f"reread: got {shown(reread)}, but caches of this student are not made chunk by "
                "chunk (docs/students.md); leave it out"
            )
        return chunks

    def prompt(
        self, text: str, shot: int | None, receipt: Receipt, *, flush: bool = False, reread: int = 0
    ) -> None:
        """Change the text of the running shot, or of a queued one that is named.

        Args:
            text: the new text, without a story's prefix.
            shot: number of the shot that is meant; None for the running one.
            receipt: is told what becomes of it.
            flush: drop what is not read, so that the shot goes on where the reader is.
            reread: how many of the newest chunks of the running shot are computed anew with it.

        Raises:
            ConfigError: no such shot is running or queued, or it keeps its prompt.
            SessionClosedError: the film is being closed.
        """
        timeline = self._timeline
        with timeline.lock, timeline.frames.standstill() as index:
            timeline.check_running()
            if flush or timeline.playlist.run is None or timeline.playlist.makes_again:
                rewind.count_as_made(timeline)  # shots that were shown keep their texts
            read = self._read_run(shot, index) if flush else None
            refused = self._rollout.prompt == "refused"
            if refused and (read or self._steerable_run(shot)) is not None:
                raise ConfigError(
                    "prompt: got a new text for the running shot, but shots of this student keep "
                    "theirs: the chunks in flight carry the text they began with; cut instead"
                )
            if read is not None:
                rewind.wind_back(timeline, index, "prompt", ends=False, keeps_later=True)
            run = read or self._steerable_run(shot)
            if run is not None:
                timeline.drop_prompt("superseded")
                caption = run.request.prefix + text
                timeline.prompt = NewPrompt(
                    caption=caption, receipt=receipt, flush=flush, reread=reread
                )
            else:
                position = self._queued_position(shot)
                if position is None:
                    raise ConfigError(self._why_no_prompt(shot))
                number, _ = timeline.playlist.upcoming(position + 1)[position]
                request = timeline.playlist.reword(position, text)
                receipt.decide("applied", shot_place(timeline, position, number, request.take))
            timeline.wish()
            timeline.changed.notify_all()
        timeline.events.tell()

    def retake(
        self, shot: int | None, receipt: Receipt, *, flush: bool, keep_following: bool
    ) -> None:
        """Make a shot again with other noise.

        Args:
            shot: number of the shot; None for the last one begun, or with ``flush`` for the one
                that is read.
            receipt: is told what becomes of it.
            flush: drop what is not read.
            keep_following: make the shots behind an older one again after it.

        Raises:
            ConfigError: no such shot was begun.
            SessionClosedError: the film is being closed.
        """
        timeline, now_ns = self._timeline, time.perf_counter_ns()
        with timeline.lock, timeline.frames.standstill() as index:
            timeline.check_running()
            rewind.count_as_made(timeline)
            read = [run for run in timeline.runs if run.first_index < index]
            newest = read[-1] if read and flush else timeline.playlist.run
            if newest is not None and shot is not None and shot != newest.shot:
                timeline.add([self._older_retake(shot, index, receipt, keep_following)])
            else:
                if newest is not None and newest in read and flush:
                    rewind.wind_back(timeline, index, "retake", ends=True, keeps_later=True)
                request = timeline.playlist.retake_request(
                    shot, requested_ns=now_ns, receipt=receipt
                )
                timeline.add([request])
        timeline.events.tell()

    def undo(
        self, receipt: Receipt, *, chunks: int | None, frame: int | None, shot: int | None
    ) -> None:
        """Go back in what was delivered; the shot that is shown there goes on from there.

        Args:
            receipt: is told the place.
            chunks: how many chunks of the shot that is read; one that is partly read counts.
            frame: number of the frame that comes next from then on.
            shot: number of the shot that begins once more.

        Raises:
            ConfigError: nothing was delivered, or not so much.
            SessionClosedError: the film is being closed.
        """
        timeline = self._timeline
        with timeline.lock, timeline.frames.standstill() as read:
            timeline.check_running()
            rewind.count_as_made(timeline)
            index = self._undo_index(read, chunks, frame, shot)
            rewind.wind_back(timeline, index, "undo", ends=False, keeps_later=False)
            run = timeline.runs[-1]
            place = Place(run.shot, run.request.take, run.next_chunk, index)
            receipt.decide("applied", place)
            timeline.events.note(
                "undo_applied", place=place, caption=run.caption, request=receipt.id
            )
        timeline.events.tell()

    def cancel(self, receipt_id: int) -> bool:
        """Take back a request that is not begun; False if there is none with this receipt."""
        timeline = self._timeline
        with timeline.lock:
            prompt, request = timeline.prompt, timeline.playlist.remove(receipt_id)
            if request is not None:
                timeline.events.drop(request.receipt, "cancelled", request.prefix + request.text)
            elif prompt is not None and prompt.receipt.id == receipt_id:
                timeline.drop_prompt("cancelled")
            else:
                return False
            timeline.wish()
            timeline.changed.notify_all()
        timeline.events.tell()
        timeline.frames.wake()
        return True

    def clear(self) -> int:
        """Take back all shots that are not begun, and return how many."""
        timeline = self._timeline
        with timeline.lock:
            count = self._cancel_queued(but_again=True)
            timeline.wish()
            timeline.changed.notify_all()
        timeline.events.tell()
        timeline.frames.wake()
        return count

    def pause(self, *, on: bool) -> None:
        """Begin no further chunk, or go on."""
        with self._timeline.lock:
            self._timeline.paused = on
            self._timeline.changed.notify_all()

    def restore(self, point: ResumePoint) -> None:
        """Drop everything at the next denoising step and go on from ``point``.

        Raises:
            SessionClosedError: the film is being closed.
        """
        timeline = self._timeline
        with timeline.lock:
            timeline.check_running()
            timeline.drop_prompt("cancelled")
            run = timeline.playlist.run
            if run is not None and run.request.receipt is not None:  # if it has not begun
                timeline.events.drop(run.request.receipt, "cancelled", run.caption)
            self._cancel_queued()
            timeline.restore(point)
            timeline.wish()
        timeline.events.tell()

    # Under the lock.

    def _cancel_queued(self, *, but_again: bool = False) -> int:
        """Take back all shots that are not begun, but those made again, and return how many."""
        taken = self._timeline.playlist.clear(but_again=but_again)
        for request in taken:
            self._timeline.events.drop(request.receipt, "cancelled", request.prefix + request.text)
        return len(taken)

    def _read_run(self, shot: int | None, index: int) -> ShotRun | None:
        """Return the shot that goes on where the reader is, None if none does.

        Args:
            shot: number of the shot that is meant; None for whichever is read.
            index: number of the next frame to be read.
        """
        timeline = self._timeline
        begun = [run for run in timeline.runs if run.first_index <= index]
        if not begun or (shot is not None and begun[-1].shot != shot):
            return None
        run = begun[-1]
        return run if timeline.playlist.reaches(run, index - run.first_index) else None

    def _older_retake(
        self, shot: int, index: int, receipt: Receipt, keep_following: bool
    ) -> ShotRequest:
        """Go back to the beginning of an older shot, and return the request of its next take."""
        timeline = self._timeline
        begun = [run for run in timeline.runs if run.first_index <= index and run.frames]
        found = [run for run in begun if run.shot == shot]
        if not found:
            known = sorted({run.shot for run in begun})
            raise ConfigError(f"retake: got shot {shot}, wanted one of {listed(known)}")
        run = found[-1]
        later = [after for after in timeline.runs if after.first_index > run.first_index]
        rewind.wind_back(timeline, run.first_index, "retake", ends=True, keeps_later=False)
        if keep_following:
            for after in reversed(later):
                timeline.playlist.pending.appendleft(after.request_fresh())
        return replace(run.request_fresh(), take=run.request.take + 1, now=True, receipt=receipt)

    def _undo_index(
        self, index: int, chunks: int | None, frame: int | None, shot: int | None
    ) -> int:
        """Return the frame that comes next after an undo; ``index`` is the one before it."""
        runs = [run for run in self._timeline.runs if run.first_index <= index]
        seen = [run for run in runs if run.first_index < index] or runs
        if not seen:
            raise ConfigError("undo: no shot was begun; begin one with cut(text)")
        if frame is not None:
            if not 0 <= frame <= index:
                raise ConfigError(f"undo: got frame {frame}, wanted 0 to {index}, the next one")
            return frame
        if shot is not None:
            found = [run for run in runs if run.shot == shot]
            if not found:
                known = listed(sorted({run.shot for run in runs}))
                raise ConfigError(f"undo: got shot {shot}, wanted one of {known}")
            return found[-1].first_index
        run, wanted = seen[-1], 1 if chunks is None else chunks
        read = run.chunk_at(max(0, index - 1 - run.first_index)) + (index > run.first_index)
        if wanted > read:
            raise ConfigError(
                f"undo: got {wanted} chunks, but {read} of shot {run.shot} were read; name an "
                "earlier shot or frame"
            )
        return run.first_index + run.chunk_start(read - wanted)

    def _steerable_run(self, shot: int | None) -> ShotRun | None:
        """Return the running shot if a prompt may change it.

        Args:
            shot: number of the shot that is meant; None for whichever runs.
        """
        timeline, playlist = self._timeline, self._timeline.playlist
        run = playlist.run
        if run is None or timeline.failed is not None or shot not in (None, run.shot):
            return None
        chunk, _ = next_place(timeline)
        if playlist.can_go_on(run, chunk) or (shot is None and playlist.repeats):
            return run
        return None

    def _queued_position(self, shot: int | None) -> int | None:
        """Return the place in the queue of a shot that a prompt may reword, None for none.

        A shot is only reworded if it was named, or if it is all that the caller can mean: the next
        one, while nothing that is shown or will be shown came before it.
        """
        timeline = self._timeline
        if shot is None:
            shown = timeline.frames.unread or timeline.in_flight
            return 0 if timeline.playlist.pending and not shown else None
        for position, (number, _) in enumerate(timeline.playlist.upcoming()):
            if number == shot:
                return position
        return None

    def _why_no_prompt(self, shot: int | None) -> str:
        run, pending = self._timeline.playlist.run, self._timeline.playlist.upcoming(1)
        if shot is not None:
            return f"prompt: got shot {shot}, which is neither running nor queued"
        if run is None and not pending:
            return "prompt: no shot is running or queued; begin one with cut(text)"
        if not pending:
            return "prompt: no shot is running: all its chunks are made; begin one with cut(text)"
        return (
            "prompt: no shot is running: all chunks of the one that is shown are made; name the "
            f"queued shot to reword with shot={pending[0][0]}, or cut(text)"
        )
