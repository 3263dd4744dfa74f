"""Passes over a shot's given frames: as if the student had made them itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends.cuda_graph import CudaGraphBackend
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.kernels.sets.kernel_set import TORCH_OPS
from shotstream_rt.model.bound_student import BoundStudent
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.model.student import Student
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import HOST, PhiloxNoise
from shotstream_rt.plan.students import STUDENTS
from shotstream_rt.shot_inputs import ShotInputs

from .conftest import TEXT_LEN, fake_bundle
from .given_frames import ENTERS_LATE


class ShiftedNoise:
    """Noise of the chunks behind the first ones."""

    def __init__(self, chunks: int) -> None:
        self._chunks, self._noise = chunks, PhiloxNoise(7)

    def draw(
        self, shot: int, chunk: int, step: int, shape: Sequence[int], device: torch.device = HOST
    ) -> Tensor:
        return self._noise.draw(shot, chunk + self._chunks, step, shape, device)


CAPTIONS = CaptionSet(embeddings=torch.ones(1, TEXT_LEN, 2), lengths=(3,))


def pipeline_of(name: str, *, captured: bool = False) -> Pipeline:
    torch.manual_seed(3)
    config = STUDENTS[name].stream(fake_bundle().config.model)
    student = Student(config.model).requires_grad_(False)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    bound = BoundStudent.from_student(student, TORCH_OPS)
    if captured:
        backend = CudaGraphBackend(bound, config, lambda: lambda function: function)
        return Pipeline(config, backend.new_film())
    return Pipeline(config, EagerBackend(bound, config).new_film())


def begin(pipeline: Pipeline, shot: int = 0, **options: Any) -> None:
    config = pipeline.config
    flags = [0] * config.cache.context_frames
    context = torch.zeros(1, len(flags), *pipeline.latent_shape[2:])
    captions = CAPTIONS
    if flags and config.shot.multi_caption:
        captions = CaptionSet(embeddings=torch.ones(2, TEXT_LEN, 2), lengths=(3, 3))
    pipeline.begin_shot(ShotInputs(shot, context, flags, captions, 1, **options))


def run(pipeline: Pipeline, chunk: int, noise: Any) -> Tensor:
    made = pipeline.run_chunk(chunk, noise).clone()
    pipeline.commit()
    return made


@pytest.mark.parametrize("name", ["self-forcing", "infinity-rope", "causal-forcing-framewise"])
@pytest.mark.parametrize("captured", [False, True])
def test_a_film_goes_on_from_its_own_chunks_as_it_did(name: str, captured: bool) -> None:
    straight, given = (pipeline_of(name, captured=captured) for _ in range(2))
    begin(straight)
    made = [run(straight, chunk, PhiloxNoise(7)) for chunk in range(5)]
    begin(given, given=torch.cat(made[:2], 1))
    again = [run(given, chunk, ShiftedNoise(2)) for chunk in range(5)]
    assert all(torch.equal(one, other) for one, other in zip(made, again, strict=True))


@pytest.mark.parametrize("name", ENTERS_LATE)
@pytest.mark.parametrize("captured", [False, True])
def test_entering_with_the_estimate_of_the_step_before_gives_the_same(
    name: str, captured: bool
) -> None:
    straight = pipeline_of(name, captured=captured)
    estimates: list[list[Tensor]] = []
    denoise = straight.film.denoise

    def noted(step: int) -> Tensor:
        estimates[-1].append(denoise(step).clone())
        return estimates[-1][-1]

    straight.film.denoise = noted  # type: ignore[method-assign]
    begin(straight)
    made = []
    for chunk in range(3):
        estimates.append([])
        made.append(run(straight, chunk, PhiloxNoise(7)))
    for strength, before in ((0.5, -3), (0.25, -2)):
        if any(len(steps) < -before for steps in estimates):
            continue  # fewer steps than that
        late = pipeline_of(name, captured=captured)
        begin(late, given=torch.cat([steps[before] for steps in estimates], 1), strength=strength)
        again = [run(late, chunk, PhiloxNoise(7)) for chunk in range(3)]
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(made, again, strict=True))


def test_a_shot_given_up_for_one_without_a_start_leaves_the_kept_caches() -> None:
    straight, other = (pipeline_of("infinity-rope") for _ in range(2))
    for pipeline in (straight, other):
        begin(pipeline)
        for chunk in range(3):
            run(pipeline, chunk, PhiloxNoise(7))
    begin(other, 1, given=torch.ones(1, 6, 16, 2, 4))
    for pipeline in (straight, other):
        begin(pipeline, 1)
    assert torch.equal(run(straight, 0, PhiloxNoise(7)), run(other, 0, PhiloxNoise(7)))
