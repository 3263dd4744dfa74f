"""Shots: what was asked for, and what has been made of it so far.

Plain values shared by the session, its threads and snapshots.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from ..running_shot import RunningShot
from ..types import Receipt
from .reference import ReferencePicture
from .shot_memory import ShotMemory
from .start import Start
from .stats import ShotTimes

AtEnd = Literal["hold", "extend", "loop"]
AT_END: tuple[AtEnd, ...] = ("hold", "extend", "loop")


class CaptionChange(NamedTuple):
    """Another caption for a shot that runs.

    Attributes:
        frame: first frame of the shot that it holds for.
        caption: with a story's prefix.
        reread: how many chunks before that frame's were computed anew with it, as the cache holds
            them.
    """

    frame: int
    caption: str
    reread: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotRequest:
    """A shot that was asked for.

    A shot that was begun before, and is made again to go on from where it was, also tells how it
    went: ``again``, ``prompts``, ``given``, ``frames``, ``context``.

    Attributes:
        text: the caption without its story prefix.
        prefix: global caption and shot mark of a story, or empty.
        global_caption: makes the prefix when the shot begins and its number is known.
        seed: noise seed.
        take: 0 for the first try of a shot, counted up by retakes.
        requested_ns: host time of the call.
        now: begin at the next chunk boundary instead of after the running shot.
        retake: another take of the shot begun last, which it replaces.
        looped: nobody asked for it; the shot before went on as a new one.
        again: it was begun before; callers take it for the running shot.
        prompts: changes of the caption.
        given: frames of the shot that were delivered before, and are not delivered again.
        frames: frames after which it ends, for a shot that has ended; None goes on.
        context: numbers in the film of its context frames; None lets the model's rule pick.
        images: pictures that it sees beside them.
        chunks: length of the shot in chunks instead of the trained length.
        start: frames that it begins with.
        receipt: is told what becomes of the request; None for a shot made again or a loop.
    """

    text: str
    prefix: str = ""
    seed: int = 0
    take: int = 0
    requested_ns: int = 0
    now: bool = False
    retake: bool = False
    looped: bool = False
    again: bool = False
    prompts: tuple[CaptionChange, ...] = ()
    given: int = 0
    frames: int | None = None
    context: tuple[int, ...] | None = None
    images: tuple[ReferencePicture, ...] = ()
    global_caption: str | None = None
    chunks: int | None = None
    start: Start | None = None
    receipt: Receipt | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True, kw_only=True, eq=False)
class ShotRun:
    """A shot whose turn has come.

    Attributes:
        request: what was asked for, with the prefix that it has as this shot.
        shot: number in the film.
        caption: its caption now.
        times: when it was due, began, and had its frames.
        replaces: it is another take of the shot before it, and takes its place.
        epoch: how often the film had been restored or wound back when it last went on; chunks from
            before are discarded.
        first_index: number in the film of its first frame.
        chunk_frames: frames of its first chunk, and of every later one.
        past: the past shots it may take context from; None until they are known, and again when
            the shot is so old that they are let go.
        memory: its own frames, as the context selector keeps them; None likewise.
        begun: what the pipeline knows of it; None until it has begun it, and likewise.
        context_captions: captions of the shots that its context frames come from, oldest first.
        frames: frames made so far.
        next_chunk: number of the next chunk to make.
        skip: frames of that chunk that were made before, with another caption, and are shown.
        committed: number of the last chunk whose keys are stored, -1 for none.
        last_begun: number of the last chunk whose keys and values may be in the caches.
        reread_at: its frame where a new caption last computed chunks anew; -1 if none has.
        prompts: changes of its caption.
        ended: nothing will follow.
        failed: making it failed.
    """

    request: ShotRequest
    shot: int
    caption: str
    times: ShotTimes
    replaces: bool = False
    epoch: int = 0
    first_index: int = 0
    chunk_frames: tuple[int, int] = (1, 1)
    past: tuple[ShotMemory, ...] | None = None
    memory: ShotMemory | None = None
    begun: RunningShot | None = None
    context_captions: tuple[str, ...] = ()
    frames: int = 0
    next_chunk: int = 0
    skip: int = 0
    committed: int = -1
    last_begun: int = 0
    reread_at: int = -1
    prompts: list[CaptionChange] = field(default_factory=list)
    ended: bool = False
    failed: bool = False

    def change_caption(self, caption: str, reread: int = 0) -> None:
        """Give it another caption from its next frame on, with which chunks are computed anew."""
        self.prompts.append(CaptionChange(self.frames, caption, reread))
        self.caption = caption

    def chunk_at(self, frame: int) -> int:
        """Return the chunk that one of its frames is of."""
        first, later = self.chunk_frames
        return 0 if frame < first else 1 + (frame - first) // later

    def chunk_start(self, chunk: int) -> int:
        """Return the first frame of one of its chunks."""
        first, later = self.chunk_frames
        return first + (chunk - 1) * later if chunk else 0

    def wind_back(self, frames: int) -> None:
        """Forget all but its first ``frames`` frames, and what was asked for after them."""
        self.frames = frames
        self.next_chunk = self.chunk_at(frames)
        self.skip = frames - self.chunk_start(self.next_chunk)
        self.committed = min(self.committed, self.next_chunk - 1)
        self.prompts = [change for change in self.prompts if change.frame < frames]
        first_caption = self.request.prefix + self.request.text
        self.caption = self.prompts[-1].caption if self.prompts else first_caption
        self.request = replace(self.request, again=False, prompts=(), given=0, frames=None)

    def request_again(
        self, *, requested_ns: int, take: int | None = None, receipt: Receipt | None = None
    ) -> ShotRequest:
        """Return a request for a new shot with the last caption of this one.

        Args:
            requested_ns: host time.
            take: a number makes it another take, which replaces this shot at the next chunk
                boundary; without one it is the next shot of the film.
            receipt: is told what becomes of it.
        """
        request = self.request
        return ShotRequest(
            text=self.caption.removeprefix(request.prefix),
            prefix=request.prefix,
            seed=request.seed,
            take=request.take if take is None else take,
            requested_ns=requested_ns,
            now=take is not None,
            retake=take is not None,
            looped=take is None,
            images=() if take is None else request.images,
            chunks=request.chunks,
            start=None if take is None else request.start,
            receipt=receipt,
        )

    def request_fresh(self) -> ShotRequest:
        """Return its request as if it had not begun."""
        return replace(
            self.request, now=False, again=False, prompts=(), given=0, frames=None, context=None,
            receipt=None,
        )  # fmt: skip

    def request_replay(self, given: int) -> ShotRequest:
        """Return the request that makes this same shot once more.

        A retake stays one, also where it is the first shot to be made again: the playlist knows
        that it replaces none then, and it does if the film goes back further.

        Args:
            given: how many of its frames were delivered, and are not delivered again.
        """
        changed = {change.frame for change in self.prompts}
        later = (
            change
            for change in self.request.prompts
            if change.frame >= self.frames and change.frame not in changed
        )
        return replace(
            self.request,
            now=False,
            again=given > 0,
            prompts=(*self.prompts, *later),
            given=given,
            frames=self.frames if self.ended else self.request.frames,
            receipt=None,
        )

    def waiting_receipt(self) -> Receipt | None:
        """Return the receipt of its request if nothing became of that yet."""
        receipt = self.request.receipt
        return receipt if receipt is not None and receipt.state == "waiting" else None

    @classmethod
    def made(
        cls, request: ShotRequest, shot: int, first_index: int, chunk_frames: tuple[int, int]
    ) -> ShotRun:
        """Return a shot that was made and delivered elsewhere.

        Args:
            request: it, with ``given`` frames.
            shot: its number.
            first_index: number of its first frame.
            chunk_frames: see the attribute.
        """
        prompts = [change for change in request.prompts if change.frame < request.given]
        return cls(
            request=request, shot=shot, first_index=first_index, frames=request.given,
            chunk_frames=chunk_frames,
            caption=prompts[-1].caption if prompts else request.prefix + request.text,
            prompts=prompts, ended=request.frames == request.given, replaces=request.retake,
            times=ShotTimes(shot=shot, take=request.take, prompt=request.text),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResumePoint:
    """All that a film needs to go on from a place between two chunks; what a snapshot holds.

    Attributes:
        history: the shots before that are delivered whole, with their numbers; each has ``given``
            and ``frames``.
        requests: shots to make from here on; of the first, some frames may have been read.
        past: the past shots that the first of them may take context from.
        next_shot: number of the first of ``requests``.
        next_index: number of the next frame.
        reads: frames that were read of the session up to here; tells places apart that have the
            same number because the film went back. Not part of a snapshot.
        pins: numbers in the film of frames that every later shot sees.
        forgotten: numbers of shots that no later shot sees.
    """

    history: tuple[tuple[int, ShotRequest], ...] = ()
    requests: tuple[ShotRequest, ...]
    past: tuple[ShotMemory, ...]
    next_shot: int
    next_index: int
    reads: int = 0
    pins: tuple[int, ...] = ()
    forgotten: tuple[int, ...] = ()
