"""What all stages of a run share, and what a stage is to the trainer.

Made by the run, passed to every stage. Holds data, text, codec and schedule; makes networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from shotstream_rt.config import StreamConfig
from shotstream_rt.errors import WeightsError
from shotstream_rt.loading.student_weights import student_shapes
from shotstream_rt.model.codec import LatentCodec
from shotstream_rt.model.nano.text import NanoTextNet
from shotstream_rt.plan.schedule import Schedule

from ..common.processes import Processes, shard
from ..common.product import TEXT, Weights
from ..common.step_rng import StepRng
from .adapters import add_adapters
from .learner import Learner
from .network import TrainNet
from .rollout import RolloutPlan
from .run_config import RunConfig
from .shot_batch import Conditioning, ShotBatch, Words, condition
from .text_side import NanoText, TextSide

_SHEET_SHOTS = 4


def network_of(weights: Weights, stream: StreamConfig, *, recompute: bool = False) -> TrainNet:
    """Make a network of some weights, in float32.

    Args:
        weights: the student under bare names.
        stream: shapes.
        recompute: whether blocks forget their activations.

    Raises:
        WeightsError: they are of another shape.
    """
    with torch.device("meta"):
        net = TrainNet(stream.model, recompute=recompute, shot_phase=stream.shot.shot_phase)
    wanted = student_shapes(stream.model)
    wrong = [n for n, s in wanted.items() if n not in weights or tuple(weights[n].shape) != s]
    if wrong:
        got = tuple(weights[wrong[0]].shape) if wrong[0] in weights else "nothing"
        raise WeightsError(
            f"start: {len(wrong)} tensor(s) do not fit the model, first {wrong[0]!r}: got "
            f"{got}, wanted {wanted[wrong[0]]}; use weights of the same shape"
        )
    values = {name: weights[name].to(torch.float32, copy=True) for name in wanted}
    net.load_state_dict(values, assign=True)
    return net


def text_of(weights: Weights) -> NanoTextNet:
    """Make the nano text encoder that came with some weights, in float32.

    Raises:
        WeightsError: they hold none that fits.
    """
    own = {k.removeprefix(TEXT): v.float() for k, v in weights.items() if k.startswith(TEXT)}
    net = NanoTextNet.fitting(own)
    try:
        net.load_state_dict(own)
    except RuntimeError as error:
        raise WeightsError(
            f"text: these weights hold no nano text encoder that fits: {error}"
        ) from error
    return net


class ShotSource(Protocol):
    """Training shots."""

    def shots(self, rng: StepRng, count: int, frames: int) -> ShotBatch:
        """Draw next-shot samples with their true context.

        Args:
            rng: random numbers.
            count: samples.
            frames: latent frames of each target.
        """
        ...

    def stories(self, rng: StepRng, count: int, shots: int) -> Words:
        """Draw the captions of stories.

        Args:
            rng: random numbers.
            count: stories.
            shots: of each.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepLoss:
    """The outcome of one micro-batch.

    Attributes:
        learner: whose step it is.
        loss: to go back from; float32 scalar.
        scalars: figures worth a curve.
    """

    learner: str
    loss: Tensor
    scalars: Mapping[str, Tensor] = field(default_factory=dict)


class Stage(Protocol):
    """What the trainer drives."""

    learners: dict[str, Learner]

    def loss(self, step: int, rng: StepRng) -> StepLoss:
        """Compute one micro-batch of a step."""
        ...

    def judge(self, rng: StepRng) -> Tensor:
        """Return a figure on some fixed batch that falls as the stage learns."""
        ...

    def sheet(self, rng: StepRng) -> tuple[ShotBatch, Tensor]:
        """Make a few shots to look at: what they followed, and their latents."""
        ...

    def product(self) -> Weights:
        """Return the weights as they would ship now, whole and on the host."""
        ...

    def memory(self) -> dict[str, Any]:
        """Return what must survive a restart besides the learners."""
        ...

    def restore(self, memory: Mapping[str, Any]) -> None:
        """Take over ``memory``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageServices:
    """The shared parts of a run.

    Attributes:
        config: the run.
        processes: who takes part.
        source: training shots.
        codec: latents to pictures and back.
        text: a frozen text encoder; ``None`` where the nano encoder comes with the weights.
    """

    config: RunConfig
    processes: Processes
    source: ShotSource
    codec: LatentCodec
    text: TextSide | None = None

    @property
    def schedule(self) -> Schedule:
        """Grid and steps."""
        return Schedule.from_config(self.config.stream.schedule)

    @property
    def compute(self) -> torch.dtype:
        """Type of activations."""
        return torch.bfloat16 if self.config.precision == "bfloat16" else torch.float32

    def plan(self, frames: int) -> RolloutPlan:
        """Return what a student's rollout of a shot looks like."""
        return RolloutPlan(
            schedule=self.schedule, frames=frames, quirks=self.config.quirks,
            chunk_frames=self.config.stream.shot.chunk_frames,
        )  # fmt: skip

    def shots_to_show(
        self, text: TextSide, rng: StepRng, frames: int
    ) -> tuple[ShotBatch, Conditioning]:
        """Return a few shots for a sheet, and what they are told: context and captions, all of it.

        Args:
            text: the stage's text encoder.
            rng: picks the shots.
            frames: latent frames of each.
        """
        batch = self.source.shots(rng, _SHEET_SHOTS, frames)
        none = [False] * _SHEET_SHOTS
        captions = text.captions(batch.words, none)
        return batch, condition(batch, captions, dropped=none, quirks=self.config.quirks)

    def frozen(self, weights: Weights) -> TrainNet:
        """Make a network that never learns."""
        net = self._network(weights, recompute=False).requires_grad_(False)
        return shard(net.to(self.compute), net.blocks, self.processes, compute=self.compute)

    def trainable(
        self, weights: Weights, *, lora_rank: int = 0, lora_alpha: float = 0.0, only: str = ""
    ) -> TrainNet:
        """Make a network that learns.

        Args:
            weights: to start from.
            lora_rank: train adapters of this rank instead of the weights.
            lora_alpha: their strength, 0 for the rank.
            only: train parameters whose names contain this.
        """
        net = self._network(weights, recompute=self.config.recompute)
        if only:
            for name, parameter in net.named_parameters():
                parameter.requires_grad_(only in name)
        if lora_rank:
            add_adapters(net, lora_rank, lora_alpha, seed=self.config.seed)
        return shard(net, net.blocks, self.processes, compute=self.compute)

    def text_side(self, weights: Weights, *, learns: bool = False) -> TextSide:
        """Return the text encoder of some weights, or the frozen one of the run."""
        if self.text is not None:
            return self.text
        net = text_of(weights)
        return NanoText(net.to(self.processes.device).requires_grad_(learns))

    def _network(self, weights: Weights, *, recompute: bool) -> TrainNet:
        return network_of(weights, self.config.stream, recompute=recompute)
