"""Draws stories and encodes them into the latent bank that training reads.

Called by ``python -m shotstream_distill make-bank``; may run beside training, which picks up new
shards. Each shard holds all shots of some stories: leading latents, single-frame latents that
context sampling may pick, class maps, captions and labels.
"""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_rt.model.nano.codec import NanoCodec
from shotstream_rt.model.nano.vocabulary import (
    ACCESSORIES,
    ACTIONS,
    COLORS,
    FRAMINGS,
    PLACES,
    SPECIES,
    TIMES,
    TOKEN_IDS,
    canonical,
)

from .bank import CANDIDATE_FRAMES
from .captions import free_caption, story_captions
from .characters import MASK_COAT, MASK_HAT, MASK_SCARF
from .render import render_shot
from .story import WorldStory, make_story

_log = logging.getLogger("shotstream_distill.world.make_bank")

SHORT_LATENTS, LONG_LATENTS = 6, 21
LABEL_COLUMNS = 15
"""Numbers that ``labels`` gives of a shot."""

_CAPTION_TOKENS = 32
_FREE_FORMS = 3


def token_row(caption: str) -> list[int]:
    """Return a caption's token ids, padded."""
    tokens = canonical(caption)[0][:_CAPTION_TOKENS]
    ids = [TOKEN_IDS[token] for token in tokens]
    return ids + [0] * (_CAPTION_TOKENS - len(ids))


def class_maps(masks: Tensor) -> Tensor:
    """Pool masks to latent cells.

    Args:
        masks: uint8 ``[T, H, W]`` of ``render_shot``.

    Returns:
        ``[T, 2, 3, h, w]`` in [0, 1]: per character the share of area, coat and accessory.
    """
    label = (masks & 15).int()
    maps = []
    for who in (0, 1):
        own = (label > 0) & ((label - 1) % 2 == who)
        coat = own & ((masks & MASK_COAT) > 0)
        worn = own & ((masks & (MASK_HAT | MASK_SCARF)) > 0)
        maps.append(torch.stack((own, coat, worn), 1))
    stacked = torch.stack(maps, 1).float()
    pooled = F.avg_pool2d(stacked.flatten(0, 2)[:, None], 8)
    return pooled.reshape(-1, 2, 3, *pooled.shape[-2:])


def labels(story: WorldStory, shot_index: int) -> list[int]:
    """Return what a shot shows as integers (order is part of the shard format).

    Who, framing, action, place; species, colours, accessories and their colours of both
    characters; time of day; number of the shot, and of shots. What is not there is counted after
    the last of its kind (accessories: before the first).
    """
    shot, cast, time_of_day = story.shots[shot_index], story.characters, story.setting.time
    worn = [ACCESSORIES.index(c.accessory) + 1 if c.accessory else 0 for c in cast]
    worn_colors = [COLORS.index(c.accessory_color) if c.accessory_color else 8 for c in cast]
    return [
        shot.who, FRAMINGS.index(shot.framing), ACTIONS.index(shot.action),
        PLACES.index(story.setting.place),
        *[SPECIES.index(c.species) for c in cast], *[COLORS.index(c.color) for c in cast],
        *worn, *worn_colors, len(TIMES) if time_of_day is None else TIMES.index(time_of_day),
        shot_index, len(story.shots),
    ]  # fmt: skip


def encode_shot(
    codec: NanoCodec, story: WorldStory, shot_index: int, latents: int
) -> dict[str, Tensor]:
    """Draw and encode one shot, ``latents`` leading latent frames of it.

    Args:
        codec: the codec.
        story: the story.
        shot_index: number of the shot.
        latents: leading latent frames to encode.
    """
    leading = 4 * latents - 3
    frames = sorted({*range(leading), *CANDIDATE_FRAMES})
    pictures, masks = render_shot(story, shot_index, frames)
    pictures = pictures * 2 - 1
    single = pictures[[frames.index(f) for f in CANDIDATE_FRAMES]]
    maps = class_maps(masks[:leading])
    grouped = maps[1:].unflatten(0, (-1, 4)).mean(1)
    global_caption, texts = story_captions(story)
    rng = random.Random(story.seed * 97 + shot_index)
    captions = [f"{global_caption}shot{shot_index}:{texts[shot_index]}"]
    captions += [free_caption(story, shot_index, rng) for _ in range(_FREE_FORMS)]
    clip = pictures[:leading].transpose(0, 1)[None]
    return {
        "lat": codec.encode_clip(clip)[0].bfloat16(),
        "cand": codec.encode_frames(single).bfloat16(),
        "maps": (torch.cat((maps[:1], grouped)) * 255).round().to(torch.uint8),
        "tok": torch.tensor([token_row(c) for c in captions], dtype=torch.uint8),
        "lab": torch.tensor(labels(story, shot_index), dtype=torch.int16),
        "tint": torch.tensor(story.setting.tint),
    }


def make_bank(
    folder: Path, codec: Path, *, shards: int, stories: int = 64, first_seed: int = 0,
    long: bool = False,
) -> None:  # fmt: skip
    """Write shards.

    Args:
        folder: where to, made if missing.
        codec: ``codec.safetensors``.
        shards: how many.
        stories: stories of a shard.
        first_seed: seed of the first story; the others follow.
        long: encode whole shots instead of their beginnings.

    Cost:
        About 0.2 s a shot (0.3 s long) and 100 kB (250 kB) on one CPU core.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    net = NanoCodec.load(codec)
    latents = LONG_LATENTS if long else SHORT_LATENTS
    for index in range(shards):
        begun = time.monotonic()
        rows: list[dict[str, Tensor]] = []
        first = first_seed + index * stories
        for seed in range(first, first + stories):
            story = make_story(seed)
            rows += [encode_shot(net, story, shot, latents) for shot in range(len(story.shots))]
        shard = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        path = folder / f"{'L' if long else 'S'}_{first:08d}.pt"
        partial = path.with_suffix(".partial")
        torch.save(shard, partial)
        partial.replace(path)
        _log.info("%s: %d shots, %.0f s", path.name, len(rows), time.monotonic() - begun)
