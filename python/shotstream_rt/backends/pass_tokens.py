"""The tokens of a pass that one thread computes: all of them, or one half of each frame's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..plan.policy import PassPlan
from .cross_attention import CaptionKV, CaptionRuns

if TYPE_CHECKING:
    from ..device.companion import Companion
    from .cross_attention import Captions


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTokens:
    """Tokens of a pass that one thread computes, and what is theirs.

    Attributes:
        plan: says their slots.
        rotation: complex64 ``[T, D / 2]``.
        captions: what they attend to.
        meet: waits for the thread that computes the others; ``None`` where these are all.
    """

    plan: PassPlan
    rotation: Tensor
    captions: Captions
    meet: Callable[[], None] | None = None


def in_halves(
    companion: Companion, layers: Callable[[Tensor, PassTokens], Tensor | None], x: Tensor,
    whole: PassTokens,
) -> Tensor | None:  # fmt: skip
    """Run layers over both halves of a pass's tokens, one of them on the companion's thread.

    Each frame counts as two, whose slots are half as large.

    Args:
        companion: of the calling thread.
        layers: runs them over some tokens.
        x: ``[1, T, dim]``, ``T`` even.
        whole: says what is all tokens'.
    """
    assert isinstance(whole.captions, CaptionKV | CaptionRuns), "captions of a captured pass"
    count = len(whole.plan.writes)
    slots = [2 * slot + part for slot in whole.plan.writes for part in (0, 1)]
    own, others = (
        partial(
            layers,
            part,
            PassTokens(
                plan=replace(whole.plan, writes=tuple(slots[first : first + count])),
                rotation=rows,
                captions=whole.captions.of_half_frames(first, count),
                meet=companion.meet,
            ),
        )
        for first, rows, part in zip(
            (0, count), whole.rotation.tensor_split(2), x.tensor_split(2, 1), strict=True
        )
    )
    flows = [flow for flow in companion.both(own, others) if flow is not None]
    return torch.cat(flows, 1) if flows else None
