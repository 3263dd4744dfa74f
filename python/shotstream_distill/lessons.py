"""Lessons from twins: a state that shows the wrong thing, and the picture that was asked for.

Called by the reward stage. A few-step student whose first step leaves out a hat sees no hat in its
second, and goes on without: the plain loss never shows it such a state. Here the state is a noisy
twin of the shot (``world.twin``), the history may be the twin's as well, and right is the shot that
the caption tells of. Pose and place agree, so there is nothing to be vague about.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from shotstream_rt.model.nano_vocabulary import ACCESSORIES, PLACES, SPECIES, TIMES, TOKEN_IDS

from .bank import Batch
from .fact_reader import BOTH

_DIFFERENT = 0.6
"""A cell whose latents differ by this root mean square is fully another's."""
_TRUE_STATE, _TRUE_HISTORY, _TRUE_CONTEXT = 0.15, 0.5, 0.75
"""Shares of samples that keep what is true."""
_TIME_COLUMN = 12


def _count(batch: Batch, names: tuple[str, ...]) -> Tensor:
    """How many of a sample's caption tokens are one of ``names``, ``[B]``."""
    return torch.isin(batch.caption(), torch.tensor([TOKEN_IDS[n] for n in names])).sum(1)


def _worn(batch: Batch) -> Tensor:
    """How many accessories a sample's cast wears, ``[B]``."""
    who = batch.facts[:, :1]
    return ((batch.facts[:, 8:10] > 0) & ((who == BOTH) | (who == torch.arange(2)))).sum(1)


def mentioned(batch: Batch) -> Tensor:
    """Return whether a sample's caption names all that its cast wears, bool ``[B]``.

    Free captions leave some of it out: nobody can know then.
    """
    return _count(batch, ACCESSORIES) >= _worn(batch)


def told(batch: Batch) -> Tensor:
    """Return whose caption names all that a twin may have changed, bool ``[B]``.

    Kinds and coats are always named. No accessory means none in the story's form, which names its
    characters twice; no word for the time beside a place means by day.
    """
    cast = torch.where(batch.facts[:, 0] == BOTH, 2, 1)
    dressed = (_worn(batch) > 0) | (_count(batch, SPECIES) > cast)
    timed = (batch.facts[:, _TIME_COLUMN] == len(TIMES)) | (_count(batch, PLACES) > 0)
    return mentioned(batch) & dressed & timed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """What one batch of twins teaches.

    Attributes:
        shared: context and history, some of it the twin's; as ``Batch.shared``.
        noisy: states at ``times``, most of them the twin's; as ``Batch.target``.
        times: noise levels ``[B, frames]``.
        wrong: how much of each cell the twin has otherwise, ``[B, frames, 1, h, w]`` in [0, 1]; 0
            where nothing of a sample is the twin's.
    """

    shared: Tensor
    noisy: Tensor
    times: Tensor
    wrong: Tensor


def make_lesson(batch: Batch, levels: list[float], rng: random.Random) -> Lesson:
    """Draw states, histories and levels; the first level shows nothing and is left out.

    Raises:
        ValueError: the bank has no twins.
    """
    if batch.twin is None or batch.twin_shared is None:
        raise ValueError("lessons: a shard of the bank has no twins; make-bank --twins draws them")
    size = len(batch.target)
    teaches = told(batch)

    def some(true_share: float) -> Tensor:
        chosen = torch.tensor([rng.random() >= true_share for _ in range(size)])
        return (chosen & teaches)[:, None, None, None, None]

    twin_state, twin_history = some(_TRUE_STATE), some(_TRUE_HISTORY)
    state = torch.where(twin_state, batch.twin, batch.target)
    history = torch.where(twin_history, batch.twin_shared, batch.shared)
    context = torch.where(some(_TRUE_CONTEXT), batch.twin_shared, batch.shared)
    index = torch.tensor(
        [[rng.randrange(1, len(levels)) for _ in range(batch.groups)] for _ in range(size)]
    )
    times = torch.tensor(levels)[index].repeat_interleave(batch.group_frames, 1)
    sigma = times[:, :, None, None, None]
    off = (batch.twin - batch.target).square().mean(2, keepdim=True).sqrt()
    return Lesson(
        shared=torch.cat((context[:, : batch.context], history[:, batch.context :]), 1),
        noisy=(1 - sigma) * state + sigma * torch.randn_like(state),
        times=times,
        wrong=(off / _DIFFERENT).clamp(max=1) * (twin_state | twin_history),
    )


def without_words(batch: Batch, words: int) -> Batch:
    """Drop tokens from ``words`` on, as a session drops what a model's vocabulary lacks."""
    known = batch.tokens < words
    order = (~known).int().argsort(stable=True)
    tokens = (batch.tokens * known).gather(-1, order)
    return dataclasses.replace(batch, tokens=tokens, lengths=(tokens > 0).sum(-1))


def share_of_mean(error: Tensor, weight: Tensor) -> Tensor:
    """Mean of ``error [B, T, C, h, w]`` under ``weight [B, T, 1, h, w]``, then over samples.

    Every sample counts the same, be it a scarf or a night; one without weight counts 0.
    """
    per_sample = (error.mean(2, keepdim=True) * weight).flatten(1).sum(1)
    mean: Tensor = (per_sample / weight.flatten(1).sum(1).clamp(min=1)).mean()
    return mean
