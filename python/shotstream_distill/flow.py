"""Flow matching of the nano student: single frames, then chunks, causally from the start.

Called by ``python -m shotstream_distill train-nano``. One loop for all stages of the recipe;
checkpoints let a killed run go on. Few-step distillation follows in ``trajectory``.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .bank import Batch, LatentBank, Layout
from .fast_student import FastStudent
from .nano_state import Draws, NanoState, TextSide
from .paper.processes import Processes, join
from .paper.product import load_product
from .recipe import TrainConfig

_log = logging.getLogger("shotstream_distill.flow")
_REPORT_S = 30.0
_LEAST_CELLS = 4.0


def expand(value: Tensor) -> Tensor:
    """``[B, F]`` to ``[B, F, 1, 1, 1]``."""
    return value[..., None, None, None]


def auxiliary_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of species and coat colour per latent cell, subjects weighted up."""
    area, coat = batch.maps[:, :, :, 0], batch.maps[:, :, :, 1]
    size, frames = area.shape[:2]
    species = torch.zeros(size, frames, 5, *area.shape[-2:])
    color = torch.zeros(size, frames, 8, *area.shape[-2:])
    for who in (0, 1):
        for target, maps, label in (
            (species, area[:, :, who], batch.labels[:, who] + 1),
            (color, coat[:, :, who], batch.labels[:, 2 + who]),
        ):
            index = label.view(-1, 1, 1, 1, 1).expand(size, frames, 1, *area.shape[-2:])
            target.scatter_add_(2, index, maps[:, :, None])
    covered = species[:, :, 1:].sum(2).clamp(max=1)
    species[:, :, 0] = 1 - covered
    species = species / species.sum(2, keepdim=True).clamp(min=1e-3)
    logits = logits.float()
    weight = 1 + 4 * covered
    by_species = (species * logits[:, :, :5].log_softmax(2)).sum(2) * weight
    by_color = (color * logits[:, :, 5:].log_softmax(2)).sum(2)
    return -by_species.mean() - 3 * by_color.mean()


def shifted(u: Tensor, shift: float) -> Tensor:
    """Map uniform noise levels toward noise: ``shift u / (1 + (shift - 1) u)``."""
    return shift * u / (1 + (shift - 1) * u)


def subject_weights(batch: Batch, amount: float) -> Tensor:
    """Return loss weights ``[B, frames, 1, h, w]`` with mean 1, larger on characters."""
    weight = 1 + amount * batch.maps[:, :, :, 0].amax(2).unsqueeze(2)
    return weight / weight.mean()


def coarse_error(difference: Tensor, area: Tensor | None = None, cell: int = 4) -> Tensor:
    """Mean squared error of what is left of ``[B, frames, C, h, w]`` after pooling.

    What only the context tells (a scene's tint, its light, where its trees stand, the shade of a
    coat) is coarse, and in the plain mean it drowns in the detail. The minimum is the plain mean's.

    Args:
        difference: prediction minus target.
        area: ``[B, frames, characters, h, w]`` in [0, 1], where each character is, if known.
        cell: edge of the pooled cells, in latent cells.

    Returns:
        The squared means of cells, of whole frames and of whole characters, each weighted by a
        cell's size (frames and characters by its square).
    """
    flat = difference.float().flatten(0, 1)
    cells = F.avg_pool2d(flat, cell, ceil_mode=True, count_include_pad=False)
    frames = flat.mean((2, 3))
    if area is None:
        area = difference.new_zeros(*difference.shape[:2], 1, *difference.shape[-2:])
    size = area.sum((-1, -2))
    sums = torch.einsum("bfchw,bfkhw->bfkc", difference.float(), area)
    means = sums / size.clamp(min=1)[..., None]
    # A character of a few cells has no mean worth the name.
    seen = (size > _LEAST_CELLS).float()
    characters = (means.square().mean(-1) * seen).sum() / seen.sum().clamp(min=1)
    return cell * cells.square().mean() + cell * cell * (frames.square().mean() + characters)


def motion_error(difference: Tensor, weight: Tensor, group_frames: int) -> Tensor:
    """Mean squared error of what changes between neighbouring frames of a group.

    A walk moves by less than half a latent cell a frame. Beside the error of a whole frame that is
    little, and a network can leave it out: its characters stand still within a chunk, and the next
    chunk, which knows where they should be by then, begins with a jump. The minimum is the plain
    mean's.

    Args:
        difference: prediction minus target, ``[B, groups * group_frames, C, h, w]``.
        weight: of its elements; broadcasts to it.
        group_frames: frames of a group; the error of one alone is 0.
    """
    if group_frames == 1:
        return difference.new_zeros(())
    grouped = difference.unflatten(1, (-1, group_frames))
    weights = weight.expand_as(difference).unflatten(1, (-1, group_frames))
    change = grouped[:, :, 1:] - grouped[:, :, :-1]
    error: Tensor = change.square() * (weights[:, :, 1:] + weights[:, :, :-1]) / 2
    return error.mean()


