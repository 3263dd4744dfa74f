"""Twins: stories with other facts, and what a student is taught with them."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch

from shotstream_distill.bank import Batch, LatentBank, Layout
from shotstream_distill.lessons import make_lesson, share_of_mean, told, without_words
from shotstream_distill.make_bank import token_row
from shotstream_distill.world.story import make_story
from shotstream_distill.world.twin import twin

LAYOUT = Layout(batch=4, context=6, group_frames=3, groups=2, chunks=2)
LEVELS = [1.0, 0.9, 0.5]


@pytest.fixture
def batch(twin_folder: Path) -> Batch:
    return LatentBank(twin_folder).sample(LAYOUT, random.Random(0))


def _said(batch: Batch, caption: str) -> Batch:
    row = torch.tensor(token_row(caption))
    return dataclasses.replace(batch, tokens=row.expand_as(batch.tokens))


def test_a_twin_differs_in_what_captions_tell_and_in_nothing_else() -> None:
    changed = set()
    for seed in range(200):
        story = make_story(seed)
        other = twin(story, random.Random(seed))
        assert other.shots == story.shots
        assert dataclasses.replace(other.setting, time=story.setting.time) == story.setting
        assert (other.setting.time is None) == (story.setting.time is None)
        if other.setting.time != story.setting.time:
            changed.add("time")
        assert other.characters[0].species != other.characters[1].species
        for before, after in zip(story.characters, other.characters, strict=True):
            assert (before.hue, before.size, before.belly) == (after.hue, after.size, after.belly)
            assert after.accessory_color != after.color
            assert (after.accessory is None) == (after.accessory_color is None)
            names = ("species", "color", "accessory", "accessory_color")
            different = [n for n in names if getattr(before, n) != getattr(after, n)]
            changed.update(different)
            assert "species" not in different or len(different) == 1
            assert "color" not in different or len(different) == 1
    assert changed == {"time", "species", "color", "accessory", "accessory_color"}


def test_a_bank_with_twins_gives_both(batch: Batch) -> None:
    assert batch.twin is not None
    assert batch.twin_shared is not None
    assert batch.twin.shape == batch.target.shape
    assert batch.twin_shared.shape == batch.shared.shape
    assert not torch.equal(batch.twin, batch.target)


def test_only_what_a_caption_tells_is_taught(batch: Batch) -> None:
    # Who, framing, action, place; species, colours, worn, their colours; time, shot, shots.
    label = [0, 2, 0, 0, 0, 1, 6, 0, 1, 0, 5, 8, 0, 0, 3]
    hat = dataclasses.replace(batch, facts=torch.tensor([label] * 4))
    bare = dataclasses.replace(batch, facts=torch.tensor([[*label[:8], 0, *label[9:]]] * 4))
    global_caption = "A pink cat and a white robot on a beach. shot0:"
    for given, caption, right in (
        (hat, "close-up of a pink cat with a blue hat on a beach", True),
        (hat, "close-up of a pink cat on a beach", False),
        (hat, "close-up of a pink cat with a blue hat", False),
        (bare, "close-up of a pink cat on a beach", False),
        (bare, f"{global_caption}Close-up: the pink cat walks left.", True),
    ):
        assert told(_said(given, caption)).tolist() == [right] * 4, caption


def test_a_lesson_shows_the_twin_and_marks_where_it_is_wrong(batch: Batch, seeded: int) -> None:
    assert batch.twin is not None
    everything = "A pink cat with a hat and a white robot with a scarf on a beach. shot0:a cat"
    batch = _said(batch, everything)
    lesson = make_lesson(batch, LEVELS, random.Random(1))
    assert set(lesson.times.flatten().tolist()) <= {torch.tensor(v).item() for v in LEVELS[1:]}
    assert lesson.noisy.shape == batch.target.shape
    assert 0 <= lesson.wrong.min() <= lesson.wrong.max() <= 1
    off = (batch.twin - batch.target).square().mean(2, keepdim=True)
    for row in range(4):
        if lesson.wrong[row].max() > 0:
            assert torch.equal(lesson.wrong[row] > 0, off[row] > 0)
    assert lesson.wrong.max() > 0
    silent = make_lesson(_said(batch, "a cat"), LEVELS, random.Random(1))
    assert silent.wrong.max() == 0
    assert torch.equal(silent.shared, batch.shared)


def test_a_bank_without_twins_teaches_nothing(batch: Batch) -> None:
    with pytest.raises(ValueError, match="make-bank --twins"):
        make_lesson(dataclasses.replace(batch, twin=None), LEVELS, random.Random(1))


def test_unknown_words_are_dropped_as_a_session_does(batch: Batch) -> None:
    row = torch.tensor([3, 34, 5, 33, 7, *[0] * 27])
    heard = without_words(dataclasses.replace(batch, tokens=row.expand_as(batch.tokens)), words=33)
    assert heard.tokens[0, 0].tolist() == [3, 5, 7, *[0] * 29]
    assert heard.lengths.unique().tolist() == [3]


def test_every_sample_counts_the_same() -> None:
    error = torch.ones(2, 1, 3, 4, 4)
    error[1] = 3.0
    weight = torch.ones(2, 1, 1, 4, 4)
    weight[1, :, :, 1:] = 0.0
    assert share_of_mean(error, weight) == 2.0
    assert share_of_mean(error, 0 * weight) == 0.0
