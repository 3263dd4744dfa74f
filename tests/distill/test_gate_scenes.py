"""Scenes of the context gate: of the right world, in the light, and read by a probe."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_distill.evaluation import gate_scenes
from shotstream_distill.evaluation.gate_scenes import GateScenes, tint_features
from shotstream_distill.world.caption_rewrites import token_ids, token_names
from shotstream_rt.errors import ConfigError

TintShard = Callable[..., dict[str, Tensor]]


def test_probe_and_exam_share_no_story(tint_shard: TintShard) -> None:
    shard = tint_shard()
    scenes = GateScenes.from_shard(shard, frames=3)
    told = {tuple(t.tolist()) for t in scenes.tints}
    exam_stories = {i for i, t in enumerate(shard["tint"]) if tuple(t.tolist()) in told}
    first = min(exam_stories)
    probe = gate_scenes._fit_probe([{k: shard[k][:first] for k in ("lat", "lab", "tint")}], 3)
    torch.testing.assert_close(probe, scenes.probe)


def test_shots_in_the_evening_are_left_out(tint_shard: TintShard) -> None:
    shard = tint_shard()
    evening = shard["lab"][:, -3]
    evening[30:90] = torch.tensor([1, 2]).repeat(30)
    scenes = GateScenes.from_shard(shard, frames=3)
    lit = {tuple(t.tolist()) for t in shard["tint"][evening == 0]}
    assert {tuple(t.tolist()) for t in scenes.tints} <= lit
    shard["lat"][evening > 0] = 100.0  # nothing is learnt from them either
    torch.testing.assert_close(GateScenes.from_shard(shard, frames=3).probe, scenes.probe)


def test_only_characters_seen_before_count_as_subjects(tint_shard: TintShard) -> None:
    shard = tint_shard()
    shard["lab"][:, 0] = 1  # only character 1 in every shot: character 0's cells are news
    scenes = GateScenes.from_shard(shard, frames=3)
    assert float(scenes.subjects.sum()) == 0


def test_captions_of_the_exam_do_not_say_what_the_context_shows(tint_shard: TintShard) -> None:
    shard = tint_shard()
    said = ["red", "cat", "with", "hat", "forest", ".", "wide-shot", "red", "cat", "jumps"]
    shard["tok"] = token_ids(said, 32).to(torch.uint8).expand(len(shard["lat"]), 4, -1)
    batch = GateScenes.from_shard(shard, frames=3).batch
    for words, number in zip(batch.words, batch.shots, strict=True):
        assert token_names(words[number]) == ["forest", ".", "wide-shot", "cat", "jumps"]
        assert all(token_names(earlier) == said for earlier in words[:number])


def test_too_few_shots_are_refused(tint_shard: TintShard) -> None:
    with pytest.raises(ConfigError, match="later shots"):
        GateScenes.from_shard(tint_shard(stories=4), frames=3)


def test_scenes_of_another_world_are_refused(tint_shard: TintShard) -> None:
    shard = tint_shard()
    shard["lab"] = shard["lab"][:, 1:]
    with pytest.raises(ConfigError, match="another world"):
        GateScenes.from_shard(shard, frames=3)


def test_features_do_not_depend_on_where_things_are() -> None:
    latents, places = torch.randn(2, 3, 16, 12, 20), torch.tensor([1, 4])
    turned = latents.flip(-1).roll(3, -2)
    torch.testing.assert_close(tint_features(turned, places), tint_features(latents, places))
