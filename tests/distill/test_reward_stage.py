"""The reward stage: what is asked, what is judged, and that a student learns from it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import torch

from shotstream_distill.common.product import load_product
from shotstream_distill.nano.later_stages.discriminator import Discriminator
from shotstream_distill.nano.later_stages.fact_reader import (
    FactReader,
    Reading,
    answers,
    asked,
    losses,
    noised,
)
from shotstream_distill.nano.later_stages.reward_stage import (
    RewardTrainer,
    mentioned,
    seen_through,
    windows,
)
from shotstream_distill.nano.later_stages.train_reader import varied
from shotstream_distill.nano.recipe import NANO_MODEL, RewardConfig
from shotstream_distill.nano.state import NanoState
from shotstream_distill.world.bank import LatentBank, Layout
from shotstream_rt.model.nano.vocabulary import TOKEN_IDS

SMALL = dataclasses.replace(NANO_MODEL, dim=48, ffn_dim=96, num_heads=2, num_layers=3)
"""Nano's shape in every interface, at a small part of its cost."""
ONE = Layout(batch=2, context=6, group_frames=3, groups=1)
TWO = Layout(batch=1, context=6, group_frames=3, groups=2, chunks=2)


def _label(who: int) -> torch.Tensor:
    # Who, framing, action, place; species, colours, worn, their colours; time, shot, shots.
    return torch.tensor([[who, 2, 0, 4, 3, 1, 6, 0, 1, 0, 5, 8, 2, 0, 3]])


def _start() -> dict[str, torch.Tensor]:
    state = NanoState(SMALL, muon_rate=1e-3, adam_rate=1e-3, seed=0)
    start = state.averaged()
    start["head.head.weight"] = torch.randn_like(start["head.head.weight"]) * 0.02
    return start


def test_both_characters_are_asked_about() -> None:
    wanted = asked(_label(0), None, 2)
    assert wanted.species[0, 1].tolist() == [3, 1]
    assert wanted.color[0, 1].tolist() == [6, 0]
    assert wanted.present[0, 0].tolist() == [1, 0]
    assert wanted.accessory[0, 0].tolist() == [1, -100]
    assert wanted.worn_color[0, 0].tolist() == [5, -100]
    assert (wanted.framing[0, 0], wanted.place[0, 0], wanted.time[0, 0]) == (2, 4, 2)
    both = asked(_label(2), None, 1)
    assert both.present[0, 0].tolist() == [1, 1]
    assert both.accessory[0, 0].tolist() == [1, 0]
    assert both.worn_color[0, 0].tolist() == [5, -100]


def test_what_is_out_of_the_picture_is_not_judged() -> None:
    maps = torch.zeros(1, 3, 2, 3, 12, 20)
    maps[0, 1:, 0, 0, 3:8, 3:8] = 1.0
    maps[0, 2, 0, 2, 3, 3:8] = 1.0
    wanted = asked(_label(0), maps, 3)
    assert wanted.present[0, :, 0].tolist() == [-1, 1, 1]
    assert wanted.accessory[0, :, 0].tolist() == [-100, -100, 1]
    assert wanted.worn_color[0, :, 0].tolist() == [-100, -100, 5]
    assert wanted.present[0, :, 1].tolist() == [0, 0, 0]


def test_what_no_caption_mentions_is_not_judged(bank: LatentBank) -> None:
    silent = asked(_label(2), None, 1, torch.tensor([False]))
    assert set(silent.accessory.flatten().tolist()) == {-100}
    assert set(silent.worn_color.flatten().tolist()) == {-100}
    assert silent.present[0, 0].tolist() == [1, 1]
    batch = bank.sample(ONE, random.Random(0))
    hat, scarf = TOKEN_IDS["hat"], TOKEN_IDS["scarf"]
    facts = torch.cat((_label(0), _label(2)))
    facts[1, 9] = 2
    for tokens, wanted in (
        ([hat, 0], [True, False]),
        ([hat, scarf], [True, True]),
        ([0, 0], [False, False]),
    ):
        caption = torch.zeros_like(batch.tokens)
        caption[:, :, :2] = torch.tensor(tokens)
        told = dataclasses.replace(batch, facts=facts, tokens=caption)
        assert mentioned(told).tolist() == wanted


def test_right_answers_cost_less() -> None:
    torch.manual_seed(0)
    wanted = asked(_label(2), None, 1).flat()
    reader = FactReader()
    blank = reader(
        torch.randn(1, 16, 12, 20), torch.tensor([0.1]), torch.tensor([True]), wanted.species,
        wanted.color,
    )  # fmt: skip
    told = {"present": 9 * (2 * wanted.present - 1)}
    for name, (logits, true) in answers(blank, wanted).items():
        flat = torch.zeros_like(logits)
        told[name] = flat.scatter(-1, true.clamp(min=0)[..., None], 9.0)
    right = losses(dataclasses.replace(blank, **told), wanted)
    wrong = losses(blank, wanted)
    assert right.keys() == {"present", *answers(blank, wanted)}
    assert all(right[name] < 0.01 < wrong[name] for name in wrong)


