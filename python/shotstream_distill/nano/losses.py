"""Losses on latents that nano's trainings share, and the noise that history is roughened with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..world.bank import Batch

_LEAST_CELLS = 4.0


def expand(value: Tensor) -> Tensor:
    """``[B, F]`` to ``[B, F, 1, 1, 1]``."""
    return value[..., None, None, None]


def auxiliary_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of species and coat colour per latent cell, subjects weighted up."""
    area, coat = batch.maps[:, :, :, 0], batch.maps[:, :, :, 1]
    size, frames = area.shape[:2]
    species = torch.zeros(size, frames, 5, *area.shape[-2:])
    color = torch.zeros(size, frames, 8, *area.shape[-2:])
    for who in (0, 1):
        for target, maps, label in (
            (species, area[:, :, who], batch.labels[:, who] + 1),
            (color, coat[:, :, who], batch.labels[:, 2 + who]),
        ):
            index = label.view(-1, 1, 1, 1, 1).expand(size, frames, 1, *area.shape[-2:])
            target.scatter_add_(2, index, maps[:, :, None])
    covered = species[:, :, 1:].sum(2).clamp(max=1)
    species[:, :, 0] = 1 - covered
    species = species / species.sum(2, keepdim=True).clamp(min=1e-3)
    logits = logits.float()
    weight = 1 + 4 * covered
    by_species = (species * logits[:, :, :5].log_softmax(2)).sum(2) * weight
    by_color = (color * logits[:, :, 5:].log_softmax(2)).sum(2)
    return -by_species.mean() - 3 * by_color.mean()


def subject_weights(batch: Batch, amount: float) -> Tensor:
    """Return loss weights ``[B, frames, 1, h, w]`` with mean 1, larger on characters."""
    weight = 1 + amount * batch.maps[:, :, :, 0].amax(2).unsqueeze(2)
    return weight / weight.mean()


def coarse_error(difference: Tensor, area: Tensor | None = None, cell: int = 4) -> Tensor:
    """Mean squared error of what is left of ``[B, frames, C, h, w]`` after pooling.

    What only the context tells (a scene's tint, its light, where its trees stand, the shade of a
    coat) is coarse, and in the plain mean it drowns in the detail. The minimum is the plain mean's.

    Args:
        difference: prediction minus target.
        area: ``[B, frames, characters, h, w]`` in [0, 1], where each character is, if known.
        cell: edge of the pooled cells, in latent cells.

    Returns:
        The squared means of cells, of whole frames and of whole characters, each weighted by a
        cell's size (frames and characters by its square).
    """
    flat = difference.float().flatten(0, 1)
    cells = F.avg_pool2d(flat, cell, ceil_mode=True, count_include_pad=False)
    frames = flat.mean((2, 3))
    if area is None:
        area = difference.new_zeros(*difference.shape[:2], 1, *difference.shape[-2:])
    size = area.sum((-1, -2))
    sums = torch.einsum("bfchw,bfkhw->bfkc", difference.float(), area)
    means = sums / size.clamp(min=1)[..., None]
    # The mean over a few cells is mostly noise.
    seen = (size > _LEAST_CELLS).float()
    characters = (means.square().mean(-1) * seen).sum() / seen.sum().clamp(min=1)
    return cell * cells.square().mean() + cell * cell * (frames.square().mean() + characters)


def motion_error(difference: Tensor, weight: Tensor, group_frames: int) -> Tensor:
    """Mean squared error of what changes between neighbouring frames of a group.

    A walk moves by less than half a latent cell a frame. Beside the error of a whole frame that is
    little, and a network can leave it out: its characters stand still within a chunk, and the next
    chunk, which knows where they should be by then, begins with a jump. The minimum is the plain
    mean's.

    Args:
        difference: prediction minus target, ``[B, groups * group_frames, C, h, w]``.
        weight: of its elements; broadcasts to it.
        group_frames: frames of a group; the error of one alone is 0.
    """
    if group_frames == 1:
        return difference.new_zeros(())
    grouped = difference.unflatten(1, (-1, group_frames))
    weights = weight.expand_as(difference).unflatten(1, (-1, group_frames))
    change = grouped[:, :, 1:] - grouped[:, :, :-1]
    error: Tensor = change.square() * (weights[:, :, 1:] + weights[:, :, :-1]) / 2
    return error.mean()


def roughen(batch: Batch, amount: float) -> Tensor:
    """Add unlabelled noise to half of the shared frames, as generated history will have."""
    shape = batch.shared.shape[:2]
    level = torch.rand(shape) * amount * (torch.rand(shape[0], 1) < 0.5)
    return (1 - expand(level)) * batch.shared + expand(level) * torch.randn_like(batch.shared)
