"""Teaches a few-step student to recall from its context what a caption leaves out.

Called by ``python -m shotstream_distill recall-nano``. Whoever directs a film says "the cat jumps"
once the cat was seen; the drawn world's stories name its coat every time, and a student of theirs
hardly looks for it in the context. Here it is told less, on its own films: the coats and clothes of
characters that its context shows are left out, and right is what the initial student answers to
the whole caption. Both see the same context, so that nothing else changes.

Source: context distillation (Askell et al. 2021), here of a context in pictures.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from shotstream_rt.errors import ConfigError

from ...common.processes import Processes
from ...common.sequence import Parameters
from ...world.bank import CONTEXT_FRAMES, Batch, LatentBank
from ...world.caption_rewrites import in_full, token_ids, token_names, unsaid
from ..recipe import OmissionConfig
from .self_taught import SelfTaughtTrainer

_SCENERY = 0.5
"""Share of the shorter captions that leave out place and time as well."""


def with_less_said(batch: Batch, shorter: Tensor, scenery: Tensor) -> Batch:
    """Leave out of captions what the context shows; the whole ones say all of it.

    Args:
        batch: whose last frames are of one shot.
        shorter: bool ``[B]``: of which samples.
        scenery: bool ``[B]``: where place and time are left out too.

    Returns:
        The batch with one more caption, the whole one, behind the others (``wholly_told``).
    """
    rows = torch.arange(len(batch.tokens))
    target = batch.caption_index[:, -1]
    tokens = torch.cat((batch.tokens, batch.tokens[rows, target][:, None]), 1)
    for row, index in enumerate(target.tolist()):
        if not batch.shared[row, : batch.context].any():
            continue  # a first shot, or a dropped context
        shown = batch.caption_index[row, : batch.context].unique()
        before = [token_names(batch.tokens[row, earlier]) for earlier in shown]
        whole = in_full(token_names(tokens[row, -1]), before)
        tokens[row, -1] = token_ids(whole, tokens.shape[2])
        if shorter[row]:
            less = unsaid(whole, before, scenery=bool(scenery[row]))
            tokens[row, index] = token_ids(less, tokens.shape[2])
    return replace(batch, tokens=tokens, lengths=(tokens > 0).sum(-1))


def wholly_told(batch: Batch) -> Batch:
    """Return a batch of ``with_less_said`` whose shots read the whole captions."""
    index = batch.caption_index.clone()
    index[:, batch.context :] = batch.tokens.shape[1] - 1
    return replace(batch, caption_index=index)


class OmissionTrainer(SelfTaughtTrainer):
    """The loop; arguments as those of ``SelfTaughtTrainer``.

    Args:
        config: the recipe.
        run: folder of checkpoints.
        bank: where contexts and captions come from.
        start: the student to begin with.
        processes: that average their gradients.
    """

    CHECKPOINT = "recalled.pt"
    config: OmissionConfig

    def __init__(
        self, config: OmissionConfig, run: Path, bank: LatentBank, start: Parameters,
        processes: Processes | None = None,
    ) -> None:  # fmt: skip
        super().__init__(config, run, bank, start, processes)
        if not 0 <= config.unsaid <= 1:
            raise ConfigError(f"unsaid: got {config.unsaid}, wanted a share of 0 to 1")
        if few := [x for x in config.layouts if x.context != CONTEXT_FRAMES]:
            raise ConfigError(f"layouts: got {few}, wanted all {CONTEXT_FRAMES} context frames")

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error of the answers to captions that say less."""
        size = len(batch.tokens)
        shorter = torch.rand(size) < self.config.unsaid
        return super().loss(with_less_said(batch, shorter, torch.rand(size) < _SCENERY))

    @torch.no_grad()
    def _targets(self, batch: Batch, shared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return states ``[B, levels, frames, ...]``, their levels and the fuller answers there."""
        levels = self._filming.levels[:-1]
        states = self._states(batch, shared)
        told = self._filming.walker(self._teacher, wholly_told(batch), shared)
        ends = [told.clean(x, level) for x, level in zip(states, levels, strict=True)]
        return torch.stack(states, 1), torch.tensor(levels), torch.stack(ends, 1)
