"""Chunks computed anew with other captions: what that leaves in the caches, recorded or not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shotstream_rt.backends import registry
from shotstream_rt.backends.base import StudentBackend
from shotstream_rt.backends.cuda_graph import CudaGraphBackend
from shotstream_rt.backends.request import BackendRequest
from shotstream_rt.config import StreamConfig
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.shot_inputs import ShotInputs

POLICIES = ("window", "on-read", "pruned", "no-context")
"""Those of which nothing but chunks has to be made again; names of ``policies``."""

Requested = Callable[..., BackendRequest]


def captions(config: StreamConfig, seed: int) -> CaptionSet:
    shape = (1, config.model.text_len, config.model.text_dim)
    return CaptionSet(
        embeddings=PhiloxNoise(seed).draw(0, 0, 0, shape), lengths=(config.model.text_len,)
    )


def shot(
    config: StreamConfig, backend: StudentBackend, before: int, anew: range | None, seed: int
) -> list[Tensor]:
    """Make a shot whose caption changes behind some chunks; returns the chunks from there on."""
    pipeline, noise = Pipeline(config, backend.new_film()), PhiloxNoise(11)
    past = config.cache.context_frames
    context = PhiloxNoise(5).draw(0, 0, 0, (1, past, *pipeline.latent_shape[2:]))
    pipeline.begin_shot(ShotInputs(1, context, [0] * past, captions(config, 20), 1))
    made = []
    for chunk in range(before + 2):
        if chunk == before:
            pipeline.change_captions(captions(config, seed))
            if anew is not None:
                kept, running = pipeline.overwritten, pipeline.running
                assert all(kept.can_remake(running, again, before - 1) for again in anew)
                pipeline.reread(anew)
        made.append(pipeline.run_chunk(chunk, noise).clone())
        pipeline.commit()
    pipeline.close()
    return made[before:]


@pytest.mark.parametrize("policy", POLICIES)
def test_with_the_same_caption_nothing_changes(
    policy: str, requested: Requested, policies: dict[str, StreamConfig]
) -> None:
    config = policies[policy]
    backend = registry.resolve("eager", requested(config, "reference"))
    wanted = shot(config, backend, 3, None, 20)
    for anew in (range(2, 3), range(3)):
        for one, other in zip(shot(config, backend, 3, anew, 20), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", POLICIES)
def test_with_another_one_every_chunk_counts(
    policy: str, requested: Requested, policies: dict[str, StreamConfig]
) -> None:
    config = policies[policy]
    backend = registry.resolve("eager", requested(config, "reference"))
    films = [shot(config, backend, 3, anew, 30)[0] for anew in (None, range(2, 3), range(3))]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert (films[one] - films[other]).norm() > 1e-4 * films[other].norm()


def test_it_leaves_what_a_clean_pass_with_the_caption_leaves(
    requested: Requested, policies: dict[str, StreamConfig]
) -> None:
    config = policies["no-context"]
    backend = registry.resolve("eager", requested(config, "reference"))
    pipeline, noise = Pipeline(config, backend.new_film()), PhiloxNoise(11)
    blank = torch.zeros(1, 0, *pipeline.latent_shape[2:])
    (first, _) = shot(config, backend, 1, range(1), 30)
    pipeline.begin_shot(ShotInputs(1, blank, [], captions(config, 20), 1))
    pipeline.run_chunk(0, noise)
    pipeline.change_captions(captions(config, 30))
    pipeline.commit()
    torch.testing.assert_close(pipeline.run_chunk(1, noise), first, rtol=1e-5, atol=1e-5)
    pipeline.close()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("before", "anew"), [(3, range(3)), (5, range(4, 5))])
def test_recorded_passes_do_the_same(
    policy: str,
    before: int,
    anew: range,
    requested: Requested,
    policies: dict[str, StreamConfig],
) -> None:
    config = policies[policy]
    wanted = shot(
        config, registry.resolve("eager", requested(config, "reference")), before, anew, 30
    )
    student = requested(config, "reference").student()
    recorded = CudaGraphBackend(student, config, capture=lambda: lambda function: function)
    for one, other in zip(shot(config, recorded, before, anew, 30), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
