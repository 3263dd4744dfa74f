"""The choosing stage: what is tried, what is chosen, and that a run goes on."""

from __future__ import annotations

import dataclasses
import random
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream_distill.nano.later_stages import best_of_stage as choice
from shotstream_distill.nano.later_stages.best_of_stage import BestOfTrainer
from shotstream_distill.nano.later_stages.fact_reader import (
    FactReader,
    answers,
    asked,
    log_likelihood,
    losses,
)
from shotstream_distill.nano.recipe import NANO_MODEL, BestOfConfig
from shotstream_distill.nano.state import NanoState
from shotstream_distill.world.bank import LatentBank, Layout
from shotstream_rt.errors import ConfigError

SMALL = dataclasses.replace(NANO_MODEL, dim=48, ffn_dim=96, num_heads=2, num_layers=3)
"""Nano's shape in every interface, at a small part of its cost."""
TWO = Layout(batch=2, context=6, group_frames=3, groups=2)
PUSHES = ((0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, 3.0, 0.0), (0.0, 0.0, 2.0))


def _trainer(bank: LatentBank, folder: Path, **changes: object) -> BestOfTrainer:
    state = NanoState(SMALL, muon_rate=1e-3, adam_rate=1e-3, seed=0)
    start = state.averaged()
    start["head.head.weight"] = torch.randn_like(start["head.head.weight"]) * 0.02
    config = BestOfConfig(
        model=SMALL, layouts=(TWO,), warmup_steps=1, own_history=0.0, pushes=PUSHES
    )
    torch.manual_seed(0)
    reader = FactReader()
    return BestOfTrainer(dataclasses.replace(config, **changes), folder, bank, start, reader)


def _ends(trainer: BestOfTrainer, bank: LatentBank) -> Tensor:
    """Return the right answers of one batch, in the same noise whatever is chosen."""
    batch = bank.sample(TWO, random.Random(6))
    torch.manual_seed(1)
    # Frames stand behind the levels: [B, levels, frames, C, h, w].
    return trainer._targets(batch, batch.shared)[2]


def test_the_answer_that_shows_most_is_right_in_every_chunk(
    bank: LatentBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = _ends(_trainer(bank, tmp_path, pushes=PUSHES[:1]), bank)
    clothes, said, coats = (_ends(_trainer(bank, tmp_path, pushes=(push,) * 2 + PUSHES[:1],
        distance_weight=-1e6), bank) for push in PUSHES[1:])  # fmt: skip
    # Farthest from the plain answer: each push alone, known by name.
    for one, other in combinations((plain, clothes, said, coats), 2):
        assert not torch.equal(one[:, 2:], other[:, 2:])
    preferred = torch.tensor([[0, 1], [2, 3]])  # by sample and chunk

    def found(reading: object, wanted: object) -> Tensor:
        likes = torch.zeros(len(PUSHES), 2, 2)
        likes.scatter_(0, preferred[None], 1.0)
        return likes.repeat_interleave(3, 2).flatten()

    monkeypatch.setattr(choice, "log_likelihood", found)
    made = _ends(_trainer(bank, tmp_path, distance_weight=0.0), bank)
    torch.testing.assert_close(made[:, :2], plain[:, :2])
    for sample, chunk, right in ((0, 0, plain), (0, 1, clothes), (1, 0, said), (1, 1, coats)):
        frames = slice(3 * chunk, 3 * chunk + 3)
        torch.testing.assert_close(made[sample, 2:, frames], right[sample, 2:, frames])


def test_distance_from_the_plain_answer_costs(bank: LatentBank, tmp_path: Path) -> None:
    near = _ends(_trainer(bank, tmp_path, distance_weight=1e6), bank)
    plain = _ends(_trainer(bank, tmp_path, pushes=PUSHES[:1]), bank)
    assert torch.equal(near, plain)


def test_without_pushes_there_is_nothing_to_learn(bank: LatentBank, tmp_path: Path) -> None:
    batch = bank.sample(TWO, random.Random(6))
    plain = _trainer(bank, tmp_path, pushes=PUSHES[:1]).loss(batch).item()
    far = _trainer(bank, tmp_path, distance_weight=-1e6).loss(batch).item()
    assert plain < 1e-3
    assert far > plain


def test_likelihood_is_of_who_is_there_and_what_they_wear(bank: LatentBank) -> None:
    batch = bank.sample(TWO, random.Random(6))
    torch.manual_seed(0)
    wanted = asked(batch.facts[:1], None, 1).flat()
    with torch.no_grad():
        reading = FactReader()(
            batch.target[:1, 0], torch.tensor([0.2]), torch.tensor([True]), wanted.species,
            wanted.color,
        )  # fmt: skip
    missed = losses(reading, wanted)
    facts = answers(reading, wanted)
    looks = {name: (facts[name][1] >= 0).sum() for name in facts if facts[name][1].dim() == 2}
    assert set(looks) == {"coat", "kind", "accessory", "worn_color"}
    judged = {"present": (wanted.present >= 0).sum(), **looks}
    total = -sum(missed[name] * count for name, count in judged.items())
    likely = log_likelihood(reading, wanted)
    torch.testing.assert_close(likely, total[None])
    assert likely.item() < 0
    # Rows that are asked for the same again answer alike.
    twice = wanted.repeated(2)
    assert twice.species.shape == (2, *wanted.species.shape[1:])
    assert torch.equal(twice.present[0], twice.present[1])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"first_level": 4}, "first_level: got 4.*0 to 3"),
        ({"pushes": ((1.0, 0.0, 0.0),)}, "pushes"),
    ],
)
def test_a_recipe_that_cannot_be(
    bank: LatentBank, tmp_path: Path, change: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        _trainer(bank, tmp_path, **change)
