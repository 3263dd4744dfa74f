"""Samples of next-shot training, and what each frame of a pass is told.

Made by the data sources, read by every stage. Frames are ``[context | target]``. A frame's caption
row and its rotary shot flag are separate here; the original uses one number for both, which a
switch brings back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..common.sequence import Captions
from .network import Frames
from .quirks import Quirks
from .stage_config import Guides

Words = Tensor | tuple[tuple[str, ...], ...]
"""Captions before the text encoder: token ids ``[B, shots, L]``, or prompts per sample and shot."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShotBatch:
    """Shots to make, with what came before them.

    Attributes:
        context: clean latents ``[B, Cf, C, h, w]`` of frames of earlier shots; zeros in shot 0.
        target: clean latents ``[B, F, C, h, w]`` of the shot to make.
        words: captions of shots 0 .. the target (later rows may exist and are not told).
        shots: number of the target shot of each sample.
        context_shots: int64 ``[B, Cf]``, the shot each context frame was taken from.
    """

    context: Tensor
    target: Tensor
    words: Words
    shots: tuple[int, ...]
    context_shots: Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conditioning:
    """What the frames of a batch are told, context first.

    Attributes:
        context: ``[B, Cf, C, h, w]``, zeros where there is none.
        captions: of each sample.
        caption_index: int64 ``[B, Cf + 1]``: each context frame's caption row, then the target's.
        flags: int64 ``[B, Cf + 1]``, alike.
    """

    context: Tensor
    captions: Captions
    caption_index: Tensor
    flags: Tensor

    @property
    def context_frames(self) -> int:
        """Frames in front of the target."""
        return self.context.shape[1]

    def replaced(self, captions: Captions) -> Conditioning:
        """Return the same frames told one other caption each, row 0 of ``captions``."""
        return Conditioning(
            context=self.context, captions=captions, flags=self.flags,
            caption_index=torch.zeros_like(self.caption_index),
        )  # fmt: skip

    def unguided(self, captions: Captions, guides: Guides) -> Conditioning:
        """Return the side that guidance leads away from.

        Args:
            captions: unconditional ones, row 0 of each sample.
            guides: ``text`` keeps the context, as the original does; ``text_and_context`` takes it
                away the way training dropped it.
        """
        plain = self.replaced(captions)
        if guides == "text":
            return plain
        flags = torch.zeros_like(self.flags)
        flags[:, -1] = 1
        return replace(plain, context=torch.zeros_like(self.context), flags=flags)

    def whole(self, target: Tensor, times: Tensor, groups: Sequence[int]) -> Frames:
        """Lay out one pass over ``[context | target]``.

        Args:
            target: ``[B, F, C, h, w]``.
            times: ``[B, Cf + F]``.
            groups: frames of each group.
        """
        front, frames = self.context_frames, target.shape[1]
        return Frames(
            latents=torch.cat((self.context.to(target.dtype), target), 1),
            times=times,
            captions=self.captions,
            caption_index=_spread(self.caption_index, frames).to(target.device),
            positions=range(front + frames),
            flags=_spread(self.flags, frames),
            groups=tuple(groups),
            context=front,
        )

    def context_pass(self) -> Frames:
        """Lay out the pass that fills the context cache, at time 0."""
        batch, front = self.context.shape[:2]
        return Frames(
            latents=self.context,
            times=torch.zeros(batch, front, device=self.context.device),
            captions=self.captions,
            caption_index=self.caption_index[:, :front].to(self.context.device),
            positions=range(front),
            flags=self.flags[:, :front],
            groups=(front,),
            context=front,
        )

    def target_caption(self) -> Captions:
        """Return each sample's target caption alone: all that a pass over its chunks reads."""
        row = self.caption_index[:, -1].to(self.captions.lengths.device)
        held = torch.arange(len(row), device=row.device)
        return Captions(
            embeddings=self.captions.embeddings[held, row][:, None],
            lengths=self.captions.lengths[held, row][:, None],
            text_len=self.captions.text_len,
        )

    def chunk(self, x: Tensor, time: float, first: int, captions: Captions) -> Frames:
        """Lay out a pass over one chunk whose past is cached.

        Args:
            x: ``[B, n, C, h, w]``.
            time: timestep of all its frames.
            first: number of its first frame in the shot.
            captions: of ``target_caption``.
        """
        batch, count = x.shape[:2]
        begin = self.context_frames + first
        return Frames(
            latents=x,
            times=torch.full((batch, count), time, device=x.device),
            captions=captions,
            caption_index=torch.zeros(batch, count, dtype=torch.long, device=x.device),
            positions=range(begin, begin + count),
            flags=self.flags[:, -1:].expand(batch, count),
            groups=(count,),
        )


def condition(
    batch: ShotBatch, captions: Captions, *, dropped: Sequence[bool], quirks: Quirks
) -> Conditioning:
    """Decide what every frame is told.

    A first shot, and a sample whose context is dropped, gets zero latents, flags 0 and target flag
    1, as at inference; all its frames read the target's caption.

    Args:
        batch: the samples.
        captions: their captions after the text encoder.
        dropped: samples that lose their context.
        quirks: the original's ways.
    """
    shots = torch.tensor(batch.shots)
    blank = torch.tensor(list(dropped)) | (shots == 0)
    front = batch.context_shots
    flags = torch.cat((front, front[:, -1:] + 1), 1)
    flags[blank] = torch.tensor([0] * front.shape[1] + [1])
    if quirks.caption_by_flag:
        rows = flags.clamp(max=captions.lengths.shape[1] - 1)
    else:
        rows = torch.cat((front, shots[:, None]), 1)
        rows[blank] = shots[blank, None]
    if quirks.single_caption:
        rows = rows[:, -1:].expand_as(rows)
    keep = (~blank).to(batch.context.device)[:, None, None, None, None]
    return Conditioning(
        context=batch.context * keep.to(batch.context.dtype),
        captions=captions,
        caption_index=rows,
        flags=flags,
    )


def told_target_caption(conditioning: Conditioning) -> Conditioning:
    """Return the same frames with every one of them reading the target's caption."""
    return conditioning.replaced(conditioning.target_caption())


def _spread(per_part: Tensor, frames: int) -> Tensor:
    """Repeat the last column, the target's, for each of its frames."""
    return torch.cat((per_part[:, :-1], per_part[:, -1:].expand(-1, frames)), 1)
