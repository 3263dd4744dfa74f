"""The latent bank: what is written, and how samples are laid out."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch

from shotstream_distill.world.bank import CANDIDATE_FRAMES, LatentBank, Layout, context_frames
from shotstream_distill.world.make_bank import LABEL_COLUMNS, class_maps, encode_shot, labels
from shotstream_distill.world.render import SHOT_FRAMES, render_shot
from shotstream_distill.world.story import make_story
from shotstream_rt import _native
from shotstream_rt.model.nano.codec import NanoCodec
from shotstream_rt.model.nano.vocabulary import PLACES, SPECIES


@pytest.mark.parametrize("earlier", range(1, 7))
def test_context_is_sampled_as_the_runtime_samples(earlier: int) -> None:
    wanted = [tuple(pick) for pick in _native.sample_context([SHOT_FRAMES] * earlier, 6)]
    got = [(shot, CANDIDATE_FRAMES[column]) for shot, column in context_frames(earlier)]
    assert got == wanted


def test_labels_tell_the_time_before_the_shots() -> None:
    stories = [make_story(seed) for seed in range(40)]
    told = {s.setting.time: {labels(s, i)[-3] for i in range(len(s.shots))} for s in stories}
    assert told == {"by-day": {0}, "at-sunset": {1}, "at-night": {2}, None: {3}}
    for story in stories:
        rows = [labels(story, index) for index in range(len(story.shots))]
        assert [row[-2] for row in rows] == list(range(len(rows)))
        assert {row[-1] for row in rows} == {len(rows)}
        assert {len(row) for row in rows} == {LABEL_COLUMNS}
        assert [PLACES[row[3]] for row in rows] == [story.setting.place] * len(rows)
        species = [SPECIES[i] for i in rows[0][4:6]]
        assert species == [c.species for c in story.characters]


def test_maps_are_shares_of_cells() -> None:
    _, masks = render_shot(make_story(3), 0, [10])
    maps = class_maps(masks)
    assert maps.shape == (1, 2, 3, 12, 20)
    area = maps[:, :, 0].sum() * 64
    assert int(area.round()) == int(((masks & 15) > 0).sum())
    assert (maps[:, :, 1] <= maps[:, :, 0]).all()


def test_leading_latents_do_not_depend_on_their_number(codec_file: Path) -> None:
    codec, story = NanoCodec.load(codec_file), make_story(10)
    few, many = (encode_shot(codec, story, 0, count) for count in (2, 4))
    torch.testing.assert_close(few["lat"], many["lat"][:2])
    assert torch.equal(few["cand"], many["cand"])
    assert torch.equal(few["maps"], many["maps"][:2])


def test_openings_have_no_context(bank_folder: Path) -> None:
    bank = LatentBank(bank_folder)
    layout = Layout(batch=24, context=6, group_frames=3, groups=2, opening=True)
    batch = bank.sample(layout, random.Random(0))
    assert not batch.shared.any()
    assert (batch.flags[:, :6] == 0).all() and (batch.flags[:, 6:] == 1).all()
    later = bank.sample(dataclasses.replace(layout, opening=False, later=True), random.Random(0))
    assert (later.facts[:, -2] > 0).all()
    usual = bank.sample(dataclasses.replace(layout, opening=False), random.Random(0))
    assert usual.shared.flatten(1).any(1).sum() >= 6
    told = {tuple(row) for row in batch.tokens[:, 0].tolist()}
    shards = [torch.load(path, weights_only=True) for path in bank_folder.glob("*.pt")]
    firsts = [s["tok"][s["lab"][:, -2] == 0] for s in shards]
    assert told <= {tuple(row) for rows in firsts for row in rows.flatten(0, 1).tolist()}


def test_new_shards_are_picked_up(bank_folder: Path, tmp_path: Path) -> None:
    bank = LatentBank(tmp_path)
    assert bank.refresh() == 0
    for path in bank_folder.glob("S_*.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert bank.refresh() > 0


@pytest.mark.parametrize(
    "layout",
    [
        Layout(batch=3, context=2, group_frames=1, groups=4),
        Layout(batch=2, context=6, group_frames=3, groups=2),
        Layout(batch=2, context=6, group_frames=3, groups=2, chunks=2),
        Layout(batch=2, context=3, group_frames=3, groups=3, chunks=7),
    ],
    ids=["frames", "first-chunk", "two-chunks", "whole-shot"],
)
def test_samples_have_the_layout(bank_folder: Path, layout: Layout) -> None:
    bank, rng = LatentBank(bank_folder), random.Random(0)
    for _ in range(5):
        batch = bank.sample(layout, rng)
        noisy = layout.groups * layout.group_frames
        shared = batch.shared.shape[1]
        assert batch.target.shape == (layout.batch, noisy, 16, 12, 20)
        assert batch.maps.shape == (layout.batch, noisy, 2, 3, 12, 20)
        assert (shared - layout.context) % layout.group_frames == 0
        for rows in (batch.caption_index, batch.positions, batch.flags):
            assert rows.shape == (layout.batch, shared + noisy)
        assert (batch.positions[:, layout.context :] >= 6).all()
        assert (batch.positions[:, : layout.context] < 6).all()
        # All frames of the running shot carry one flag: the last of six context flags + 1.
        own, last = batch.flags[:, layout.context :], batch.flags[:, layout.context - 1]
        assert (own == own[:, :1]).all()
        assert (own[:, 0] == last + 1 if layout.context == 6 else own[:, 0] > last).all()
        picked = batch.lengths.gather(1, batch.caption_index)
        assert (picked > 0).all()


def test_a_first_shot_has_zero_context_and_flag_one(bank_folder: Path) -> None:
    bank, rng = LatentBank(bank_folder), random.Random(1)
    layout = Layout(batch=16, context=6, group_frames=3, groups=1)
    batch = bank.sample(layout, rng)
    empty = (batch.shared == 0).flatten(1).all(1)
    assert 0 < int(empty.sum()) < 16
    assert (batch.flags[empty][:, :6] == 0).all()
    assert (batch.flags[empty][:, 6:] == 1).all()
    assert (batch.caption_index[empty] == 0).all()


def test_what_is_seen_is_chunk_causal(bank_folder: Path) -> None:
    bank, rng = LatentBank(bank_folder), random.Random(2)
    layout = Layout(batch=1, context=2, group_frames=3, groups=2, chunks=2)
    batch = bank.sample(layout, rng)
    assert batch.shared_groups == (2, 3)
    assert batch.visible == (2, 5)
    first = bank.sample(dataclasses.replace(layout, groups=1, chunks=1), rng)
    assert first.shared_groups == first.visible == ()
