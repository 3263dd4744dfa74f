"""The training loop of nano, its codec and the detectors.

A training goes on until its time is spent. One with a checkpoint may be killed at any moment and
goes on from there. A subclass says what a step is.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from .processes import Processes

_log = logging.getLogger("shotstream_distill.common.timed_trainer")
_REPORT_S = 30.0


class TrainingState(Protocol):
    """Weights and optimisers of a run.

    Attributes:
        processes: that train together.
        step: steps taken.
        elapsed_s: time that they took.
    """

    processes: Processes
    step: int
    elapsed_s: float

    def save(self, path: Path) -> None:
        """Write everything needed to go on, replacing the file; the leading process does."""

    def load(self, path: Path) -> None:
        """Go on from a file of ``save``."""


State = TypeVar("State", bound=TrainingState)


class TimedTrainer(ABC, Generic[State]):
    """A training with a time to spend.

    Args:
        checkpoint: file that the training goes on from, if it is there; ``None`` keeps nothing.
        state: weights and optimisers.
        checkpoint_s: seconds between checkpoints.
        computing_time: whether time is this process's own on the CPU instead of the wall's, so
            that runs which are to be compared get the same on a busy machine.
    """

    def __init__(
        self, checkpoint: Path | None, state: State, *, checkpoint_s: float = 120.0,
        computing_time: bool = False,
    ) -> None:  # fmt: skip
        self.state = state
        self._checkpoint = checkpoint
        self._checkpoint_s = checkpoint_s
        self._clock = time.process_time if computing_time else time.monotonic
        self._figures: dict[str, list[float]] = {}

    @abstractmethod
    def advance(self, progress: float) -> None:
        """Take one step; ``progress`` is the share of the time that is spent, below 1."""

    def prepare(self) -> None:
        """Get ready, after a resume and before the time runs."""

    def reported(self) -> None:
        """Follow a report, twice a minute."""

    def save(self, elapsed_s: float) -> None:
        """Write the checkpoint."""
        self.state.elapsed_s = elapsed_s
        if self._checkpoint is not None:
            self.state.save(self._checkpoint)

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint."""
        self.state.load(checkpoint)

    def train(self, duration_s: float) -> None:
        """Train until ``duration_s`` is spent; time before a resume counts."""
        state, clock = self.state, self._clock
        if self._checkpoint is not None and self._checkpoint.is_file():
            self.resume(self._checkpoint)
            _log.info("resumed at step %d, %.0f s", state.step, state.elapsed_s)
        self.prepare()
        begun = clock() - state.elapsed_s
        saved = logged = clock()
        logged_step = state.step
        while (progress := state.processes.told((clock() - begun) / duration_s)) < 1:
            self.advance(progress)
            now = clock()
            if now - logged > _REPORT_S:
                each = (now - logged) / (state.step - logged_step)
                self._report(each, now - begun, duration_s)
                logged, logged_step = now, state.step
                self.reported()
            if now - saved > self._checkpoint_s:
                saved = now
                self.save(now - begun)
        self.save(duration_s)

    def note(self, figures: Mapping[str, Tensor | float]) -> None:
        """Keep a step's figures for the next report."""
        for name, value in figures.items():
            number = value.item() if isinstance(value, Tensor) else value
            self._figures.setdefault(name, []).append(number)

    def _report(self, step_s: float, elapsed_s: float, duration_s: float) -> None:
        """Log the means of the figures noted since the last report."""
        means = " ".join(f"{k} {sum(v) / len(v):.4f}" for k, v in sorted(self._figures.items()))
        _log.info(
            "step %d, %.0f s, %.2f s/step, eta %.0f s: %s", self.state.step, elapsed_s, step_s,
            duration_s - elapsed_s, means,
        )  # fmt: skip
        self._figures = {}
