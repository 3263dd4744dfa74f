"""Trains the codec's decoder further on freshly drawn clips; the encoder stays as it is.

Called by ``python -m shotstream_distill tune-codec``. With the encoder frozen every latent bank and
every student stays valid. Characters count more than background, edges more than areas.
"""

from __future__ import annotations

import logging
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from shotstream_rt.model.nano_codec import NanoCodecNet

from .muon import Muon
from .world.render import SHOT_FRAMES, render_shot
from .world.story import make_story

_log = logging.getLogger("shotstream_distill.tune_codec")

FIRST_SEED = 500_000_000
"""Stories from here on are the codec's and the detector's; no student trains on them."""

JUDGED_CLIPS = 32
"""Unseen clips that before and after are measured on."""

_CLIP_FRAMES = 9
_STRIDES = (1, 1, 1, 2, 3)
_BATCH = 4
_SUBJECT_WEIGHT = 3.0
_LATENT_NOISE = 0.1
_RATE = 2e-4
_REPORT_S = 30.0


def draw_clip(rng: random.Random) -> tuple[Tensor, Tensor]:
    """Draw a random clip: frames ``[9, 3, H, W]`` in [-1, 1] and subject masks ``[9, 1, H, W]``."""
    story = make_story(FIRST_SEED + rng.randrange(10_000_000))
    stride = rng.choice(_STRIDES)
    first = rng.randrange(SHOT_FRAMES - stride * (_CLIP_FRAMES - 1))
    frames = range(first, first + stride * _CLIP_FRAMES, stride)
    pictures, masks = render_shot(story, rng.randrange(len(story.shots)), frames)
    return pictures * 2 - 1, (masks > 0).float()[:, None]


def reconstruction_loss(out: Tensor, wanted: Tensor, masks: Tensor) -> Tensor:
    """Absolute, squared and gradient error, characters (one pixel wider) weighted up."""
    weight = 1 + _SUBJECT_WEIGHT * F.max_pool2d(masks.flatten(0, 1), 3, 1, 1).view_as(masks)
    weight = weight / weight.mean()
    error = out - wanted
    across = (error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    flat = (error.abs() + 2 * error.square()) * weight
    return flat.mean() + 0.5 * (across.mean() + down.mean())


@torch.no_grad()
def mean_psnr(net: NanoCodecNet, clips: list[tuple[Tensor, Tensor]]) -> float:
    """Mean peak signal-to-noise ratio of clips in dB."""
    values = []
    for frames, _ in clips:
        out, _ = net.decode(net.encode(frames[None]), None)
        error = float(((out.clamp(-1, 1) - frames[None]) / 2).square().mean())
        values.append(-10 * math.log10(error))
    return sum(values) / len(values)


def tune_codec(start: Path, out: Path, minutes: float, seed: int = 0) -> dict[str, float]:
    """Train the decoder for some minutes and write the better of both codecs.

    Args:
        start: weights to start from.
        out: file to write; ``start`` is copied if training did not help.
        minutes: wall time.
        seed: of clips and noise.

    Returns:
        ``psnr_before_db``, ``psnr_after_db`` on unseen clips and ``steps``.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng, judge = random.Random(seed), random.Random(seed + 12345)
    net = NanoCodecNet()
    original = load_file(str(start))
    net.load_state_dict({name: value.float() for name, value in original.items()})
    held_out = [draw_clip(judge) for _ in range(JUDGED_CLIPS)]
    before = mean_psnr(net, held_out)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith("decoder"))
    hidden = [p for n, p in net.named_parameters() if p.requires_grad and p.ndim == 4]
    matrices = [torch.nn.Parameter(p.detach().flatten(1)) for p in hidden]
    muon = Muon(matrices, learning_rate=_RATE, weight_decay=0.0)
    biases = [p for p in net.parameters() if p.requires_grad and p.ndim == 1]
    adam = torch.optim.AdamW(biases, lr=_RATE, weight_decay=0.0)
    begun = logged = time.monotonic()
    steps = 0
    while (progress := (time.monotonic() - begun) / (60 * minutes)) < 1:
        clips = [draw_clip(rng) for _ in range(_BATCH)]
        frames, masks = (torch.stack(parts) for parts in zip(*clips, strict=True))
        with torch.autocast("cpu", torch.bfloat16):
            latents = net.encode(frames)
            level = _LATENT_NOISE * torch.rand(_BATCH, 1, 1, 1, 1)
            made, _ = net.decode(latents + level * torch.randn_like(latents), None)
        loss = reconstruction_loss(made.float(), frames, masks)
        loss.backward()
        scale = min(1.0, (steps + 1) / 20) * (1 - progress)
        for matrix, weight in zip(matrices, hidden, strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        torch.nn.utils.clip_grad_norm_([*matrices, *biases], 1.0)
        muon.step(scale)
        for group in adam.param_groups:
            group["lr"] = _RATE * scale
        adam.step()
        with torch.no_grad():
            for matrix, weight in zip(matrices, hidden, strict=True):
                weight.copy_(matrix.view_as(weight))
        net.zero_grad(set_to_none=True)
        steps += 1
        if time.monotonic() - logged > _REPORT_S:
            logged = time.monotonic()
            _log.info("step %d: loss %.4f", steps, loss.item())
    after = mean_psnr(net, held_out)
    if after > before:
        tuned = {name: value.to(original[name].dtype) for name, value in net.state_dict().items()}
    else:
        tuned = original
    save_file(tuned, str(out))
    return {"psnr_before_db": before, "psnr_after_db": after, "steps": steps}
