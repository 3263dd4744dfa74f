"""The nano recipe: the student's shape, the stages and their settings.

Read by the trainers and the commands; data only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shotstream_rt.config import ModelConfig, ScheduleConfig
from shotstream_rt.model.nano.text import TEXT_DIM, TEXT_LEN

from ..world.bank import Layout

AUX_CLASSES = 13
"""Background and four species, then eight coat colours."""

NANO_MODEL = ModelConfig(
    dim=256, ffn_dim=1024, num_heads=4, num_layers=4, text_dim=TEXT_DIM, text_len=TEXT_LEN,
    latent_height=12, latent_width=20,
)  # fmt: skip

NANO_SCHEDULE = ScheduleConfig(shift=3.0, carry_renoise=True)
"""Four steps on a grid shifted less than the full-size model's: small latents need less noise.

A chunk begins on the renoise of the frame before it: 3 of 120 first shots had a false cut so, 15
where it was drawn anew.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A share of the training time with its mix of layouts (equal chances)."""

    share: float
    layouts: tuple[Layout, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Recipe of the flow-matching part.

    Attributes:
        model: the student's shape.
        shot_phase: whether shots turn the rotary phase (``ShotConfig.shot_phase``).
        stages: what is trained when.
        muon_rate: learning rate of the block matrices.
        adam_rate: learning rate of everything else.
        warmup_steps: steps of linear warm-up.
        decay_from: progress from which the rates fall.
        average: decay of the weights that ship.
        shift: of the noise levels.
        text_drop: share of samples without captions.
        history_noise: largest level of the noise that history and context are roughened with.
        subject_weight: extra weight of characters.
        coarse_weight: weight of ``coarse_error``.
        motion_weight: weight of ``motion_error``.
        aux_weight: weight of the class map's loss; falls to 0 over the last third.
        computing_time: minutes are this process's own, not the wall's: variants that are to be
            compared get the same on a busy machine.
        checkpoint_s: seconds between checkpoints.
        seed: of weights, batches and noise.
    """

    model: ModelConfig = NANO_MODEL
    shot_phase: bool = True

    stages: tuple[Stage, ...] = field(
        default=(
            Stage(share=0.40, layouts=(Layout(batch=16, context=2, group_frames=1, groups=4),)),
            Stage(
                share=0.25,
                layouts=(
                    Layout(batch=10, context=3, group_frames=3, groups=2),
                    Layout(batch=8, context=3, group_frames=3, groups=2, chunks=2),
                    Layout(batch=16, context=2, group_frames=1, groups=4),
                ),
            ),
            Stage(
                share=0.35,
                layouts=(
                    Layout(batch=8, context=6, group_frames=3, groups=2),
                    Layout(batch=6, context=6, group_frames=3, groups=2, chunks=2),
                    Layout(batch=4, context=6, group_frames=3, groups=3, chunks=7),
                    Layout(batch=12, context=2, group_frames=3, groups=2),
                ),
            ),
        )
    )
    muon_rate: float = 3e-3
    adam_rate: float = 1.5e-3
    warmup_steps: int = 40
    decay_from: float = 0.7
    average: float = 0.99
    shift: float = NANO_SCHEDULE.shift
    text_drop: float = 0.1
    history_noise: float = 0.2
    subject_weight: float = 3.0
    coarse_weight: float = 0.25
    motion_weight: float = 0.0
    aux_weight: float = 0.1
    computing_time: bool = False
    checkpoint_s: float = 180.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillConfig:
    """Recipe of the few-step distillation.

    Attributes:
        model: see ``TrainConfig``.
        shot_phase: see ``TrainConfig``.
        layouts: shapes of the training sequences, equal chances. Openings have one of their own:
            without a context their end is hardest to foresee, and an opening chunk that stays
            vague is followed by a firmer one, which looks like a cut.
        guidance: weight of the direction that text and context give in the teacher's steps on a
            shot's first chunk.
        later_guidance: the same on later chunks. They have a history to be like; guided as much as
            the first they come out bolder than it, which shows as a jump.
        substeps: of the teacher between two of the student's levels; one step from the last level
            to the end would make the picture soft.
        muon_rate: learning rate of the block matrices.
        adam_rate: learning rate of everything else.
        warmup_steps: steps of linear warm-up.
        average: of the weights that ship.
        history_noise: see ``TrainConfig``.
        own_history: share of batches whose history the student films itself.
        coarse_weight: see ``TrainConfig``.
        motion_weight: see ``TrainConfig``.
        computing_time: see ``TrainConfig``.
        checkpoint_s: seconds between checkpoints.
        seed: of batches and noise.
    """

    model: ModelConfig = NANO_MODEL
    shot_phase: bool = True
    layouts: tuple[Layout, ...] = (
        Layout(batch=6, context=6, group_frames=3, groups=1),
        Layout(batch=6, context=6, group_frames=3, groups=2, opening=True),
        Layout(batch=5, context=6, group_frames=3, groups=1, chunks=2),
        Layout(batch=4, context=6, group_frames=3, groups=2, chunks=4),
        Layout(batch=4, context=6, group_frames=3, groups=2, chunks=7),
    )
    guidance: float = 2.0
    later_guidance: float = 1.5
    substeps: int = 2
    muon_rate: float = 2e-3
    adam_rate: float = 1e-3
    warmup_steps: int = 20
    average: float = 0.97
    history_noise: float = 0.2
    own_history: float = 0.5
    coarse_weight: float = 0.25
    motion_weight: float = 0.0
    computing_time: bool = False
    checkpoint_s: float = 120.0
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTaughtConfig(DistillConfig):
    """What the recipes share in which a student learns from its own answers.

    The settings of the teacher's walk are not used: there is none.

    Attributes:
        way: how far what ships is from the initial student towards the one learned; above 1 it
            lies beyond.
    """

    layouts: tuple[Layout, ...] = (
        Layout(batch=3, context=6, group_frames=3, groups=2, opening=True),
        Layout(batch=3, context=6, group_frames=3, groups=2),
        Layout(batch=3, context=6, group_frames=3, groups=2, chunks=2),
        Layout(batch=3, context=6, group_frames=3, groups=2, chunks=4),
        Layout(batch=2, context=6, group_frames=3, groups=2, chunks=7),
    )
    way: float = 1.0
    muon_rate: float = 8e-4
    adam_rate: float = 4e-4
    history_noise: float = 0.0
    own_history: float = 0.7
    seed: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidanceConfig(SelfTaughtConfig):
    """Recipe of the stage that teaches a few-step student its own guided answers.

    Attributes:
        level_guidance: how much further the student's answer at each level shall go in the
            direction that text and context give. Early ones were guided in the distillation.
        level_wording: the same from the answer to the caption as a story to the answer to it in
            one sentence, in fine structure.
        way: see ``SelfTaughtConfig``.
    """

    level_guidance: tuple[float, ...] = (0.0, 0.0, 1.0, 1.0)
    level_wording: tuple[float, ...] = (0.0, 0.0, 3.0, 3.0)
    way: float = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfConfig(SelfTaughtConfig):
    """Recipe of the stage that teaches a few-step student the best of its own answers.

    Attributes:
        pushes: what is tried: how far from the answer to the caption away from the one with other
            clothes, towards the one in one sentence, both in fine structure, and away from the one
            with other coats.
        first_level: the first of the levels at which answers are chosen.
        distance_weight: nats that a mean squared distance of 1 from the plain answer costs.
    """

    pushes: tuple[tuple[float, float, float], ...] = (
        (0.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (2.0, 0.0, 0.0), (4.0, 0.0, 0.0),
        (0.0, 2.0, 0.0), (0.0, 4.0, 0.0), (2.0, 2.0, 0.0), (0.0, 0.0, 0.5), (0.0, 0.0, 1.0),
        (0.0, 0.0, 2.0), (2.0, 0.0, 0.5), (2.0, 0.0, 1.0), (0.0, 2.0, 1.0),
    )  # fmt: skip
    first_level: int = 2
    distance_weight: float = 20.0
    muon_rate: float = 1.2e-3
    adam_rate: float = 6e-4
    seed: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OmissionConfig(SelfTaughtConfig):
    """Recipe of the stage that teaches a few-step student what captions leave out.

    Attributes:
        unsaid: share of captions that leave out what the context shows; the others keep what the
            student makes of captions that say it.
        way: see ``SelfTaughtConfig``.
    """

    layouts: tuple[Layout, ...] = (
        Layout(batch=3, context=6, group_frames=3, groups=2, opening=True),
        Layout(batch=3, context=6, group_frames=3, groups=2, later=True),
        Layout(batch=3, context=6, group_frames=3, groups=2, chunks=2),
        Layout(batch=3, context=6, group_frames=3, groups=2, chunks=2, later=True),
        Layout(batch=3, context=6, group_frames=3, groups=2, chunks=4, later=True),
        Layout(batch=2, context=6, group_frames=3, groups=2, chunks=7, later=True),
    )
    unsaid: float = 0.85
    way: float = 0.65
    muon_rate: float = 1.2e-3
    adam_rate: float = 6e-4
    seed: int = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardConfig:
    """Recipe of the last stage, which rewards a few-step student for what a reader sees.

    Attributes:
        model: see ``TrainConfig``.
        shot_phase: see ``TrainConfig``.
        layouts: see ``DistillConfig``.
        facts: weights of what the reader looks for.
        reader: weight of the reader's cross-entropy.
        judge: weight of the discriminator's.
        anchor: weight of the squared distance from the initial student.
        coarse_weight: of coarse distance in it; a coat's colour is coarse, an ear is not.
        muon_rate: learning rate of the block matrices.
        adam_rate: learning rate of everything else.
        judge_rate: learning rate of the discriminator.
        judge_warmup: steps in which it learns alone.
        warmup_steps: of the student, behind those.
        decay_from: progress from which its rates fall.
        average: of the weights that ship.
        own_history: share of batches whose history the student films itself.
        way: how far what ships is from the initial student to the one learned, 0 to 1.
        checkpoint_s: seconds between checkpoints.
        seed: of batches and noise.
    """

    model: ModelConfig = NANO_MODEL
    shot_phase: bool = True
    layouts: tuple[Layout, ...] = (
        Layout(batch=6, context=6, group_frames=3, groups=2, opening=True),
        Layout(batch=6, context=6, group_frames=3, groups=2),
        Layout(batch=6, context=6, group_frames=3, groups=2, chunks=2),
        Layout(batch=5, context=6, group_frames=3, groups=3, chunks=4),
        Layout(batch=3, context=6, group_frames=3, groups=4, chunks=7),
    )
    facts: tuple[tuple[str, float], ...] = (
        ("present", 0.5), ("coat", 0.5), ("accessory", 1.0), ("worn_color", 0.4),
        ("framing", 0.25), ("place", 0.25), ("time", 0.25),
    )  # fmt: skip
    reader: float = 0.1
    judge: float = 0.1
    anchor: float = 1.5
    coarse_weight: float = 1.0
    muon_rate: float = 8e-4
    adam_rate: float = 4e-4
    judge_rate: float = 4e-4
    judge_warmup: int = 40
    warmup_steps: int = 20
    decay_from: float = 0.5
    average: float = 0.98
    own_history: float = 0.7
    way: float = 0.5
    checkpoint_s: float = 120.0
    seed: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderConfig:
    """Recipe of the reader of facts.

    Attributes:
        rate: largest learning rate.
        warmup_steps: steps of linear warm-up.
        checkpoint_s: seconds between checkpoints.
        seed: of weights, batches and noise.
    """

    rate: float = 1.5e-3
    warmup_steps: int = 50
    checkpoint_s: float = 120.0
    seed: int = 0
