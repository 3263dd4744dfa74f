"""The context gate: it must see use of the context, and its absence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shotstream_distill.common.product import save_product, start_weights
from shotstream_distill.evaluation.context_gate import context_gate, examine_context, run_gate
from shotstream_distill.evaluation.examinee import Examinee
from shotstream_distill.evaluation.gate_scenes import GateScenes
from shotstream_distill.paper.run_config import RunConfig
from shotstream_distill.paper.shot_batch import ShotBatch

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
