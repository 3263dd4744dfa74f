"""Muon for many small matrices at once, and AdamW for the rest.

Called by the trainers. Matrices of one shape are orthogonalised in one batched product, which is
what makes the optimiser affordable for models of a few million parameters on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .working_dtype import working_dtype

# Quintic Newton-Schulz coefficients. Source: Jordan et al., "Muon" (2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of a batch of matrices toward one.

    Args:
        matrices: ``[M, rows, columns]`` float.
        steps: Newton-Schulz iterations.

    Returns:
        The same shape in ``working_dtype``, whose precision is more than enough.
    """
    x = matrices.to(working_dtype())
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.flatten(1).norm(dim=1).view(-1, 1, 1) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + torch.baddbmm(_B * gram, gram, gram, beta=1, alpha=_C) @ x
    out: Tensor = x.mT if tall else x
    return out


class Muon:
    """Momentum, then orthogonalised update, scaled to the root mean square of AdamW's.

    Args:
        parameters: matrices ``[rows, columns]``, changed in place.
        learning_rate: of a step at scale 1.
        momentum: share of the velocity that stays.
        weight_decay: of a step, in learning rates.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        *,
        learning_rate: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        self.learning_rate = learning_rate
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._groups: list[tuple[list[Tensor], Tensor]] = []
        by_shape: dict[tuple[int, ...], list[Tensor]] = {}
        for parameter in parameters:
            by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
        for shape, members in by_shape.items():
            self._groups.append((members, torch.zeros(len(members), *shape)))

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """Update every parameter from its ``.grad``; ``scale`` multiplies the learning rate."""
        rate = self.learning_rate * scale
        for members, velocity in self._groups:
            gradient = torch.stack([m.grad for m in members if m.grad is not None])
            velocity.mul_(self._momentum).add_(gradient)
            update = orthogonalise(gradient + self._momentum * velocity).float()
            factor = 0.2 * max(velocity.shape[1:]) ** 0.5
            torch._foreach_mul_(members, 1 - rate * self._weight_decay)
            torch._foreach_add_(members, list(update.unbind(0)), alpha=-rate * factor)

    def state(self) -> list[Tensor]:
        """Return the velocities, to be stored."""
        return [velocity for _, velocity in self._groups]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Take over velocities stored by ``state``."""
        for (_, velocity), saved in zip(self._groups, state, strict=True):
            velocity.copy_(saved)
