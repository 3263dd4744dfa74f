"""Diffusers' own transformer and ours, opened from its files, compute the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shotstream_rt.loading.student_weights import open_student
from shotstream_rt.model.student import Student

from .conftest import DIFFUSERS_CONFIG, STUDENT


@torch.no_grad()
def test_a_transformer_of_diffusers_computes_the_same(tmp_path: Path) -> None:
    peer_module = pytest.importorskip("diffusers", reason="the peer whose files these are")
    torch.manual_seed(3)
    sizes = {key: value for key, value in DIFFUSERS_CONFIG.items() if key != "_class_name"}
    peer = peer_module.WanTransformer3DModel(**sizes).eval()
    for name, tensor in peer.named_parameters():
        spread = 0.2 if tensor.dim() == 1 else tensor[0].numel() ** -0.5
        tensor.copy_(torch.randn_like(tensor) * spread + ("norm" in name and "weight" in name))
    peer.save_pretrained(tmp_path, max_shard_size="300KB")

    opened = open_student(tmp_path)
    assert opened.config.num_layers == STUDENT.num_layers
    student = Student.from_state(opened.tensors, opened.config, source="peer", dtype=torch.float32)
    latents, captions = torch.randn(1, 3, 16, 4, 6), torch.randn(1, 512, 16)
    wanted = peer(
        hidden_states=latents.transpose(1, 2), timestep=torch.tensor([700]),
        encoder_hidden_states=captions, return_dict=False,
    )[0].transpose(1, 2)  # fmt: skip
    got = student.forward_train(
        latents, torch.full((1, 3), 700.0), captions[:, None], torch.zeros(1, 3, dtype=torch.long),
        range(3), None,
    )  # fmt: skip
    assert float((got - wanted).norm() / wanted.norm()) < 1e-5
