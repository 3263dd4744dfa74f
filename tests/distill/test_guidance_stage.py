"""The guided stage: what is taught, and that it is learned."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shotstream_distill.common.product import load_product
from shotstream_distill.nano.later_stages.guidance_stage import GuidanceTrainer
from shotstream_distill.nano.later_stages.self_taught import fine
from shotstream_distill.nano.recipe import NANO_MODEL, GuidanceConfig
from shotstream_distill.nano.state import NanoState
from shotstream_distill.world.bank import LatentBank, Layout
from shotstream_distill.world.caption_rewrites import one_sentence, retold
from shotstream_rt.errors import ConfigError

SMALL = dataclasses.replace(NANO_MODEL, dim=48, ffn_dim=96, num_heads=2, num_layers=3)
"""Nano's shape in every interface, at a small part of its cost."""
ONE = Layout(batch=2, context=6, group_frames=3, groups=1)


def _trainer(bank: LatentBank, folder: Path, **changes: object) -> GuidanceTrainer:
    state = NanoState(SMALL, muon_rate=1e-3, adam_rate=1e-3, seed=0)
    start = state.averaged()
    start["head.head.weight"] = torch.randn_like(start["head.head.weight"]) * 0.02
    config = GuidanceConfig(model=SMALL, layouts=(ONE,), warmup_steps=1, own_history=0.0)
    return GuidanceTrainer(dataclasses.replace(config, **changes), folder, bank, start)


def test_fine_structure_has_no_mean() -> None:
    flat = torch.randn(1, 2, 3, 1, 1).expand(-1, -1, -1, 12, 20)
    dot = torch.zeros(1, 2, 3, 12, 20)
    dot[..., 6, 7] = 1.0
    assert fine(flat).abs().amax() < 1e-6
    assert fine(flat + dot)[0, 0, 0, 6, 7].item() == pytest.approx(24 / 25, abs=1e-5)
    assert fine(flat + dot)[0, 0, 0, 6, 8].item() == pytest.approx(-1 / 25, abs=1e-5)


NOTHING = (0.0,) * 4


def test_without_guidance_there_is_nothing_to_learn(bank: LatentBank, tmp_path: Path) -> None:
    batch = bank.sample(ONE, random.Random(6))
    plain = _trainer(bank, tmp_path, level_guidance=NOTHING, level_wording=NOTHING)
    assert plain.loss(batch).item() < 1e-3
    for change in ({"level_guidance": NOTHING}, {"level_wording": NOTHING}):
        assert _trainer(bank, tmp_path, **change).loss(batch).item() > plain.loss(batch).item()


@pytest.mark.parametrize("name", ["level_guidance", "level_wording"])
def test_right_is_the_guided_answer_of_the_student_begun_with(
    bank: LatentBank, tmp_path: Path, name: str
) -> None:
    batch = bank.sample(ONE, random.Random(6))
    by_weight = []
    for weight in (0.0, 1.0, 2.0):
        weights = {"level_guidance": NOTHING, "level_wording": NOTHING}
        weights[name] = (0.0, 0.0, weight, weight)
        trainer = _trainer(bank, tmp_path, **weights)
        torch.manual_seed(1)
        by_weight.append(trainer._targets(batch, batch.shared))
    states, levels, ends = zip(*by_weight, strict=True)
    assert torch.equal(states[0], states[2])
    assert levels[0].tolist() == trainer._filming.levels[:-1]
    # Early levels are left as they are; late ones go on in one direction.
    assert torch.equal(ends[0][:, :2], ends[2][:, :2])
    step = ends[1] - ends[0]
    assert step[:, 2:].abs().amax() > 0
    torch.testing.assert_close(ends[2] - ends[1], step, atol=1e-5, rtol=1e-3)


def test_wording_goes_towards_the_answer_to_one_sentence(bank: LatentBank, tmp_path: Path) -> None:
    batch = bank.sample(ONE, random.Random(6))
    tokens = retold(batch.tokens, one_sentence)
    said = dataclasses.replace(batch, tokens=tokens, lengths=(tokens > 0).sum(-1))
    weights = {"level_guidance": NOTHING, "level_wording": (1.0, 0.0, 0.0, 0.0)}
    trainer = _trainer(bank, tmp_path, **weights)
    torch.manual_seed(1)
    got = trainer._targets(batch, batch.shared)[2][:, 0]
    torch.manual_seed(1)
    noise = torch.randn_like(batch.target)
    story, sentence = (
        trainer._filming.walker(trainer._teacher, one, batch.shared).clean(noise, 1.0)
        for one in (batch, said)
    )
    torch.testing.assert_close(got, story + fine(sentence - story))


def test_the_student_learns_it(
    bank: LatentBank, tmp_path: Path, overfit: Callable[..., list[float]]
) -> None:
    trainer = _trainer(bank, tmp_path, level_guidance=(3.0,) * 4, level_wording=NOTHING)
    losses = overfit(trainer, bank.sample(ONE, random.Random(6)))
    assert losses[-1] < 0.8 * losses[0]


def test_what_ships_lies_on_the_way(bank: LatentBank, tmp_path: Path) -> None:
    trainer = _trainer(bank, tmp_path, way=0.25)
    begun = {name: value.clone() for name, value in trainer.state.averaged().items()}
    for value in trainer.state.average:
        value += 1.0
    trainer.write_product(tmp_path / "student.pt")
    for name, value in load_product(tmp_path / "student.pt").items():
        torch.testing.assert_close(value, begun[name] + 0.25)


@pytest.mark.parametrize("name", ["level_guidance", "level_wording"])
def test_weights_are_one_for_each_level(bank: LatentBank, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}.*each of 4"):
        _trainer(bank, tmp_path, **{name: (1.0, 1.0)})
