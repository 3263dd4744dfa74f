"""Trains the nano codec on drawn clips; resumable.

Called by ``python -m shotstream_distill train-codec``. Characters count more than background, edges
more than areas. With a frozen encoder every latent bank and every student stays valid.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from shotstream_rt.errors import ConfigError
from shotstream_rt.model.nano_codec import CausalBlock, NanoCodecNet

from .muon import Muon
from .student_errors import overdrive, rough_latents, wild_cells
from .warm_start import warm_start
from .working_dtype import working_dtype
from .world.render import SHOT_FRAMES, render_shot
from .world.story import make_story

_log = logging.getLogger("shotstream_distill.train_codec")

FIRST_SEED = 500_000_000
"""Stories from here on are the codec's and the detector's; no student trains on them."""

JUDGED_CLIPS = 48
"""Unseen clips that before and after are measured on."""

HEADROOM = 0.85
"""Length of the decoder's limits, in what the farthest pixel of clean clips needs.

It costs nano .01 dB; 0.8 costs .05, 0.7 costs 1.4.
"""

_STRIDES = (1, 1, 1, 1, 2, 3)
_LIMIT = ".limit"
_FLATTEST = 1e-3  # shortest axis of a block's features, in longest ones
_MEASURED_AT_ONCE = 20
_JUDGED_ROUGHNESS = 0.3
_REPORT_S = 60.0
_JUDGED_EVERY = 5  # reports: judging takes as long as many steps


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecConfig:
    """Recipe of the codec.

    Attributes:
        clip_frames: frames of a clip, 1 + 4k.
        batch: clips of a step.
        bank: clips kept drawn; one is replaced at every step.
        rate: learning rate of the convolutions (Muon) and, alike, of the rest (AdamW).
        subject_weight: extra weight of characters.
        latent_noise: largest noise on latents in training, in their standard deviations.
        rough_share: share of clips whose latents are as wrong as a few-step student's.
        rough_noise: largest noise on those (``rough_latents``).
        rough_gain: largest factor on those (``overdrive``).
        average: of the weights that are written.
        decay_from: progress from which the rate falls linearly to zero.
        freeze_encoder: train the decoder alone.
        keep_latents: weight of the mean squared distance between the latents and those of the
            weights begun with, in standard deviations; above 0 their statistics stay, too.
    """

    clip_frames: int = 5
    batch: int = 4
    bank: int = 1500
    rate: float = 2e-3
    subject_weight: float = 3.0
    latent_noise: float = 0.1
    rough_share: float = 0.0
    rough_noise: float = 0.5
    rough_gain: float = 1.6
    average: float = 0.998
    decay_from: float = 0.6
    freeze_encoder: bool = False
    keep_latents: float = 0.0


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


def reconstruction_loss(out: Tensor, wanted: Tensor, masks: Tensor, subject: float) -> Tensor:
    """Absolute, squared and gradient error, characters (one pixel wider) weighted up."""
    weight = 1 + subject * F.max_pool2d(masks.flatten(0, 1), 3, 1, 1).view_as(masks)
    weight = weight / weight.mean()
    error = out - wanted
    across = (error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    flat = (error.abs() + 2 * error.square()) * weight
    return flat.mean() + 0.5 * (across.mean() + down.mean())


@torch.no_grad()
def judge(
    net: NanoCodecNet, clips: list[tuple[Tensor, Tensor]], noise: float = 0.0
) -> dict[str, float]:
    """Return the mean peak signal-to-noise ratio in dB of frames, and of characters alone.

    Args:
        net: the codec.
        clips: of ``draw_clip``.
        noise: what is added to the latents, see ``rough_latents``; always the same.
    """
    generator = torch.Generator().manual_seed(0)
    level = torch.full((1, 1, 1, 1, 1), noise)
    whole, subject = [], []
    for clip in clips:
        frames, masks = stack([clip])
        out, _ = net.decode(rough_latents(net.encode(frames), level, generator), None)
        squared = ((out.clamp(-1, 1) - frames) / 2).square()
        whole.append(-10 * math.log10(float(squared.mean())))
        if masks.sum() > 0:
            error = float((squared * masks).sum() / (3 * masks.sum()))
            subject.append(-10 * math.log10(error))
    return {
        "psnr_db": sum(whole) / len(whole),
        "psnr_subject_db": sum(subject) / max(len(subject), 1),
    }


@torch.no_grad()
def measure_latents(net: NanoCodecNet, clips: list[tuple[Tensor, Tensor]]) -> None:
    """Set the statistics that latents are normalised with."""
    net.latent_mean.zero_()
    net.latent_std.fill_(1.0)
    latents = net.encode(stack(clips)[0]).transpose(1, 2).transpose(0, 1).flatten(1)
    net.latent_mean.copy_(latents.mean(1))
    net.latent_std.copy_(latents.std(1))


def lift_limits(net: NanoCodecNet) -> list[Tensor]:
    """Take away the limits of the decoder's features; returns them, to be measured anew."""
    limits = [value for name, value in net.named_buffers() if name.endswith(_LIMIT)]
    for limit in limits:
        limit.fill_(math.inf)
    return limits


