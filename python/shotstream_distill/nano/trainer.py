"""The loop of nano's stages: batches of a latent bank in layouts that processes choose alike."""

from __future__ import annotations

import random
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import torch

from ..common.timed_trainer import State, TimedTrainer, TrainingState
from ..world.bank import Batch, LatentBank, Layout


class RunRng:
    """Random choices of a run from its present step on.

    Args:
        seed: of the run.
        state: of the run; torch's generator is seeded too, so that a resumed run draws other
            numbers than those it drew before.

    Attributes:
        common: the same in all processes; for what decides how long a step takes.
        own: different in each process.
    """

    def __init__(self, seed: int, state: TrainingState) -> None:
        self.common = random.Random(f"{seed} {state.step}")
        self.own = random.Random(f"{seed} {state.step} {state.processes.rank}")
        torch.manual_seed(self.own.getrandbits(63))


class NanoTrainer(TimedTrainer[State]):
    """A stage's loop.

    Args:
        run: folder of checkpoints.
        bank: where sequences come from.
        state: weights and optimisers.
        seed: of layouts, batches and noise.
        checkpoint_s: seconds between checkpoints.
        computing_time: see ``TimedTrainer``.
    """

    CHECKPOINT: ClassVar[str]
    """File in the run's folder."""

    def __init__(
        self, run: Path, bank: LatentBank, state: State, *, seed: int, checkpoint_s: float,
        computing_time: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            run / self.CHECKPOINT, state, checkpoint_s=checkpoint_s, computing_time=computing_time
        )
        self._run = run
        self._bank = bank
        self._seed = seed
        self._rng = RunRng(seed, state)

    @abstractmethod
    def layout(self, progress: float) -> Layout:
        """Choose the shape of the next batch; every process must choose the same."""

    @abstractmethod
    def step(self, batch: Batch, progress: float) -> None:
        """Take one optimiser step on a batch.

        Args:
            batch: of the layout chosen.
            progress: share of the time that is spent, below 1.
        """

    def advance(self, progress: float) -> None:
        """Take one step on a fresh batch."""
        self.step(self._bank.sample(self.layout(progress), self._rng.own), progress)

    def reported(self) -> None:
        """Read shards that appeared meanwhile."""
        self._bank.refresh()

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint, with other random numbers than before."""
        super().resume(checkpoint)
        self._rng = RunRng(self._seed, self.state)
