"""The batched Muon optimiser."""

from __future__ import annotations

import pytest
import torch

from shotstream_distill.common.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 20), (2, 20, 6)])
def test_singular_values_come_near_one(shape: tuple[int, int, int], seeded: int) -> None:
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)).float())
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_batching_changes_nothing(seeded: int) -> None:
    matrices = torch.randn(3, 8, 12)
    together = orthogonalise(matrices)
    for matrix, out in zip(matrices, together, strict=True):
        torch.testing.assert_close(orthogonalise(matrix[None])[0], out, rtol=0.05, atol=0.02)


def test_it_minimises_and_resumes(seeded: int) -> None:
    wanted = torch.randn(8, 8)
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    muon = Muon([weight], learning_rate=0.1, weight_decay=0.0)

    def step() -> float:
        weight.grad = None
        loss = (weight - wanted).square().mean()
        loss.backward()
        muon.step()
        return loss.item()

    losses = [step() for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]
    stored, at = [v.clone() for v in muon.state()], weight.detach().clone()
    step()
    after = weight.detach().clone()
    with torch.no_grad():
        weight.copy_(at)
    muon.restore(stored)
    step()
    torch.testing.assert_close(weight.detach(), after)
