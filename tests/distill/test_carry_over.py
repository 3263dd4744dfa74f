"""A student carried over answers new latents as it answered old ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shotstream_distill.carry_over import LatentMap, carry_over, carry_over_file, fit_map
from shotstream_distill.initial import init_parameters
from shotstream_distill.nano_state import NanoState
from shotstream_distill.paper.product import load_product, start_weights
from shotstream_distill.recipe import NANO_MODEL
from shotstream_rt.config import ModelConfig
from shotstream_rt.errors import WeightsError
from shotstream_rt.model.nano_vocabulary import TOKENS
from shotstream_rt.model.student import Student

TINY = ModelConfig(
    dim=48, ffn_dim=64, num_heads=2, num_layers=1, text_dim=24, text_len=8,
    latent_height=4, latent_width=6,
)  # fmt: skip


def _student(weights: dict[str, torch.Tensor]) -> Student:
    student = Student(TINY)
    student.load_state_dict({k: v for k, v in weights.items() if not k.startswith("text.")})
    return student.requires_grad_(False)


def _flow(student: Student, latents: torch.Tensor) -> torch.Tensor:
    frames = latents.shape[1]
    return student.forward_train(
        latents, torch.full((1, frames), 500.0), torch.zeros(1, 1, 8, 24),
        torch.zeros(1, frames, dtype=torch.long), range(frames), None,
    )  # fmt: skip


def test_the_flow_is_mapped_as_the_latents_are(seeded: int) -> None:
    weights = init_parameters(TINY, seed=1)
    weights["head.head.weight"] = torch.randn_like(weights["head.head.weight"])
    weights["head.head.bias"] = torch.randn_like(weights["head.head.bias"])
    weights["text.embedding.weight"] = torch.randn(len(TOKENS) - 3, 16)
    before, words = _student(weights), weights["text.embedding.weight"].clone()
    forward = torch.linalg.qr(torch.randn(16, 16))[0] * 1.3
    carry_over(weights, LatentMap(forward=forward, explained=1.0))
    old = torch.randn(1, 2, 16, 4, 6)
    new = torch.einsum("ec,bfchw->bfehw", forward, old)
    wanted = torch.einsum("ec,bfchw->bfehw", forward, _flow(before, old))
    torch.testing.assert_close(_flow(_student(weights), new), wanted, rtol=1e-4, atol=1e-4)
    assert weights["text.embedding.weight"].shape == (len(TOKENS), 16)
    assert torch.equal(weights["text.embedding.weight"][:-3], words)


def test_a_turned_codec_s_map_is_found(codec_file: Path, tmp_path: Path) -> None:
    tensors = load_file(str(codec_file))
    turned = dict(tensors)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(2)))[0]
    std = tensors["latent_std"].float()
    # New latents are the old normalised ones, turned: undo the statistics, then turn.
    into = tensors["encoder_out.weight"].float() / std.view(-1, 1, 1, 1)
    bias = (tensors["encoder_out.bias"].float() - tensors["latent_mean"].float()) / std
    turned["encoder_out.weight"] = torch.einsum("ec,cihw->eihw", turn, into)
    turned["encoder_out.bias"] = turn @ bias
    turned["latent_mean"], turned["latent_std"] = torch.zeros(16), torch.ones(16)
    path = tmp_path / "turned.safetensors"
    save_file({k: v.contiguous() for k, v in turned.items()}, str(path))
    found = fit_map(codec_file, path)
    assert found.explained > 0.999
    torch.testing.assert_close(found.forward, turn, rtol=0.02, atol=0.02)


def test_a_file_is_carried_over(codec_file: Path, tmp_path: Path) -> None:
    checkpoint, out = tmp_path / "flow.pt", tmp_path / "start.pt"
    state = NanoState(NANO_MODEL, muon_rate=1e-3, adam_rate=1e-3, seed=0)
    state.save(checkpoint)
    report = carry_over_file(checkpoint, codec_file, codec_file, out)
    assert report["explained"] == pytest.approx(1.0, abs=1e-4)
    before, after = load_product(checkpoint), load_product(out)
    assert list(before) == list(after)
    for name, value in after.items():
        torch.testing.assert_close(value, before[name], rtol=1e-3, atol=1e-4, msg=name)


def test_other_weights_are_refused() -> None:
    with pytest.raises(WeightsError, match="wanted a nano student"):
        carry_over({"a": torch.zeros(2)}, LatentMap(forward=torch.eye(16), explained=1.0))


def test_a_new_run_begins_with_the_shipped_student() -> None:
    model = dataclasses.replace(NANO_MODEL, cache_indicator=True)
    shipped = start_weights("nano", model, text=True, seed=0)
    state = NanoState(model, muon_rate=1e-3, adam_rate=1e-3, seed=0)
    fresh = {n: m.detach().clone() for n, m in zip(state.names, state.masters, strict=True)}
    state.start_from(shipped)
    begun = {n: m.detach() for n, m in zip(state.names, state.masters, strict=True)}
    assert torch.equal(begun["head.head.weight"], shipped["head.head.weight"].float())
    words, known = begun["text.embedding.weight"], len(shipped["text.embedding.weight"])
    assert torch.equal(words[:known], shipped["text.embedding.weight"])
    assert torch.equal(words[known:], fresh["text.embedding.weight"][known:])
    assert torch.equal(begun["aux.weight"], fresh["aux.weight"])
    assert torch.equal(begun["cache_indicator.weight"], shipped["cache_indicator.weight"])
    del shipped["head.head.weight"]
    with pytest.raises(WeightsError, match=r"head\.head\.weight"):
        state.start_from(shipped)
