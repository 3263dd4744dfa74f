"""A pass that is given up between two layers, and what goes on from there."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from shotstream_rt.abandonment import ChunkAbandonedError
from shotstream_rt.backends.base import StudentBackend
from shotstream_rt.backends.cuda_graph import CudaGraphBackend
from shotstream_rt.backends.eager import EagerBackend
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.config import StreamConfig
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.shot_inputs import ShotInputs

CAPTIONS = CaptionSet(embeddings=torch.ones(1, 8, 32), lengths=(8,))
NOISE = PhiloxNoise(4)


def after(calls: int) -> Callable[[], bool]:
    """Abandon when asked once more than this often."""
    count = itertools.count()
    return lambda: next(count) >= calls


def eager(request: BackendRequest, config: StreamConfig) -> StudentBackend:
    return EagerBackend(request.student(), config)


def captured(request: BackendRequest, config: StreamConfig) -> StudentBackend:
    """A graph stands for calling the same function again."""
    return CudaGraphBackend(request.student(), config, capture=lambda: lambda function: function)


BACKENDS = pytest.mark.parametrize("backend", [eager, captured])
Backend = Callable[[BackendRequest, StreamConfig], StudentBackend]


def begin(pipeline: Pipeline, shot: int, **abandoned: Callable[[], bool]) -> None:
    past = pipeline.config.cache.context_frames
    context = PhiloxNoise(5).draw(shot, 0, 0, (1, past, *pipeline.latent_shape[2:]))
    pipeline.begin_shot(ShotInputs(shot, context, [0] * past, CAPTIONS, 1), **abandoned)


def shoot(pipeline: Pipeline, first: int, chunks: int) -> list[torch.Tensor]:
    made = []
    for chunk in range(first, chunks):
        made.append(pipeline.run_chunk(chunk, NOISE).clone())
        pipeline.commit()
    return made


@BACKENDS
@pytest.mark.parametrize("policy", ["window", "on-read", "kept"])
def test_a_chunk_given_up_anywhere_is_made_again_as_if_nothing_had_been(
    policy: str, backend: Backend, requested: Callable[..., BackendRequest],
    policies: dict[str, StreamConfig],
) -> None:  # fmt: skip
    config = replace(policies[policy], shot=replace(policies[policy].shot, multi_caption=False))
    made = backend(requested(config, "reference"), config)
    calm, harried = (Pipeline(config, made.new_film()) for _ in range(2))
    for pipeline in (calm, harried):
        pipeline.film.poison()
        begin(pipeline, 0)
    wanted, got, stops = shoot(calm, 0, 5), [], 0
    for chunk in range(5):
        for calls in range(5):
            try:
                harried.run_chunk(chunk, NOISE, after(calls))
            except ChunkAbandonedError:
                stops += 1
        got.append(harried.run_chunk(chunk, NOISE).clone())
        for calls in range(2):
            try:
                harried.commit(after(calls))
            except ChunkAbandonedError:
                stops += 1
        harried.commit()
    assert stops >= 20
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


@BACKENDS
@pytest.mark.parametrize("policy", ["window", "on-read", "rolling"])
def test_the_next_shot_repairs_what_was_left(
    policy: str, backend: Backend, requested: Callable[..., BackendRequest],
    policies: dict[str, StreamConfig],
) -> None:  # fmt: skip
    config = replace(policies[policy], shot=replace(policies[policy].shot, multi_caption=False))
    made = backend(requested(config, "reference"), config)
    calm, harried = (Pipeline(config, made.new_film()) for _ in range(2))
    begin(calm, 1)
    begin(harried, 0)
    shoot(harried, 0, 3)
    with pytest.raises(ChunkAbandonedError):
        harried.run_chunk(3, NOISE, after(1))
    if config.cache.context_frames:
        with pytest.raises(ChunkAbandonedError):
            begin(harried, 1, abandoned=after(0))
    begin(harried, 1)
    wanted, got = shoot(calm, 0, 4), shoot(harried, 0, 4)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


def test_layers_are_asked_one_by_one(
    requested: Callable[..., BackendRequest], policies: dict[str, StreamConfig]
) -> None:
    config = replace(policies["window"], shot=replace(policies["window"].shot, multi_caption=False))
    pipeline = Pipeline(config, eager(requested(config, "reference"), config).new_film())
    asked = []

    def note() -> bool:
        asked.append(None)
        return False

    begin(pipeline, 0)
    pipeline.run_chunk(0, NOISE, note)
    layers, steps = config.model.num_layers, config.schedule.num_steps
    assert len(asked) == steps * (layers + 1)
    pipeline.commit(note)
    assert len(asked) == steps * (layers + 1) + layers
