"""Who computes next: films of one device take turns, chunk by chunk.

A film asks at each of its chunk boundaries. Of those that wait, the one whose viewers' picture runs
dry first goes next (``slack``), or the one that has waited longest (``first_come``). A chunk that
was begun is never interrupted for another film.

A turn ends when the chunk's latents are made; the decoding of it goes on while the next film
computes, as it does within one film. But no turn begins while more chunks are being decoded than
films may compute at once: else many pictures that are not urgent could slow down one that is.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from .throughput import Throughput

Policy = Literal["slack", "first_come"]
POLICIES: tuple[Policy, ...] = ("slack", "first_come")


class Scheduler:
    """Gives films their turns; every method may be called from any thread.

    Args:
        places: how many films compute at once.
        policy: who goes next of those that wait.
        throughput: is told how long chunks take while films wait for one another.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        places: int = 1,
        policy: Policy = "slack",
        *,
        throughput: Throughput | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places, self.policy, self.clock = places, policy, clock
        self.throughput = throughput or Throughput()
        self._lock = threading.Lock()
        self._arrivals = itertools.count()
        self._waiting: list[FilmTurn] = []
        self._computing = self._decoding = 0
        self._crowded_since_s: float | None = None

    @property
    def waiting(self) -> int:
        """How many films wait for their turn."""
        return len(self._waiting)

    def turn(self, due_s: Callable[[], float], *, frame_rate_hz: float) -> FilmTurn:
        """Return what a new film is to ask before each chunk.

        Args:
            due_s: returns when the next frame that was not read yet is due to be shown, by the
                clock; infinity for a film that nobody watches while it is made. Takes no lock.
            frame_rate_hz: frames that are shown per second.
        """
        return FilmTurn(self, due_s, frame_rate_hz)

    def ask(self, turn: FilmTurn, due_s: float, wake: Callable[[], object]) -> bool:
        """Let a film wait for its turn, or for a place that is free; tell whether it has one.

        Args:
            turn: the film's.
            due_s: when the film's viewers have no frame left to show, by the clock; infinity if
                nobody watches.
            wake: called, without the lock and on any thread, when the film is given its turn later.
        """
        with self._lock:
            turn.due_s, turn.wake = due_s, wake
            if not (turn.held or turn in self._waiting):
                turn.arrival = next(self._arrivals)
                self._waiting.append(turn)
                self._grant()  # at most to this one: a place is only free if nobody waits for it
            return turn.held

    def release(self, turn: FilmTurn, frames: int) -> None:
        """Take a film's turn back, and give it to the next one; it does not wait for one either.

        Args:
            turn: the film's.
            frames: of the chunk that was made and is decoded next; 0 if none was.
        """
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
            if turn.held:
                turn.held = False
                self._computing -= 1
                if frames:
                    self._decoding += 1
                    self._note(frames)
            granted = self._grant()
        _wake(granted)

    def decoded(self) -> None:
        """Note that a chunk is decoded."""
        with self._lock:
            self._decoding -= 1
            granted = self._grant()
        _wake(granted)

    # Under the lock.

    def _grant(self) -> list[FilmTurn]:
        """Give free places to who is next, and return those who have to be told."""
        granted: list[FilmTurn] = []
        while self._waiting and self._computing < self.places and self._decoding <= self.places:
            turn = min(self._waiting, key=self._order)
            self._waiting.remove(turn)
            turn.held, turn.granted_s = True, self.clock()
            self._computing += 1
            granted.append(turn)
        if not self._waiting:
            self._crowded_since_s = None
        return granted

    def _order(self, turn: FilmTurn) -> tuple[float, int]:
        return (turn.due_s if self.policy == "slack" else 0.0, turn.arrival)

    def _note(self, frames: int) -> None:
        """Measure: from one chunk to the next, if somebody waited all the time in between."""
        now_s = self.clock()
        if self._crowded_since_s is not None:
            self.throughput.note(frames, now_s - self._crowded_since_s)
        self._crowded_since_s = now_s if self._waiting else None


class FilmTurn:
    """One film's turns; see ``film.turn.Turn``. Made by ``Scheduler.turn``.

    A picture that ran dry is urgent, but a film that has just had its turn is not before its chunk
    could have been shown: otherwise one that makes much without showing it, to go back in its past
    or to wake, would leave the others none.

    Args:
        scheduler: gives the turns.
        due_s: returns when the next frame that was not read yet is due, by the scheduler's clock.
        frame_rate_hz: frames that are shown per second.

    Attributes:
        held: whether the film has its turn.
        due_s: when its viewers have no frame left to show, by the scheduler's clock.
        arrival: counts those who came to wait.
        granted_s: when it last was given its turn.
        wake: tells the film.
    """

    def __init__(
        self, scheduler: Scheduler, due_s: Callable[[], float], frame_rate_hz: float
    ) -> None:
        self._scheduler, self._due_s, self._frame_rate_hz = scheduler, due_s, frame_rate_hz
        self.held, self._undecoded = False, 0
        self.due_s = self.granted_s = 0.0
        self.arrival = 0
        self.wake: Callable[[], object] = _nothing
        self._asked_s = self._full_until_s = float("-inf")

    @property
    def busy(self) -> bool:
        """Whether a chunk of the film is being made or decoded."""
        return self.held or self._undecoded != 0

    def hurry(self) -> None:
        """Note that somebody asked the film for something: its next chunk has no slack."""
        self._asked_s, self._full_until_s = self._scheduler.clock(), float("-inf")

    def take(self, ahead_frames: int, wake: Callable[[], object]) -> bool:
        """See ``Turn``."""
        due_s = self._due_s() + ahead_frames / self._frame_rate_hz
        return self._scheduler.ask(self, max(due_s, self._full_until_s), wake)

    def give_back(self, frames: int = 0) -> None:
        """See ``Turn``."""
        if frames and self.granted_s > self._asked_s:
            self._full_until_s = self._scheduler.clock() + frames / self._frame_rate_hz
        self._undecoded += frames > 0
        self._scheduler.release(self, frames)

    def decoded(self) -> None:
        """See ``Turn``."""
        self._undecoded -= 1
        self._scheduler.decoded()


def places(device: torch.device, threads: int | None) -> int:
    """Return how many films compute at once: one on a GPU, else as many as the cores carry.

    Args:
        device: where films are made.
        threads: CPU threads of a film; None for torch's own choice.
    """
    if device.type != "cpu":
        return 1
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, cores // (threads or torch.get_num_threads()))


def _wake(turns: Sequence[FilmTurn]) -> None:
    """Tell films that it is their turn; without the lock, because they ask at once."""
    for turn in turns:
        turn.wake()


def _nothing() -> None:
    """Wake nobody."""
