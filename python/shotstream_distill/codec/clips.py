"""Clips of the drawn world that the codec is trained and judged on."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from ..world.render import SHOT_FRAMES, render_shot
from ..world.story import make_story

FIRST_SEED = 500_000_000
"""Stories from here on are the codec's and the detector's; no student trains on them."""

_STRIDES = (1, 1, 1, 1, 2, 3)


def draw_clip(rng: random.Random, frames: int) -> tuple[Tensor, Tensor]:
    """Draw a random clip: uint8 frames ``[T, 3, H, W]`` and bool subject masks ``[T, 1, H, W]``."""
    story = make_story(FIRST_SEED + rng.randrange(10_000_000))
    stride = rng.choice(_STRIDES)
    first = rng.randrange(SHOT_FRAMES - stride * (frames - 1))
    wanted = range(first, first + stride * frames, stride)
    pictures, masks = render_shot(story, rng.randrange(len(story.shots)), wanted)
    return (pictures * 255).round().to(torch.uint8), (masks > 0)[:, None]


def stack(clips: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return frames ``[B, T, 3, H, W]`` in [-1, 1] and masks ``[B, T, 1, H, W]`` as float."""
    frames, masks = (torch.stack(parts) for parts in zip(*clips, strict=True))
    return frames.float() / 127.5 - 1, masks.float()
