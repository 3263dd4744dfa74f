"""Random inputs of a student's shots: captions and context of the right shape, from a seed."""

from __future__ import annotations

import torch
from torch import Tensor

from shotstream_rt import _native
from shotstream_rt.config import StreamConfig
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import NoiseSource
from shotstream_rt.shot_inputs import ShotInputs

FRAMES_PER_LATENT = 4
"""Frames that a latent frame after a shot's first one decodes to."""


def frames_of(latents: int) -> int:
    """Return the frames that a shot of so many latent frames decodes to."""
    return 1 + FRAMES_PER_LATENT * (latents - 1)


def random_inputs(
    config: StreamConfig, *, shots: int, text_tokens: int, seed: int
) -> list[ShotInputs]:
    """Make random inputs of a film's first shots.

    The context of a later shot has the frame flags a session would choose, with random latents.

    Args:
        config: shapes of student, context and captions.
        shots: how many shots.
        text_tokens: real tokens of each caption.
        seed: of captions and context.
    """
    generator = torch.Generator().manual_seed(seed)
    model, budget = config.model, config.cache.context_frames
    latent_shape = (1, budget, model.in_dim, model.latent_height, model.latent_width)
    rows = torch.zeros(shots, model.text_len, model.text_dim)
    rows[:, :text_tokens] = torch.randn(shots, text_tokens, model.text_dim, generator=generator)
    inputs = []
    for shot in range(shots):
        if shot == 0:
            context, flags = torch.zeros(latent_shape), [0] * budget
        else:
            context = torch.randn(latent_shape, generator=generator)
            lengths = [frames_of(config.shot.shot_frames)] * shot
            flags = [past for past, _ in _native.sample_context(lengths, budget)] if budget else []
        past = sorted(set(flags)) if shot and config.shot.multi_caption else []
        seen = [*past, shot]
        captions = CaptionSet(embeddings=rows[seen], lengths=(text_tokens,) * len(seen)).checked()
        inputs.append(
            ShotInputs(
                shot=shot,
                context=context,
                flags=flags,
                captions=captions,
                target_flag=flags[-1] + 1 if flags else 1,
            )
        )
    return inputs


def run_shot(
    pipeline: Pipeline,
    inputs: ShotInputs,
    noise: NoiseSource,
    *,
    chunks: int | None = None,
    commit_last: bool = False,
) -> list[Tensor]:
    """Run a shot's student passes as a session does.

    Args:
        pipeline: to run.
        inputs: of the shot.
        noise: of the film.
        chunks: run only so many; default: all.
        commit_last: run the last chunk's clean pass too, which nothing reads; the original does.

    Returns:
        Latents of each chunk, in new memory.
    """
    chunks = chunks or pipeline.config.shot.chunks
    pipeline.begin_shot(inputs)
    latents = []
    for chunk in range(chunks):
        latents.append(pipeline.run_chunk(chunk, noise).clone())
        if commit_last or chunk + 1 < chunks:
            pipeline.commit()
    return latents
