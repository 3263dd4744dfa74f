"""The codec as it learns: its recipe, its loss, its weights and optimisers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from shotstream_rt.errors import ConfigError
from shotstream_rt.model.nano.codec import NanoCodecNet

from ..common.muon import Muon
from ..common.processes import Processes
from ..common.product import write_whole
from ..common.warm_start import warm_start
from ..common.working_dtype import working_dtype
from .clips import stack
from .measured import LIMIT, lift_limits, measure_features, measure_latents
from .student_errors import overdrive, rough_latents, wild_cells


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


def reconstruction_loss(out: Tensor, wanted: Tensor, masks: Tensor, subject: float) -> Tensor:
    """Absolute, squared and gradient error, characters (one pixel wider) weighted up.

    Args:
        out: decoded pictures ``[B, T, 3, H, W]`` in [-1, 1].
        wanted: the drawn ones, alike.
        masks: ``[B, T, 1, H, W]``, 1 on characters.
        subject: extra weight of characters.
    """
    weight = 1 + subject * F.max_pool2d(masks.flatten(0, 1), 3, 1, 1).view_as(masks)
    weight = weight / weight.mean()
    error = out - wanted
    across = (error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]
    down = (error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]
    flat = (error.abs() + 2 * error.square()) * weight
    return flat.mean() + 0.5 * (across.mean() + down.mean())


def _may_begin_new(name: str, held: Collection[str]) -> bool:
    """Whether a name is of a block of which nothing is held; the block begins as the identity."""
    block = name.rsplit(".", 2)[0] + "."
    new = name.count(".") > 1 and not any(other.startswith(block) for other in held)
    return new or name.endswith(LIMIT)  # which is measured at the end


class CodecState:
    """Weights, averages and optimisers of a run.

    Args:
        config: the recipe.
        start: weights to begin with; ``None`` for new ones.
        seed: of weights and noise.
    """

    def __init__(self, config: CodecConfig, start: Path | None, seed: int) -> None:
        torch.manual_seed(seed)
        self.config = config
        self.processes = Processes()
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
        self.step = 0
        self.elapsed_s = 0.0

    def learn(self, clips: list[tuple[Tensor, Tensor]], scale: float) -> float:
        """Take one step on clips; ``scale`` multiplies the rate. Returns the loss."""
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
        keep = min(config.average, self.step / (self.step + 10))
        with torch.no_grad():
            for matrix, weight in zip(self._matrices, self._hidden, strict=True):
                weight.copy_(matrix.view_as(weight))
            for name, parameter in self._trained.items():
                self.average[name].lerp_(parameter, 1 - keep)
        self.net.zero_grad(set_to_none=True)
        self.step += 1
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
            "steps": self.step,
            "elapsed_s": self.elapsed_s,
        }
        write_whole(path, data)

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
        self.step, self.elapsed_s = data["steps"], data["elapsed_s"]
