"""What a pipeline knows of one shot, beside what stands in the caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from .plan.policy import PassPlan, Roll


@dataclass(slots=True, kw_only=True, eq=False)
class RunningShot:
    """A shot that was begun.

    Attributes:
        number: in the film; addresses the noise.
        flag: its phase number.
        captions: how many it began with.
        roll: where it begins in the caches.
        given: its first chunks that are given, as they are.
        source: what its first chunks are made of.
        strength: by which share of the steps they are.
        end: frames that the caches have counted.
        pending: the last of them still need their clean pass.
        made: the newest chunks by number, as they were planned and made; what a re-read computes
            anew.
        overwritten: puts back the keys and values that a chunk took the place of, by its number.
    """

    number: int
    flag: int = 0
    captions: int = 0
    roll: Roll = field(default_factory=Roll)
    given: list[Tensor] = field(default_factory=list)
    source: list[Tensor] = field(default_factory=list)
    strength: float = 1.0
    end: int = 0
    pending: bool = False
    made: dict[int, tuple[PassPlan, Tensor]] = field(default_factory=dict)
    overwritten: dict[int, Callable[[], None]] = field(default_factory=dict)