def test_who_is_seen_is_asked_about_in_every_coat_and_as_every_species(seeded: int) -> None:
    reader = FactReader().eval()
    x, level = torch.randn(1, 16, 12, 20), torch.tensor([0.1])

    def read(species: list[int], color: list[int]) -> Reading:
        made: Reading = reader(
            x, level, torch.tensor([True]), torch.tensor([species]), torch.tensor([color])
        )
        return made

    made = read([3, 1], [6, 0])
    assert made.coat.shape == (1, 2, 8)
    assert made.kind.shape == (1, 2, 4)
    for who, (species, color) in enumerate(((3, 6), (1, 0))):
        assert made.coat[0, who, color] == made.kind[0, who, species] == made.present[0, who]
    # The same question asked outright.
    torch.testing.assert_close(read([3, 1], [2, 5]).present[0, 0], made.coat[0, 0, 2])
    torch.testing.assert_close(read([2, 0], [6, 0]).present[0], made.kind[0, (0, 1), (2, 0)])


def test_of_who_is_not_there_neither_coat_nor_kind_is_asked() -> None:
    wanted = asked(_label(0), None, 1).flat()
    blank = FactReader()(
        torch.randn(1, 16, 12, 20), torch.tensor([0.1]), torch.tensor([True]), wanted.species,
        wanted.color,
    )  # fmt: skip
    facts = answers(blank, wanted)
    assert facts["coat"][1].tolist() == [[6, -100]]
    assert facts["kind"][1].tolist() == [[3, -100]]


def test_noise_hides_everything_at_level_one(seeded: int) -> None:
    x = torch.randn(2, 16, 12, 20)
    made = noised(x, torch.tensor([0.0, 1.0]))
    assert torch.equal(made[0], x[0])
    assert abs(torch.corrcoef(torch.stack((made[1].flatten(), x[1].flatten())))[0, 1]) < 0.1


def test_a_window_begins_with_the_frame_before(bank: LatentBank) -> None:
    batch = bank.sample(TWO, random.Random(2))
    made = windows(batch, batch.shared, batch.target)
    assert made.shape == (2, 4, 16, 12, 20)
    for index, seen in enumerate(batch.visible):
        group = batch.target[0, 3 * index : 3 * index + 3]
        before = batch.shared[0, seen - 1] if seen > batch.context else group[0]
        assert torch.equal(made[index], torch.cat((before[None], group)))
    logits = Discriminator()(made, torch.tensor([0.1, 0.4]))
    assert logits.shape == (2, 6, 10)


def test_early_predictions_are_judged_through_more_noise(seeded: int) -> None:
    late, early = (seen_through(torch.full((400,), level), 0.2) for level in (0.5, 1.0))
    assert 0.2 <= late.min() < early.max() <= 0.7
    assert late.max() <= 0.55
    assert early.mean() > late.mean()


def test_variation_moves_pictures_and_maps_alike(bank: LatentBank) -> None:
    batch = bank.sample(ONE, random.Random(8))
    marked = torch.zeros_like(batch.target)
    marked[..., 5, 9] = 100.0
    maps = torch.zeros_like(batch.maps)
    maps[..., 5, 9] = 1.0
    batch = dataclasses.replace(batch, target=marked, maps=maps)
    moved = set()
    for seed in range(20):
        made = varied(batch, random.Random(seed))
        assert made.target.shape == marked.shape
        where = made.maps[0, 0, 0, 0].argmax()
        assert made.target[0, 0, 0].argmax() == where
        moved.add(int(where))
    assert len(moved) > 5


def _trainer(bank: LatentBank, folder: Path, **changes: object) -> RewardTrainer:
    torch.manual_seed(5)
    config = dataclasses.replace(
        RewardConfig(model=SMALL, layouts=(ONE,), judge_warmup=0, warmup_steps=1), **changes
    )
    return RewardTrainer(config, folder, bank, _start(), FactReader())


def test_a_student_learns_what_the_reader_misses(
    bank: LatentBank, tmp_path: Path, overfit: Callable[..., list[float]]
) -> None:
    trainer = _trainer(
        bank, tmp_path, anchor=0.0, judge=0.0, reader=1.0, muon_rate=8e-3, adam_rate=4e-3
    )
    missed = overfit(trainer, bank.sample(ONE, random.Random(6)))
    assert missed[-1] < 0.98 * missed[0]


def test_the_student_begun_with_costs_nothing(bank: LatentBank, tmp_path: Path) -> None:
    trainer = _trainer(bank, tmp_path, reader=0.0, judge=0.0)
    batch = bank.sample(TWO, random.Random(7))
    assert trainer.loss(batch).item() < 1e-3
    for master in trainer.state.working.values():
        master.data.add_(0.05 * torch.randn_like(master))
    assert trainer.loss(batch).item() > 0.01


def test_what_ships_lies_half_way(bank: LatentBank, tmp_path: Path) -> None:
    trainer = _trainer(bank, tmp_path)
    begun = {name: value.clone() for name, value in trainer.state.averaged().items()}
    trainer.loss(bank.sample(ONE, random.Random(6))).backward()
    trainer.state.apply(1.0, 0.0)
    trainer.write_product(tmp_path / "student.pt")
    shipped, learned = load_product(tmp_path / "student.pt"), trainer.state.averaged()
    assert shipped.keys() == learned.keys()
    for name, value in shipped.items():
        torch.testing.assert_close(value, (begun[name] + learned[name]) / 2, atol=1e-6, rtol=0)
    assert any((learned[name] != begun[name]).any() for name in learned)
