"""Random numbers of a training step, as functions of its number.

Every number is a function of (seed, stage, step, part, rank), so a run that was killed goes on with
the numbers it would have had, and what all processes must agree on needs no message.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor


class StepRng:
    """The random numbers of one step on one process.

    Args:
        seed: of the run.
        stage: name of the stage.
        step: number of the step.
        rank: number of the process.
        part: micro-batch of the step.
        device: where tensors go.

    Attributes:
        shared: the same on every process.
        own: different on every process.
    """

    def __init__(
        self,
        seed: int,
        stage: str,
        step: int,
        *,
        rank: int = 0,
        part: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        address = f"{seed}/{stage}/{step}/{part}"
        self.shared = random.Random(address)
        self.own = random.Random(f"{address}/{rank}")
        self.device = torch.device(device)
        self._generator = torch.Generator().manual_seed(self.own.getrandbits(63))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 numbers, made on the host."""
        if self.device.type == "meta":
            return torch.empty(shape, device="meta")
        return torch.randn(shape, generator=self._generator).to(self.device)

    def normal_like(self, x: Tensor) -> Tensor:
        """Standard normal float32 numbers in the shape of ``x``."""
        return self.normal(*x.shape)

    def hits(self, count: int, chance: float) -> list[bool]:
        """``count`` independent yes or no answers."""
        return [self.own.random() < chance for _ in range(count)]

    def indices(self, count: int, below: int) -> Tensor:
        """``count`` integers in [0, below), on the host."""
        return torch.tensor([self.own.randrange(below) for _ in range(count)])

    def choice(self, population: Sequence[int]) -> int:
        """One element, the same on every process."""
        return self.shared.choice(population)