@torch.no_grad()
def measure_features(net: NanoCodecNet, clips: list[tuple[Tensor, Tensor]]) -> None:
    """Limit the decoder's features to what clean clips need.

    The ellipsoid's axes are to each other as the channels' root mean squares, and nearly as long
    as the pixel farthest out asks for.
    """
    limits = lift_limits(net)
    blocks = [m for m in net.modules() if isinstance(m, CausalBlock) and m.limit is not None]

    def measure(note: Callable[[int, Tensor], None]) -> None:
        hooks = [
            block.register_forward_pre_hook(lambda _, inputs, index=index: note(index, inputs[0]))
            for index, block in enumerate(blocks)
        ]
        for first in range(0, len(clips), _MEASURED_AT_ONCE):
            frames, _ = stack(clips[first : first + _MEASURED_AT_ONCE])
            net.decode(net.encode(frames), None)
        for hook in hooks:
            hook.remove()

    axes = [torch.zeros_like(limit) for limit in limits]
    radii = [torch.zeros(()) for _ in limits]

    def add_up(index: int, x: Tensor) -> None:
        axes[index] += x.square().sum((0, 2, 3))

    measure(add_up)
    for axis in axes:
        axis.sqrt_().clamp_(min=axis.amax() * _FLATTEST)

    def farthest(index: int, x: Tensor) -> None:
        radius = (x / axes[index].view(-1, 1, 1)).square().mean(1).amax().sqrt()
        radii[index] = torch.maximum(radii[index], radius)

    measure(farthest)
    for limit, axis, radius in zip(limits, axes, radii, strict=True):
        limit.copy_(HEADROOM * axis * radius)


def _may_begin_new(name: str, held: Collection[str]) -> bool:
    """Whether a name is of a block of which nothing is held; the block begins as the identity."""
    block = name.rsplit(".", 2)[0] + "."
    new = name.count(".") > 1 and not any(other.startswith(block) for other in held)
    return new or name.endswith(_LIMIT)  # which is measured at the end


