"""What a self-forcing stage ships: the student's weights, adapters merged into them."""

from __future__ import annotations

from pathlib import Path

from shotstream_rt.loading.lora import merge_lora

from ..common.product import TEXT, Weights
from .adapters import adapter_name
from .learner import Learner
from .stage_config import DmdConfig


def student_product(start: Weights, learner: Learner, config: DmdConfig) -> Weights:
    """Return the student as it would ship.

    Args:
        start: weights the stage began with.
        learner: the student's.
        config: of the stage; says whether adapters were trained, and how strong they are.
    """
    learned = learner.shipped()
    if not config.lora_rank:
        return {**start, **learned}
    student = {k: v for k, v in start.items() if not k.startswith(TEXT)}
    adapters = {adapter_name(name): value for name, value in learned.items()}
    merged = merge_lora(
        student, adapters, source=Path(config.name), alpha=config.lora_alpha or config.lora_rank
    )
    return {**start, **merged}
