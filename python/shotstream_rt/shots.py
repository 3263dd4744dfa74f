"""Shots as the session thinks of them: what was asked for, and what became of it.

Plain values shared by the session, the generator thread and snapshots.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from .context import ShotMemory
from .types import Chunk

AtEnd = Literal["hold", "extend", "loop"]
AT_END: tuple[AtEnd, ...] = ("hold", "extend", "loop")

_MASK = (1 << 64) - 1


def take_seed(seed: int, take: int) -> int:
    """Return the noise seed of a take: the seed itself for take 0, a scrambled one after it.

    Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
    """
    if take == 0:
        return seed
    z = (seed + take * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) & (_MASK >> 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotRequest:
    """A shot that was asked for.

    Attributes:
        text: the caption without its story prefix.
        prefix: global caption and shot mark of a story, or empty.
        seed: noise seed.
        take: 0 for the first try of a shot, counted up by retakes.
        requested_ns: host time of the call.
        now: begin at the next chunk boundary instead of after the running shot.
        retake: make the last shot again, in its place.
        prompts: full captions by the chunk from which they hold, for a shot made again.
        delivered_chunks: chunks a restored session need not deliver again.
        chunk_limit: chunks of a shot that is known to have been cut short.
    """

    text: str
    prefix: str = ""
    seed: int = 0
    take: int = 0
    requested_ns: int = 0
    now: bool = False
    retake: bool = False
    prompts: tuple[tuple[int, str], ...] = ()
    delivered_chunks: int = 0
    chunk_limit: int | None = None

    @property
    def caption(self) -> str:
        """What the text encoder reads."""
        return self.prefix + self.text


@dataclass(slots=True, kw_only=True, eq=False)
class ShotRun:
    """A shot that was begun; owned by the generator thread.

    Attributes:
        request: what was asked for.
        shot: number in the film.
        replaces: it is another take of the shot before it, and takes its place.
        past: the past shots it can see, as they were when it began; None until that is known.
        next_chunk: chunks computed so far.
        prompts: captions that replaced the first one, by the chunk from which they hold.
        over: no chunk will follow.
    """

    request: ShotRequest
    shot: int
    replaces: bool = False
    past: tuple[ShotMemory, ...] | None = None
    next_chunk: int = 0
    prompts: list[tuple[int, str]] = field(default_factory=list)
    over: bool = False

    def again(self, *, requested_ns: int, take: int | None = None) -> ShotRequest:
        """Return a request for a new shot with the last caption of this one.

        Args:
            requested_ns: host time.
            take: with a number, the new shot takes this one's place at the next chunk boundary.
        """
        request = self.request
        caption = self.prompts[-1][1] if self.prompts else request.caption
        return ShotRequest(
            text=caption.removeprefix(request.prefix),
            prefix=request.prefix,
            seed=request.seed,
            take=request.take if take is None else take,
            requested_ns=requested_ns,
            now=take is not None,
            retake=take is not None,
        )

    def replayed(self, delivered_chunks: int, *, first: bool) -> ShotRequest:
        """Return the request that makes this very shot again, prompt changes included.

        Args:
            delivered_chunks: how many of its chunks need not be delivered again.
            first: it will be the first shot of the restored film, so it replaces none.
        """
        later = ((chunk, text) for chunk, text in self.request.prompts if chunk >= self.next_chunk)
        return replace(
            self.request,
            now=False,
            retake=self.request.retake and not first,
            prompts=(*self.prompts, *later),
            delivered_chunks=delivered_chunks,
            chunk_limit=self.next_chunk if self.over else self.request.chunk_limit,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilmState:
    """Where a film stands between two chunks; what a snapshot holds.

    Attributes:
        requests: shots to make from here on; the first may be half delivered.
        past: past shots as seen by the first of them.
        next_shot: number of the first of ``requests``.
        next_index: number of the next frame.
    """

    requests: tuple[ShotRequest, ...]
    past: tuple[ShotMemory, ...]
    next_shot: int
    next_index: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Delivery:
    """A finished chunk on its way to the consumer.

    Attributes:
        chunk: the frames.
        run: the shot it belongs to.
        epoch: how often the film had been restored when it was made; older ones are void.
    """

    chunk: Chunk
    run: ShotRun
    epoch: int
