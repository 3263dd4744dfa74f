"""The training form of the student equals the student."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from shotstream_distill.common.initial import init_parameters
from shotstream_distill.common.sequence import Captions, Sequence
from shotstream_distill.nano.fast_student import FastStudent
from shotstream_distill.nano.own_film import shared_frames, split_sequence
from shotstream_rt.config import ModelConfig
from shotstream_rt.model.student import Student

CONFIG = ModelConfig(
    dim=48, ffn_dim=64, num_heads=2, num_layers=2, text_dim=24, text_len=16,
    latent_height=4, latent_width=6,
)  # fmt: skip


def _parameters(config: ModelConfig = CONFIG) -> dict[str, torch.Tensor]:
    parameters = init_parameters(config, seed=1)
    generator = torch.Generator().manual_seed(2)
    # The head starts at zero and norms at one: move them, or half of the maths goes untested.
    return {
        name: value + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in parameters.items()
    }


def _sequence(batch: int = 2) -> Sequence:
    # Two context frames, one clean chunk of two frames, and chunks 0 and 1 as noisy groups.
    positions = torch.tensor([0, 1, 2, 3, 2, 3, 4, 5])
    flags = torch.tensor([[0, 1, 2, 2, 2, 2, 2, 2], [0, 0, 1, 1, 1, 1, 1, 1]])
    rows = torch.tensor([[0, 1, 2, 2, 2, 2, 2, 2], [0, 0, 1, 1, 1, 1, 1, 1]])
    times = torch.tensor([0, 0, 0, 0, 0.9, 0.9, 0.4, 0.4]).expand(batch, -1)
    return Sequence(
        latents=torch.randn(batch, 8, CONFIG.in_dim, CONFIG.latent_height, CONFIG.latent_width),
        times=times,
        caption_index=rows,
        positions=positions.expand(batch, -1),
        flags=flags,
        shared=4,
        context=2,
        groups=2,
        shared_groups=(2, 2),
        visible=(2, 4),
    )


def _captions(batch: int = 2) -> Captions:
    lengths = torch.tensor([[3, 5, 4], [2, 0, 1]])
    embeddings = torch.randn(batch, 3, 5, CONFIG.text_dim)
    embeddings *= (torch.arange(5) < lengths[..., None])[..., None]
    return Captions(embeddings=embeddings, lengths=lengths, text_len=CONFIG.text_len)


def _student_flow(
    sequence: Sequence, captions: Captions, config: ModelConfig = CONFIG, shot_phase: bool = True
) -> torch.Tensor:
    student = Student(config)
    student.load_state_dict(_parameters(config))
    padded = torch.zeros(2, 3, CONFIG.text_len, CONFIG.text_dim)
    padded[:, :, :5] = captions.embeddings
    shared, mask = sequence.shared, torch.zeros(8, 8, dtype=torch.bool)
    mask[:2, :2] = mask[2:shared, :shared] = True
    for group in range(2):
        rows = slice(shared + 2 * group, shared + 2 * group + 2)
        mask[rows, : sequence.visible[group]] = True
        mask[rows, rows] = True
    with torch.no_grad():
        return student.forward_train(
            sequence.latents, sequence.times * 1000, padded, sequence.caption_index,
            sequence.positions[0], sequence.flags if shot_phase else None, mask,
            context=sequence.context,
        )[:, shared:]  # fmt: skip


@pytest.mark.parametrize("indicator", ["rope-phase", "none", "learned-vector"])
def test_training_form_equals_the_student(indicator: str, seeded: int) -> None:
    config = dataclasses.replace(CONFIG, cache_indicator=indicator == "learned-vector")
    phase = indicator == "rope-phase"
    sequence, captions = _sequence(), _captions()
    model = FastStudent(config, shot_phase=phase)
    flow, aux = model(_parameters(config), sequence, captions)
    wanted = _student_flow(sequence, captions, config, phase)
    assert aux is None
    torch.testing.assert_close(flow, wanted, rtol=1e-4, atol=1e-4)


def test_remembered_shared_frames_change_nothing(seeded: int) -> None:
    sequence, captions = _sequence(), _captions()
    config = dataclasses.replace(CONFIG, cache_indicator=True)
    model, parameters = FastStudent(config), _parameters(config)
    front, back = split_sequence(sequence)
    memory = model.remember(parameters, front, captions)
    again, _ = model(parameters, back, captions, memory)
    flow, _ = model(parameters, sequence, captions)
    torch.testing.assert_close(again, flow, rtol=1e-5, atol=1e-5)


def test_frames_remembered_one_after_the_other_are_remembered_alike(seeded: int) -> None:
    sequence, captions = _sequence(), _captions()
    model, parameters = FastStudent(CONFIG), _parameters()
    front, _ = split_sequence(sequence)
    wanted = model.remember(parameters, front, captions)
    memory = model.remember(parameters, shared_frames(front, 0, 2), captions)
    chunk = dataclasses.replace(shared_frames(front, 2, 4), shared=0, context=0, groups=1)
    memory = model.remember(parameters, chunk, captions, memory)
    for (k, v), (wanted_k, wanted_v) in zip(memory, wanted, strict=True):
        torch.testing.assert_close(k, wanted_k, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(v, wanted_v, rtol=1e-5, atol=1e-5)


def test_noisy_groups_do_not_see_each_other(seeded: int) -> None:
    sequence, captions = _sequence(), _captions()
    model, parameters = FastStudent(CONFIG), _parameters()
    flow, _ = model(parameters, sequence, captions)
    latents = sequence.latents.clone()
    latents[:, -1] = 7.0
    other, _ = model(parameters, dataclasses.replace(sequence, latents=latents), captions)
    torch.testing.assert_close(other[:, :2], flow[:, :2])
    assert not torch.allclose(other[:, 2:], flow[:, 2:])


@pytest.mark.parametrize("classes", [0, 13])
def test_auxiliary_logits_cover_every_latent_cell(classes: int, seeded: int) -> None:
    parameters = init_parameters(CONFIG, seed=1, aux_classes=classes)
    _, logits = FastStudent(CONFIG, aux_after=1)(parameters, _sequence(), _captions())
    if classes:
        assert logits is not None
        assert logits.shape == (2, 4, classes, CONFIG.latent_height, CONFIG.latent_width)
    else:
        assert logits is None
