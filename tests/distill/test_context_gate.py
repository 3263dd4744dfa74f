"""The context gate: it must see use of the context, and its absence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream_distill.common.product import save_product, start_weights
from shotstream_distill.evaluation import context_gate as gate
from shotstream_distill.evaluation.context_gate import (
    Examinee,
    GateScenes,
    context_gate,
    examine_context,
    run_gate,
    tint_features,
)
from shotstream_distill.paper.run_config import RunConfig
from shotstream_distill.paper.shot_batch import ShotBatch
from shotstream_distill.world.caption_rewrites import token_ids, token_names
from shotstream_rt.errors import ConfigError

TintShard = Callable[..., dict[str, Tensor]]


class _Copier:
    """Predicts the context's mean, or nothing without context."""

    def __init__(self, obeys: bool) -> None:
        self.obeys = obeys

    def predict(self, batch: ShotBatch, noise: Tensor, *, with_context: bool) -> Tensor:
        mean = batch.context.mean(1, keepdim=True).expand_as(batch.target)
        return mean if with_context and self.obeys else torch.zeros_like(batch.target)


def test_a_network_that_copies_its_context_passes_and_a_deaf_one_fails(
    tint_shard: TintShard,
) -> None:
    scenes = GateScenes.from_shard(tint_shard(), frames=3)
    assert scenes.probe_r > 0.95
    obeys = examine_context(_Copier(True), scenes)  # type: ignore[arg-type]
    assert obeys.passed
    for name in ("tint", "subject"):
        assert obeys.figures[name]["apart"]
        assert obeys.figures[name]["gain"]["low"] > 0
    deaf = examine_context(_Copier(False), scenes)  # type: ignore[arg-type]
    assert not deaf.passed
    assert deaf.figures["tint"]["gain"]["value"] == 0


def test_probe_and_exam_share_no_story(tint_shard: TintShard) -> None:
    shard = tint_shard()
    scenes = GateScenes.from_shard(shard, frames=3)
    told = {tuple(t.tolist()) for t in scenes.tints}
    exam_stories = {i for i, t in enumerate(shard["tint"]) if tuple(t.tolist()) in told}
    first = min(exam_stories)
    probe = gate._fit_probe([{k: shard[k][:first] for k in ("lat", "lab", "tint")}], 3)
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


@pytest.mark.parametrize("kind", ["teacher", "ode"])
def test_untrained_networks_fail(kind: str, tmp_path: Path, tint_shard: TintShard) -> None:
    config = RunConfig.read("nano-smoke")
    folder = tmp_path / "gate"
    folder.mkdir()
    torch.save(tint_shard(), folder / "S_0.pt")
    weights = start_weights("random", config.stream.model, text=True, seed=0)
    save_product(tmp_path / "p.pt", weights, steps=0, train_s=0, stage="x")
    verdict = run_gate(config, folder)(kind, tmp_path / "p.pt")
    assert not verdict.passed
    assert "tint error" in verdict.summary
    by_hand = Examinee.load(tmp_path / "p.pt", config.stream, bidirectional=kind == "teacher")
    frames = config.stream.shot.chunk_frames
    scenes = GateScenes.from_shard(tint_shard(), frames=frames)
    assert examine_context(by_hand, scenes).figures["tint"] == verdict.figures["tint"]


def test_the_shipped_model_is_examined(tmp_path: Path, tint_shard: TintShard) -> None:
    torch.save(tint_shard(stories=12), tmp_path / "S_0.pt")
    verdict = context_gate("nano", folder=tmp_path)
    assert set(verdict.figures) == {"probe_r", "scenes", "tint", "subject"}