class CodecTrainer:
    """The loop; its state is one file."""

    def __init__(self, config: CodecConfig, start: Path | None, seed: int) -> None:
        torch.manual_seed(seed)
        self.config = config
        self._rng = random.Random(seed)
        if (config.freeze_encoder or config.keep_latents > 0) and start is None:
            raise ConfigError(
                "freeze_encoder, keep_latents: got no weights to start from, wanted a codec whose "
                "encoder or latents stay as they are; name one with --start"
            )
        self.net = NanoCodecNet()
        self._kept: NanoCodecNet | None = None
        if start is not None:
            warm_start(self.net, start, "codec", _may_begin_new)
            lift_limits(self.net)
        if start is not None and config.keep_latents > 0:
            self._kept = NanoCodecNet.load(start)
        trained = {
            name: parameter
            for name, parameter in self.net.named_parameters()
            if name.startswith("decoder") or not config.freeze_encoder
        }
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name in trained)
        self._hidden = [p for p in trained.values() if p.ndim == 4]
        self._matrices = [torch.nn.Parameter(p.detach().flatten(1)) for p in self._hidden]
        self._muon = Muon(self._matrices, learning_rate=config.rate, weight_decay=0.0)
        self._biases = [p for p in trained.values() if p.ndim == 1]
        self._adam = torch.optim.AdamW(self._biases, lr=config.rate, weight_decay=0.0)
        self.average = {name: p.detach().clone() for name, p in trained.items()}
        self._trained = trained
        self.steps = 0
        self.elapsed_s = 0.0

    def step(self, clips: list[tuple[Tensor, Tensor]], scale: float) -> float:
        """Take one step; returns the loss."""
        config = self.config
        frames, masks = stack(clips)
        dtype = working_dtype()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            latents = self.net.encode(frames)
            moved, decoded = torch.zeros(()), latents
            rough = torch.rand(len(clips), 1, 1, 1, 1) < config.rough_share
            if self._kept is not None:
                with torch.no_grad():
                    kept = self._kept.encode(frames)
                moved = (latents - kept).float().square().mean()
                # A student trained before makes latents of the kept kind.
                share = rough * torch.rand(len(clips), 1, 1, 1, 1)
                decoded = latents + share * (kept - latents)
            decoded = overdrive(decoded, torch.where(rough[:, 0], config.rough_gain, 1.0))
            most = torch.where(rough, config.rough_noise, config.latent_noise)
            level = most * torch.rand(len(clips), 1, 1, 1, 1)
            made, _ = self.net.decode(wild_cells(rough_latents(decoded, level), level), None)
        loss = reconstruction_loss(made.float(), frames, masks, config.subject_weight)
        loss = loss + config.keep_latents * moved
        loss.backward()
        for matrix, weight in zip(self._matrices, self._hidden, strict=True):
            matrix.grad = None if weight.grad is None else weight.grad.flatten(1)
        torch.nn.utils.clip_grad_norm_([*self._matrices, *self._biases], 1.0)
        self._muon.step(scale)
        for group in self._adam.param_groups:
            group["lr"] = config.rate * scale
        self._adam.step()
        keep = min(config.average, self.steps / (self.steps + 10))
        with torch.no_grad():
            for matrix, weight in zip(self._matrices, self._hidden, strict=True):
                weight.copy_(matrix.view_as(weight))
            for name, parameter in self._trained.items():
                self.average[name].lerp_(parameter, 1 - keep)
        self.net.zero_grad(set_to_none=True)
        self.steps += 1
        return loss.item()

    def averaged(self, clips: list[tuple[Tensor, Tensor]]) -> NanoCodecNet:
        """Return the codec that is written: averaged weights, statistics of ``clips``."""
        net = NanoCodecNet()
        net.load_state_dict(self.net.state_dict() | self.average)
        if not self.config.freeze_encoder and self._kept is None:
            measure_latents(net, clips)
        measure_features(net, clips)
        return net

    @torch.no_grad()
    def moved(self, net: NanoCodecNet, clips: list[tuple[Tensor, Tensor]]) -> float:
        """Return the root mean square distance of a codec's latents from those to be kept."""
        if self._kept is None:
            return 0.0
        frames, _ = stack(clips)
        return float((net.encode(frames) - self._kept.encode(frames)).square().mean().sqrt())

    def save(self, path: Path) -> None:
        """Write everything needed to go on; replaces the file in one move."""
        data = {
            "net": self.net.state_dict(),
            "average": self.average,
            "muon": self._muon.state(),
            "adam": self._adam.state_dict(),
            "steps": self.steps,
            "elapsed_s": self.elapsed_s,
        }
        partial = path.with_suffix(".partial")
        torch.save(data, partial)
        partial.replace(path)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Go on from a file of ``save``."""
        data = torch.load(path, weights_only=True)
        self.net.load_state_dict(data["net"])
        for matrix, weight in zip(self._matrices, self._hidden, strict=True):
            matrix.copy_(weight.flatten(1))
        for name, value in data["average"].items():
            self.average[name].copy_(value)
        self._muon.restore(data["muon"])
        self._adam.load_state_dict(data["adam"])
        self.steps, self.elapsed_s = data["steps"], data["elapsed_s"]


def train_codec(
    run: Path, start: Path | None, minutes: float, config: CodecConfig | None = None, seed: int = 0
) -> dict[str, float]:
    """Run or resume the training; writes ``codec.safetensors`` into the run folder.

    Args:
        run: folder of checkpoints, made if missing.
        start: weights to start a new run from; ``None`` for none.
        minutes: wall time in total.
        config: the recipe.
        seed: of clips and noise.

    Returns:
        ``psnr_db`` and ``psnr_subject_db`` on unseen clips, on rough latents too if those were
        trained on, ``moved`` if latents were to be kept, and ``steps``.
    """
    torch.set_num_threads(1)
    # Blocks that begin as the identity have gradients below float32's normal numbers, on which a
    # CPU's convolutions are ten times slower.
    torch.set_flush_denormal(True)
    run.mkdir(parents=True, exist_ok=True)
    config = config or CodecConfig()
    trainer = CodecTrainer(config, start, seed)
    checkpoint, out = run / "codec.pt", run / "codec.safetensors"
    if checkpoint.is_file():
        trainer.load(checkpoint)
        _log.info("resumed at step %d, %.0f s", trainer.steps, trainer.elapsed_s)
    judge_rng = random.Random(seed + 12345)
    held_out = [draw_clip(judge_rng, 9) for _ in range(JUDGED_CLIPS)]
    rng = random.Random(seed + trainer.steps)
    clips = [draw_clip(rng, config.clip_frames) for _ in range(config.bank)]

    def report(net: NanoCodecNet) -> dict[str, float]:
        """Measure a codec, on rough latents too where it learns to read them."""
        figures = judge(net, held_out)
        if config.rough_share > 0:
            rough = judge(net, held_out, _JUDGED_ROUGHNESS)
            figures |= {f"rough_{name}": value for name, value in rough.items()}
        if config.keep_latents > 0:
            figures["moved"] = trainer.moved(net, held_out)
        return figures

    _log.info("%d clips drawn, step %d: %s", len(clips), trainer.steps,
              report(trainer.averaged(clips[:200])))  # fmt: skip
    begun = time.monotonic() - trainer.elapsed_s
    logged, losses, reports = time.monotonic(), [], 0
    while (progress := (time.monotonic() - begun) / (60 * minutes)) < 1:
        scale = min(1.0, (trainer.steps + 1) / 50)
        if progress > config.decay_from:
            scale *= (1 - progress) / (1 - config.decay_from)
        clips[rng.randrange(len(clips))] = draw_clip(rng, config.clip_frames)
        losses.append(trainer.step(rng.sample(clips, config.batch), scale))
        if time.monotonic() - logged > _REPORT_S:
            logged = time.monotonic()
            trainer.elapsed_s = logged - begun
            trainer.save(checkpoint)
            mean = sum(losses) / len(losses)
            _log.info("step %d, %.0f s: loss %.4f", trainer.steps, trainer.elapsed_s, mean)
            losses = []
            reports += 1
            if reports % _JUDGED_EVERY == 0:
                _log.info("unseen clips: %s", report(trainer.averaged(clips[:200])))
    trainer.elapsed_s = 60 * minutes
    trainer.save(checkpoint)
    final = trainer.averaged(clips[:400])
    partial = out.with_suffix(".partial")
    save_file({n: v.bfloat16() for n, v in final.state_dict().items()}, str(partial))
    partial.replace(out)
    return {**report(final), "steps": float(trainer.steps)}
