"""The recalling stage: what is left out, what is right then, and that a run goes on."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shotstream_distill.nano.later_stages.omission_stage import (
    OmissionTrainer,
    wholly_told,
    with_less_said,
)
from shotstream_distill.nano.recipe import NANO_MODEL, OmissionConfig
from shotstream_distill.nano.state import NanoState
from shotstream_distill.world.bank import Batch, LatentBank, Layout
from shotstream_distill.world.caption_rewrites import token_ids, token_names
from shotstream_rt.errors import ConfigError

SMALL = dataclasses.replace(NANO_MODEL, dim=48, ffn_dim=96, num_heads=2, num_layers=3)
"""Nano's shape in every interface, at a small part of its cost."""
LATER = Layout(batch=3, context=6, group_frames=3, groups=1, later=True)
FIRST = "wide-shot red cat with blue hat and pink bird beach jumps"
WHOLE = "red cat with blue hat beach . close-up red cat dances"
ALL, NONE = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)


def _trainer(bank: LatentBank, folder: Path, **changes: object) -> OmissionTrainer:
    start = NanoState(SMALL, muon_rate=1e-3, adam_rate=1e-3, seed=0).averaged()
    start["head.head.weight"] = torch.randn_like(start["head.head.weight"]) * 0.1
    for name in start:  # captions matter, as they do to a trained student
        if "cross_attn.o.weight" in name or "cross_attn.v.weight" in name:
            start[name] = 10 * start[name]
    config = OmissionConfig(
        model=SMALL, layouts=(LATER,), warmup_steps=1, own_history=0.0, unsaid=1.0, muon_rate=1e-4,
        adam_rate=5e-5,
    )  # fmt: skip
    return OmissionTrainer(dataclasses.replace(config, **changes), folder, bank, start)


def _batch(bank: LatentBank) -> Batch:
    """Second shots of stories that are told alike; the last of them has lost its context."""
    batch = bank.sample(LATER, random.Random(4))
    tokens = torch.zeros_like(batch.tokens)
    tokens[:, 0], tokens[:, 1] = (token_ids(said.split(), 32) for said in (FIRST, WHOLE))
    index = torch.cat((torch.zeros(3, 6), torch.ones(3, 3)), 1).long()
    index[2], tokens[2, 0] = 0, tokens[2, 1]
    shared = torch.randn_like(batch.shared)
    shared[2] = 0
    return dataclasses.replace(
        batch, tokens=tokens, lengths=(tokens > 0).sum(-1), caption_index=index, shared=shared
    )


def _said(batch: Batch) -> list[str]:
    """What each sample's shot is told."""
    return [
        " ".join(token_names(tokens[index]))
        for tokens, index in zip(batch.tokens, batch.caption_index[:, -1], strict=True)
    ]


def test_only_what_the_context_shows_is_left_out(bank: LatentBank) -> None:
    batch = _batch(bank)
    some = torch.tensor([True, False, True])
    assert _said(with_less_said(batch, some, NONE)) == ["beach . close-up cat dances", WHOLE, WHOLE]
    assert _said(with_less_said(batch, some, ALL)) == ["close-up cat dances", WHOLE, WHOLE]
    less = with_less_said(batch, ALL, ALL)
    assert _said(wholly_told(less)) == [WHOLE] * 3
    assert torch.equal(less.tokens[:2, 0], batch.tokens[:2, 0])
    little = batch.tokens.clone()
    little[:2, 1] = token_ids(["close-up", "cat", "dances"], 32)
    again = with_less_said(dataclasses.replace(batch, tokens=little), NONE, NONE)
    assert _said(wholly_told(again))[:2] == ["close-up red cat with blue hat dances"] * 2
    assert _said(again)[:2] == ["close-up cat dances"] * 2
    assert torch.equal(wholly_told(less).caption_index[:, :6], batch.caption_index[:, :6])
    assert torch.equal(less.lengths, (less.tokens > 0).sum(-1))


def test_right_is_the_answer_to_the_whole_caption(bank: LatentBank, tmp_path: Path) -> None:
    trainer, batch = _trainer(bank, tmp_path), _batch(bank)
    less = with_less_said(batch, ALL, ALL)
    torch.manual_seed(1)
    states, levels, ends = trainer._targets(less, batch.shared)
    assert levels.tolist() == trainer._filming.levels[:-1]
    for told, same in ((batch, True), (less, False)):
        walker = trainer._filming.walker(trainer._teacher, told, batch.shared)
        for index, level in enumerate(levels.tolist()):
            answer = walker.clean(states[:, index], level)
            close = (answer - ends[:, index]).abs().amax((1, 2, 3, 4)) < 1e-3
            assert close.tolist() == ([True] * 3 if same else [False, False, True])


def test_the_student_learns_it_and_nothing_else(
    bank: LatentBank, tmp_path: Path, overfit: Callable[..., list[float]]
) -> None:
    trainer = _trainer(bank, tmp_path)
    losses = overfit(trainer, _batch(bank))
    assert losses[-1] < 0.8 * losses[0]
    assert _trainer(bank, tmp_path, unsaid=0.0).loss(_batch(bank)).item() < 0.1 * losses[0]


def test_settings_out_of_range_are_refused(bank: LatentBank, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unsaid: got 1\.5"):
        _trainer(bank, tmp_path, unsaid=1.5)
    few = dataclasses.replace(LATER, context=2)
    with pytest.raises(ConfigError, match="wanted all 6 context frames"):
        _trainer(bank, tmp_path, layouts=(few,))
