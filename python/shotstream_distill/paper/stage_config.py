"""Settings of each kind of stage; data only, checked on construction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..common.config_json import build, require


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW as the paper's trainers use it.

    Attributes:
        rate: learning rate.
        clip: largest gradient norm.
        beta1: decay of the first moment.
        beta2: decay of the second.
        weight_decay: per step, times the rate.
        warmup_steps: steps of linear warm-up.
        final_rate: share of the rate left at the end (cosine); 1 is constant.
        average: decay of the running average that ships; 0 ships the weights themselves.
    """

    rate: float
    clip: float = 1.0
    beta1: float = 0.0
    beta2: float = 0.999
    weight_decay: float = 0.01
    warmup_steps: int = 0
    final_rate: float = 1.0
    average: float = 0.0

    def __post_init__(self) -> None:
        require(self.rate > 0, "rate", self.rate, "a positive number")
        require(self.clip > 0, "clip", self.clip, "a positive number")
        for name in ("beta1", "beta2", "average"):
            value = getattr(self, name)
            require(0 <= value < 1, name, value, "a number in [0, 1)")
        require(0 <= self.final_rate <= 1, "final_rate", self.final_rate, "a number in [0, 1]")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "a number >= 0")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "a number >= 0")


def _share(config: object, name: str) -> None:
    value = getattr(config, name)
    require(0 <= value <= 1, name, value, "a share in [0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """What every stage has.

    Attributes:
        name: its name and its files'.
        kind: which stage.
        batch: samples per process and micro-batch.
        frames: latent frames of a target shot.
    """

    name: str
    kind: str
    batch: int
    frames: int

    def __post_init__(self) -> None:
        safe = self.name.replace("-", "").replace("_", "").isalnum()
        require(safe, "name", self.name, "letters, digits, - and _")
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        require(1 <= self.frames <= 1000, "frames", self.frames, "1 to 1000")

    def needs(self) -> dict[str, str]:
        """Names of the stages this one builds on, by role; empty means the run's start."""
        return {}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StageConfig:
        """Build the kind of stage that ``data["kind"]`` names.

        Raises:
            ConfigError: naming the field.
        """
        kind = data.get("kind")
        require(kind in KINDS, "kind", kind, "one of " + ", ".join(KINDS))
        return build(KINDS[str(kind)], data, str(data.get("name", kind)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedConfig(StageConfig):
    """What every stage with gradients has.

    Attributes:
        steps: optimiser steps, of the student and the critic together.
        optimizer: of the network the stage is about.
        start: stage to start from; empty is the run's start.
        accumulate: micro-batches of a step.
    """

    steps: int
    optimizer: OptimizerConfig
    start: str = ""
    accumulate: int = 1

    def __post_init__(self) -> None:
        super(TrainedConfig, self).__post_init__()
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        require(self.accumulate >= 1, "accumulate", self.accumulate, "at least 1")

    def needs(self) -> dict[str, str]:
        """Names of the stages this one builds on, by role."""
        return {"start": self.start}


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherConfig(TrainedConfig):
    """Flow matching of the bidirectional next-shot model.

    Attributes:
        trains: ``all``, or ``self_attention`` (the paper's, from a pretrained model).
        weighting: loss weights over time: ``bell`` (the original's) or ``flat``.
        context_drop: share of samples that lose their context.
        text_drop: share of samples that lose their captions.
    """

    kind: Literal["teacher"]
    trains: Literal["all", "self_attention"] = "all"
    weighting: Literal["bell", "flat"] = "bell"
    context_drop: float = 0.1
    text_drop: float = 0.1

    def __post_init__(self) -> None:
        super(TeacherConfig, self).__post_init__()
        _share(self, "context_drop")
        _share(self, "text_drop")


Guides = Literal["text", "text_and_context"]
"""What guidance strengthens: the text alone (the original), or what the context says as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsConfig(StageConfig):
    """Sampling of the teacher's trajectories.

    Attributes:
        teacher: stage whose network walks.
        pairs: trajectories wanted.
        sample_steps: Euler steps; the student's levels must be among them.
        guidance: weight of the conditional direction.
        guides: what it strengthens.
    """

    kind: Literal["ode_pairs"]
    teacher: str
    pairs: int
    sample_steps: int = 50
    guidance: float = 6.0
    guides: Guides = "text"

    def __post_init__(self) -> None:
        super(PairsConfig, self).__post_init__()
        require(self.pairs >= 1, "pairs", self.pairs, "at least 1")
        require(1 <= self.sample_steps <= 1000, "sample_steps", self.sample_steps, "1 to 1000")

    def needs(self) -> dict[str, str]:
        """Names of the stages this one builds on, by role."""
        return {"teacher": self.teacher}


@dataclass(frozen=True, slots=True, kw_only=True)
class OdeConfig(TrainedConfig):
    """Regression of the causal student on trajectories.

    Attributes:
        pairs: stage that sampled them.
        text_drop: share of samples that lose their captions.
    """

    kind: Literal["ode"]
    pairs: str
    text_drop: float = 0.1

    def __post_init__(self) -> None:
        super(OdeConfig, self).__post_init__()
        _share(self, "text_drop")

    def needs(self) -> dict[str, str]:
        """Names of the stages this one builds on, by role."""
        return {"start": self.start, "pairs": self.pairs}


@dataclass(frozen=True, slots=True, kw_only=True)
class DmdConfig(TrainedConfig):
    """Self-forcing distribution matching, within a shot or from shot to shot.

    Attributes:
        teacher: stage that gives the real score and the critic's start.
        critic: optimiser of the critic.
        critic_updates: critic steps after each student step.
        critic_warmup: critic steps before the first student step; the original takes none.
        guidance: ``v_u + guidance (v_c - v_u)`` of the real score; the original's 3.0 is 4 here.
        guides: what guidance strengthens.
        min_time: lowest time of the scores.
        max_time: highest time of the scores.
        lora_rank: train adapters of this rank on every linear layer of every block; 0 trains all.
        lora_alpha: their strength; 0 is the rank (scale 1).
        shots: shots of a story, for ``inter_shot``.
        context_drop: share of samples that lose their context.
    """

    kind: Literal["intra_shot", "inter_shot"]
    teacher: str
    critic: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(rate=4e-7, clip=10))
    critic_updates: int = 5
    critic_warmup: int = 0
    guidance: float = 4.0
    guides: Guides = "text"
    min_time: float = 20.0
    max_time: float = 980.0
    lora_rank: int = 0
    lora_alpha: float = 0.0
    shots: int = 5
    context_drop: float = 0.1

    def __post_init__(self) -> None:
        super(DmdConfig, self).__post_init__()
        require(self.critic_updates >= 0, "critic_updates", self.critic_updates, "at least 0")
        require(0 <= self.critic_warmup < self.steps, "critic_warmup", self.critic_warmup,
                "fewer than steps")  # fmt: skip
        require(0 <= self.min_time < self.max_time <= 1000, "min_time", self.min_time,
                "min_time below max_time, both in [0, 1000]")  # fmt: skip
        require(self.lora_rank >= 0, "lora_rank", self.lora_rank, "at least 0")
        require(self.shots >= 1, "shots", self.shots, "at least 1")
        _share(self, "context_drop")
        require(self.kind == "intra_shot" or self.accumulate == 1, "accumulate", self.accumulate,
                "1: a step of inter_shot is one shot of the story")  # fmt: skip
        cycle = self.critic_updates + 1
        require(self.kind == "intra_shot" or math.gcd(self.shots, cycle) == 1, "shots", self.shots,
                f"no common factor with critic_updates + 1 = {cycle}, or some shots never train "
                "the student")  # fmt: skip

    def needs(self) -> dict[str, str]:
        """Names of the stages this one builds on, by role."""
        return {"start": self.start, "teacher": self.teacher}


KINDS: dict[str, type[StageConfig]] = {
    "teacher": TeacherConfig, "ode_pairs": PairsConfig, "ode": OdeConfig, "intra_shot": DmdConfig,
    "inter_shot": DmdConfig,
}  # fmt: skip
"""Stages by kind."""
