"""Trains the evaluation's detector further on freshly drawn frames.

Called by ``python -m shotstream_distill tune-detector``. Frames are blurred and made noisy the way
a codec and a student do, so that the detector reads generated pictures as it reads drawn ones.
"""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from shotstream_rt.model.nano_vocabulary import FRAMINGS, PLACES

from .detectors import Detector, Segmenter
from .metrics.facts import fact_shares, read_facts
from .tune_codec import FIRST_SEED
from .world.characters import MASK_COAT, MASK_HAT, MASK_SCARF
from .world.render import SHOT_FRAMES, render_shot
from .world.story import make_story

_log = logging.getLogger("shotstream_distill.tune_detector")

JUDGED_SHOTS = 200
"""Unseen shots that before and after are measured on."""

_BATCH = 24
_RATE = 1e-3
_CLASS_WEIGHT = (0.5, 1.0, 1.0, 1.0, 1.0)
_REPORT_S = 30.0


def degrade(frames: Tensor, rng: random.Random) -> Tensor:
    """Blur or add noise at random; ``[B, 3, H, W]`` in [0, 1]."""
    draw = rng.random()
    if draw < 0.4:
        factor = 2 if draw < 0.3 else 4
        small = F.avg_pool2d(frames, factor)
        frames = F.interpolate(small, scale_factor=float(factor), mode="bilinear")
    if rng.random() < 0.5:
        frames = frames + 0.04 * torch.randn_like(frames)
    return frames


def draw_batch(rng: random.Random) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw frames ``[B, 3, H, W]``, masks ``[B, H, W]``, places ``[B]`` and framings ``[B]``."""
    pictures, masks, places, framings = [], [], [], []
    for _ in range(_BATCH):
        story = make_story(FIRST_SEED + rng.randrange(10_000_000))
        index = rng.randrange(len(story.shots))
        picture, mask = render_shot(story, index, [rng.randrange(SHOT_FRAMES)])
        pictures.append(picture)
        masks.append(mask)
        places.append(PLACES.index(story.setting.place))
        framings.append(FRAMINGS.index(story.shots[index].framing))
    return torch.cat(pictures), torch.cat(masks), torch.tensor(places), torch.tensor(framings)


def detection_loss(
    out: tuple[Tensor, Tensor, Tensor], masks: Tensor, places: Tensor, framings: Tensor
) -> Tensor:
    """Cross-entropies of species per pixel, of the marks on characters, of place and framing."""
    logits = out[0].float()
    small = masks[:, 1::2, 1::2]
    label = (small & 15).long()
    species = torch.where(label > 0, (label + 1) // 2, label)
    marks = torch.stack([(small & bit) > 0 for bit in (MASK_COAT, MASK_HAT, MASK_SCARF)], 1)
    inside = (species > 0)[:, None].float() * 2 + 0.1
    by_species = F.cross_entropy(logits[:, :5], species, weight=torch.tensor(_CLASS_WEIGHT))
    by_mark = F.binary_cross_entropy_with_logits(logits[:, 5:], marks.float(), weight=inside)
    by_scene = F.cross_entropy(out[1].float(), places) + F.cross_entropy(out[2].float(), framings)
    return 2 * by_species + 2 * by_mark + 0.5 * by_scene


def score_drawn(net: Segmenter, shots: int) -> dict[str, dict[str, float]]:
    """Score the detector on drawn frames of unseen stories: facts with their intervals."""
    facts, detector = [], Detector(net)
    for seed in range(FIRST_SEED - shots, FIRST_SEED):
        story = make_story(seed)
        frames, _ = render_shot(story, 0, [24])
        facts.append(read_facts(story, 0, detector.read(frames)))
    return {name: share.estimate().as_dict() for name, share in fact_shares(facts).items()}


def tune_detector(start: Path, out: Path, minutes: float, seed: int = 0) -> dict[str, object]:
    """Train for some minutes and write the weights.

    Args:
        start: weights to start from.
        out: file to write.
        minutes: wall time.
        seed: of frames and noise.

    Returns:
        ``before`` and ``after``: scores on drawn frames of unseen stories; ``steps``.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    net = Segmenter()
    net.load_state_dict({name: value.float() for name, value in load_file(str(start)).items()})
    before = score_drawn(net, JUDGED_SHOTS)
    net.train().requires_grad_(True)
    adam = torch.optim.AdamW(net.parameters(), lr=_RATE, weight_decay=1e-3)
    begun = logged = time.monotonic()
    steps = 0
    while (progress := (time.monotonic() - begun) / (60 * minutes)) < 1:
        frames, masks, places, framings = draw_batch(rng)
        if rng.random() < 0.5:
            frames, masks = frames.flip(-1), masks.flip(-1)
        with torch.autocast("cpu", torch.bfloat16):
            answers = net(degrade(frames, rng))
        loss = detection_loss(answers, masks, places, framings)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for group in adam.param_groups:
            group["lr"] = _RATE * min(1.0, (steps + 1) / 20) * (1 - progress)
        adam.step()
        steps += 1
        if time.monotonic() - logged > _REPORT_S:
            logged = time.monotonic()
            _log.info("step %d: loss %.4f", steps, loss.item())
    after = score_drawn(net, JUDGED_SHOTS)
    save_file({name: value.bfloat16() for name, value in net.state_dict().items()}, str(out))
    return {"before": before, "after": after, "steps": steps}
