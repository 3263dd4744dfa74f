"""What one pass takes beside its latents, whole or for one half of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..plan.policy import PassPlan
from .cross_attention import CaptionKV, CaptionRuns

if TYPE_CHECKING:
    from ..config import ModelConfig
    from ..device.companion import Companion
    from ..kernels.reference.history_attention import Spans
    from ..model.bound_student import TimeTable
    from .cross_attention import Captions

HeadSpans = Sequence["Spans"]
"""Token ranges that each head of a layer reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassInputs:
    """One pass as it is run.

    Attributes:
        plan: its integers.
        levels: of each of its frames, as indices into ``Schedule.levels``.
        times: time table of these levels.
        captions: what the frames attend to.
        keep_flow: without, as at clean levels, it ends at the last layer's keys and values, and
            predicts nothing.
        rotation: complex64 ``[T, D / 2]`` for queries, and for keys as they are written.
        read_tokens: length of the arena's prefix that is read.
        as_stored: whether all heads read all of the prefix, and as it is stored: not rotated, and
            not in 8 bits.
        read_rotation: complex64 ``[read tokens, D / 2]`` for keys as they are read, where some are
            stored unrotated; else ``None``.
        spans: by layer, what each head reads of that prefix; ``None`` where all read all of it, in
            a layer or altogether.
        meet: waits for the thread that computes the other half of the tokens; ``None`` where these
            are all.
    """

    plan: PassPlan
    levels: tuple[int, ...]
    times: TimeTable
    captions: Captions
    keep_flow: bool
    rotation: Tensor
    read_tokens: int
    as_stored: bool = True
    read_rotation: Tensor | None = None
    spans: Sequence[HeadSpans | None] | None = None
    meet: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChunkLatents:
    """Frames that are being denoised, ``[1, F, C, h, w]``; passes write into them.

    Attributes:
        x: input of the next pass.
        x0: clean estimates of the last one.
        noise: ``[S, 1, F, C, h, w]``; entry ``s`` enters a frame's input at its step ``s``.
    """

    x: Tensor
    x0: Tensor
    noise: Tensor


def spans_of(
    plan: PassPlan, model: ModelConfig, frame_tokens: int
) -> list[HeadSpans | None] | None:
    """By layer, the tokens each head reads; ``None`` where all heads read one whole prefix.

    Args:
        plan: of the pass.
        model: has the layers and heads.
        frame_tokens: of a slot.
    """
    dense = len(plan.reads[0]) == 1 and plan.reads[0][0][0] == 0
    if dense and plan.groups is None:
        return None
    tokens = [
        [(begin * frame_tokens, end * frame_tokens) for begin, end in ranges]
        for ranges in plan.reads
    ]
    groups = plan.groups or ((0,) * model.num_heads,) * model.num_layers
    return [None if dense and not any(own) else [tokens[group] for group in own] for own in groups]


def in_halves(
    companion: Companion, layers: Callable[[Tensor, PassInputs], Tensor | None], x: Tensor,
    whole: PassInputs,
) -> Tensor | None:  # fmt: skip
    """Run layers over both halves of a pass's tokens, one of them on the companion's thread.

    Each frame counts as two, whose slots are half as large.

    Args:
        companion: of the calling thread.
        layers: runs them over some tokens.
        x: ``[1, T, dim]``, ``T`` even.
        whole: of the whole pass.
    """
    assert isinstance(whole.captions, CaptionKV | CaptionRuns), "captions of a captured pass"
    count = len(whole.plan.writes)
    slots = [2 * slot + part for slot in whole.plan.writes for part in (0, 1)]
    own, others = (
        partial(
            layers,
            part,
            replace(
                whole,
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