def roughen(batch: Batch, amount: float) -> Tensor:
    """Add unlabelled noise to half of the shared frames, as generated history will have."""
    shape = batch.shared.shape[:2]
    level = torch.rand(shape) * amount * (torch.rand(shape[0], 1) < 0.5)
    return (1 - expand(level)) * batch.shared + expand(level) * torch.randn_like(batch.shared)


class FlowTrainer:
    """The loop over stages; several processes average their gradients, each on its own batches."""

    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        bank: LatentBank,
        processes: Processes | None = None,
    ) -> None:
        self.config = config
        self._run = run
        self._bank = bank
        self.model = FastStudent(config.model, shot_phase=config.shot_phase)
        self.text = TextSide()
        self.state = NanoState(
            config.model, muon_rate=config.muon_rate, adam_rate=config.adam_rate, seed=config.seed,
            processes=processes,
        )  # fmt: skip
        self._draws = Draws(config.seed + 1, self.state)

    def _layout(self, progress: float) -> Layout:
        for stage in self.config.stages:
            if progress < stage.share:
                return self._draws.common.choice(stage.layouts)
            progress -= stage.share
        return self._draws.common.choice(self.config.stages[-1].layouts)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the flow-matching loss and the auxiliary loss of a batch."""
        config, target = self.config, batch.target
        size, frames = target.shape[:2]
        times = shifted(torch.rand(size, frames // batch.group_frames), config.shift)
        times = times.repeat_interleave(batch.group_frames, 1)
        noise = torch.randn_like(target)
        noisy = (1 - expand(times)) * target + expand(times) * noise
        captions = self.text(self.state.working, batch, torch.rand(size) >= config.text_drop)
        sequence = batch.sequence(noisy, times, roughen(batch, config.history_noise))
        flow, logits = self.model(self.state.working, sequence, captions)
        weight = subject_weights(batch, config.subject_weight)
        difference = flow - (noise - target)
        error = (difference.square() * weight).mean()
        area = batch.maps[:, :, :, 0]
        error = error + config.coarse_weight * coarse_error(difference, area)
        if config.motion_weight:
            motion = motion_error(difference, weight, batch.group_frames)
            error = error + config.motion_weight * motion
        aux = torch.zeros(()) if logits is None else auxiliary_loss(logits, batch)
        return error, aux

    def train(self, duration_s: float) -> None:
        """Train until ``duration_s`` is spent (time before a resume counts)."""
        config, state = self.config, self.state
        clock = time.process_time if config.computing_time else time.monotonic
        checkpoint = self._run / "flow.pt"
        if checkpoint.is_file():
            state.load(checkpoint)
            self._draws = Draws(config.seed + 1, state)
            _log.info("resumed at step %d, %.0f s", state.step, state.elapsed_s)
        begun = clock() - state.elapsed_s
        saved = logged = clock()
        sums: dict[str, list[float]] = {}
        while (progress := state.processes.told((clock() - begun) / duration_s)) < 1:
            layout = self._layout(progress)
            batch = self._bank.sample(layout, self._draws.own)
            flow, aux = self.loss(batch)
            aux_weight = config.aux_weight * min(1.0, max(0.0, (1 - progress) / 0.34))
            (flow + aux_weight * aux).backward()
            scale = min(1.0, (state.step + 1) / config.warmup_steps)
            if progress > config.decay_from:
                scale *= 0.05 + 0.95 * (1 - progress) / (1 - config.decay_from)
            state.apply(scale, config.average)
            kind = f"{layout.context}+{layout.chunks}x{layout.group_frames}"
            sums.setdefault(kind, []).append(flow.item())
            sums.setdefault("aux", []).append(aux.item())
            now = clock()
            if now - logged > _REPORT_S:
                means = " ".join(f"{k} {sum(v) / len(v):.3f}" for k, v in sorted(sums.items()))
                done = len(sums["aux"])
                _log.info(
                    "step %d, %.0f s, %.2f s/step, eta %.0f s: %s", state.step, now - begun,
                    (now - logged) / done, duration_s - (now - begun), means,
                )  # fmt: skip
                logged, sums = now, {}
                self._bank.refresh()
            if now - saved > config.checkpoint_s:
                saved = now
                state.elapsed_s = now - begun
                state.save(checkpoint)
        state.elapsed_s = duration_s
        state.save(checkpoint)


def train_flow(
    run: Path,
    bank: Path,
    minutes: float,
    config: TrainConfig | None = None,
    start: Path | None = None,
) -> None:
    """Run or resume the flow-matching part.

    Args:
        run: folder of checkpoints, made if missing.
        bank: folder of latent shards.
        minutes: time of this part in total.
        config: the recipe.
        start: checkpoint whose weights a new run begins with; it can draw already, so only the
            recipe's last stage is trained.
    """
    torch.set_num_threads(1)
    config = config or TrainConfig()
    if start is not None:
        config = replace(config, stages=(replace(config.stages[-1], share=1.0),))
    with join("cpu") as processes:
        run.mkdir(parents=True, exist_ok=True)
        trainer = FlowTrainer(config, run, LatentBank(bank), processes)
        if start is not None:
            trainer.state.start_from(load_product(start))
        trainer.train(minutes * 60)
