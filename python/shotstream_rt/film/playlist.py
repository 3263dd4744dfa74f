"""Which shot comes next: the queue of shots asked for, and the running one.

Decisions on plain values, without threads, tensors or clocks. The generator asks at every chunk
boundary, under its own lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice

from ..errors import ConfigError
from ..story import story_prefix
from ..types import Receipt
from .shots import AtEnd, ShotRequest, ShotRun
from .stats import ShotTimes


class Playlist:
    """The order of shots.

    Args:
        trained_chunks: chunks of a shot of trained length.
        at_end: what such a shot does when nothing is queued: ``hold`` ends it, ``extend`` goes on
            making chunks of it, ``loop`` begins a new shot with the same caption.
        longest_chunks: most chunks that a shot can have; an extended shot that reaches them goes
            on as a new shot with the same caption. None: no limit.

    Attributes:
        pending: shots asked for and not begun.
        run: the last shot begun.
        next_shot: number of the next shot that does not replace another.
    """

    def __init__(
        self, *, trained_chunks: int, at_end: AtEnd, longest_chunks: int | None = None
    ) -> None:
        self._trained_chunks = trained_chunks
        self._longest_chunks = longest_chunks
        self._at_end = at_end
        self.pending: deque[ShotRequest] = deque()
        self.run: ShotRun | None = None
        self._run_before: ShotRun | None = None
        self.next_shot = 0

    def upcoming(self, count: int | None = None) -> list[tuple[int, ShotRequest]]:
        """Return the next queued shots with the numbers they will get.

        Args:
            count: how many at most; None for all.
        """
        found: list[tuple[int, ShotRequest]] = []
        shot = self.next_shot
        for request in islice(self.pending, count):
            replaces = request.retake and (self.run is not None or found)
            found.append((shot - 1 if replaces else shot, request))
            shot += not replaces
        return found

    def next_caption(self) -> str:
        """Return the caption that the first queued shot will have."""
        request = self.pending[0]
        replaces = request.retake and self.run is not None
        return "".join(caption_parts(request, self.next_shot - replaces))

    def length(self, request: ShotRequest) -> int:
        """Return how many chunks a shot has if nothing cuts or extends it."""
        return request.chunks or self._trained_chunks

    @property
    def repeats(self) -> bool:
        """Whether the last shot goes on in some form when nothing is queued."""
        return self._at_end != "hold" and not self.pending

    @property
    def makes_again(self) -> bool:
        """Whether the next shot is one that was begun before."""
        return bool(self.pending) and self.pending[0].again

    def add(self, request: ShotRequest) -> list[ShotRequest]:
        """Queue a shot, and return the queued ones that it supersedes; they are dropped."""
        if request.now:
            return self._add_first(request)
        self.pending.append(request)
        return []

    def _add_first(self, request: ShotRequest) -> list[ShotRequest]:
        """Queue a shot marked ``now`` before all others.

        It supersedes others so marked: the newest is what the caller wants to see.
        """
        older = [pending for pending in self.pending if pending.now]
        # Shots that are made again up to where the reader is come before everything.
        again = [pending for pending in self.pending if pending.again]
        rest = [pending for pending in self.pending if not pending.now and not pending.again]
        self.pending = deque([*again, request, *rest])
        self.forget_context()
        return older

    def forget_context(self) -> None:
        """Let the model's rule pick the context of queued shots that had theirs picked before.

        Other frames come before them than did then.
        """
        for position, request in enumerate(self.pending):
            if request.context is not None and not request.again:
                self.pending[position] = replace(request, context=None)

    def remove(self, receipt_id: int) -> ShotRequest | None:
        """Take a queued shot back; None if none has this receipt."""
        for request in self.pending:
            if request.receipt is not None and request.receipt.id == receipt_id:
                self.pending.remove(request)
                return request
        return None

    def clear(self, *, but_again: bool = False) -> list[ShotRequest]:
        """Take all queued shots back, or all but those that are made again, and return them."""
        taken = [request for request in self.pending if not (but_again and request.again)]
        self.pending = deque(request for request in self.pending if but_again and request.again)
        return taken

    def drop_run(self, run: ShotRun) -> None:
        """Forget a shot that was begun and of which no chunk was made."""
        if run is not self.run:
            return
        if not run.replaces:
            self.next_shot -= 1
        self.run = self._run_before

    def wind_back(self, run: ShotRun | None, before: ShotRun | None) -> None:
        """Take ``run`` for the last shot begun, and ``before`` for the one before it."""
        self.run, self._run_before = run, before
        self.next_shot = 0 if run is None else run.shot + 1

    def reset(self, requests: Iterable[ShotRequest] = (), *, next_shot: int) -> None:
        """Forget everything and queue ``requests``; ``next_shot`` numbers the first of them."""
        self.run = self._run_before = None
        self.pending = deque(requests)
        self.next_shot = next_shot

    def reword(self, position: int, text: str) -> ShotRequest:
        """Change the text of a queued shot, and return its new request.

        Args:
            position: in ``pending``.
            text: the new text, without the prefix.
        """
        self.pending[position] = replace(self.pending[position], text=text)
        return self.pending[position]

    def retake_request(
        self, shot: int | None, *, requested_ns: int, receipt: Receipt | None = None
    ) -> ShotRequest:
        """Return a request for another take of the last shot begun.

        Args:
            shot: the shot the caller means; None does not check.
            requested_ns: host time.
            receipt: is told what becomes of the request.

        Raises:
            ConfigError: no shot was begun, or ``shot`` is not the last one begun.
        """
        run = self.run
        if run is None or (shot is not None and shot != run.shot):
            last = "none was begun" if run is None else f"the last one begun is shot {run.shot}"
            raise ConfigError(f"retake: got {'no shot' if shot is None else shot}, but {last}")
        take = max([run.request.take, *(r.take for r in self.pending if r.retake)]) + 1
        return run.request_again(requested_ns=requested_ns, take=take, receipt=receipt)

    def can_go_on(self, run: ShotRun, chunk: int | None = None) -> bool:
        """Tell whether a shot may have another chunk, or this one, if no cut ends it."""
        request = run.request
        chunk = run.next_chunk if chunk is None else chunk
        if request.frames is not None or run.frames < request.given:  # it is made again
            return run.frames < (request.frames or request.given) and not run.failed
        if run.failed or run.ended:
            return False
        if chunk < self.length(request):
            return True
        shorter = self._longest_chunks is None or chunk < self._longest_chunks
        return self._at_end == "extend" and shorter

    def reaches(self, run: ShotRun, frame: int) -> bool:
        """Tell whether a shot has this frame if no cut ends it before."""
        chunk = run.chunk_at(frame)
        longest = self.length(run.request)
        if self._at_end == "extend":
            longest = self._longest_chunks or chunk + 1
        return chunk < longest

    def running(self) -> ShotRun | None:
        """Return the shot begun last if it may have another chunk."""
        return self.run if self.run is not None and self.can_go_on(self.run) else None

    def has_work(self) -> bool:
        """Tell whether there is a chunk to make."""
        loops = self.run is not None and self._at_end != "hold"
        return bool(self.pending) or loops or self.running() is not None

    def will_go_on(self, ready: Callable[[str], bool]) -> bool:
        """Tell whether the running shot has another chunk, given what is queued.

        A shot interrupts it only when its caption is ``ready``, so that the picture does not stop.
        """
        run = self.running()
        if run is None or not self.pending:
            return run is not None
        if run.frames < run.request.given:
            return True
        complete = run.request.frames is None and run.next_chunk >= self.length(run.request)
        return not complete and not (self.pending[0].now and ready(self.next_caption()))

    def next_run(self, ready: Callable[[str], bool], *, now_ns: int) -> ShotRun:
        """Return the next chunk's shot, if there is work; a looped one is due at ``now_ns``."""
        run = self.run
        if run is not None and self.will_go_on(ready):
            return run
        if self.pending:
            request = self.pending.popleft()
        else:
            assert run is not None, "next_run without work"
            request = run.request_again(requested_ns=now_ns)
        replaces = request.retake and run is not None
        if run is not None:
            run.ended = True
        self.next_shot += not replaces
        shot, (prefix, text) = self.next_shot - 1, caption_parts(request, self.next_shot - 1)
        self._run_before, self.run = run, ShotRun(
            request=replace(request, prefix=prefix, global_caption=None), shot=shot,
            caption=prefix + text, replaces=replaces,
            times=ShotTimes(shot=shot, take=request.take, prompt=text),
        )  # fmt: skip
        return self.run


def caption_parts(request: ShotRequest, shot: int) -> tuple[str, str]:
    """Return prefix and text of the caption of a request that becomes shot number ``shot``."""
    story = request.global_caption
    return request.prefix if story is None else story_prefix(story, shot), request.text
