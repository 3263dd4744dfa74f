"""Captions as passes attend to them: keys and values of every layer, computed once per caption."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from ..device.transfer import send
from ..model.captions import CaptionSet

if TYPE_CHECKING:
    from ..kernels.sets.kernel_set import KernelSet
    from ..model.bound_student import BoundStudent

_Products = TypeVar("_Products")


class Captions(Protocol):
    """What the frames of a pass attend to in cross-attention."""

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """Attend with a layer's normalised queries ``[1, T, N, D]``; gives the same shape."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaptionKV:
    """One caption's keys and values, which all frames of a pass attend to.

    Padding positions of a caption are identical, so they are held as one last key whose logit bias
    is the log of their number: the same softmax, a fifth of the work.

    Attributes:
        kernels: the kernel set to run.
        k: by layer ``[1, tokens, N, D]``.
        v: like ``k``.
        bias: float32 ``[tokens]``, added to the logits.
    """

    kernels: KernelSet
    k: Sequence[Tensor]
    v: Sequence[Tensor]
    bias: Tensor

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """See ``Captions``."""
        k, v = self.k[layer], self.v[layer]
        return self.kernels.cross_attention(q, k, v, q.shape[-1] ** -0.5, self.bias)

    def of_half_frames(self, first: int, count: int) -> CaptionKV:
        """Return what some half frames attend to: all frames attend to the same.

        Args:
            first: number of the first one in the pass, which has two for each frame.
            count: how many.
        """
        return self


class CaptionRuns:
    """Frames that attend to different captions, as runs of neighbours with the same one.

    Args:
        captions: those of the shot.
        rows: caption of each frame.
    """

    def __init__(self, captions: Sequence[CaptionKV], rows: Sequence[int]) -> None:
        self._captions, self._rows = captions, rows
        self._runs = [(captions[row], len(list(frames))) for row, frames in groupby(rows)]
        self._frames = len(rows)

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """See ``Captions``."""
        frame_tokens, parts, start = q.shape[1] // self._frames, [], 0
        for caption, frames in self._runs:
            end = start + frames * frame_tokens
            parts.append(caption.attend(layer, q[:, start:end]))
            start = end
        return torch.cat(parts, 1)

    def of_half_frames(self, first: int, count: int) -> CaptionRuns:
        """Return what some half frames attend to; arguments as of ``CaptionKV``."""
        rows = [row for row in self._rows for _ in range(2)]
        return CaptionRuns(self._captions, rows[first : first + count])


class CaptionProducts(Generic[_Products]):
    """What a film's passes need of captions, computed once for each and kept for later shots.

    A shot's context frames attend to the captions of the shots before it, so all of a shot's
    captions but its own were computed before. Captions without a key are computed at each call.

    Args:
        compute: gives what passes need of a caption, by its embeddings ``[text_len, text_dim]`` and
            how many of their rows are real tokens.
        kept: captions kept, those used last.
    """

    def __init__(self, compute: Callable[[Tensor, int], _Products], kept: int) -> None:
        self._compute, self._kept = compute, kept
        self._done: OrderedDict[str, _Products] = OrderedDict()

    def of(self, captions: CaptionSet) -> list[_Products]:
        """Return what passes need of each caption."""
        texts, lengths, keys = captions.embeddings, captions.lengths, captions.keys
        if keys is None:
            return [*map(self._compute, texts, lengths)]
        for key, text, length in zip(keys, texts, lengths, strict=True):
            if key not in self._done:
                self._done[key] = self._compute(text, length)
            self._done.move_to_end(key)
        found = [self._done[key] for key in keys]
        while len(self._done) > self._kept:
            self._done.popitem(last=False)
        return found

    def clear(self) -> None:
        """Forget everything."""
        self._done.clear()


def caption_kv(student: BoundStudent, text: Tensor, length: int) -> CaptionKV:
    """Compute a caption's keys and values, in the memory order that attention wants.

    Args:
        student: the network.
        text: embeddings ``[text_len, text_dim]`` on any device.
        length: rows of them that are real tokens.
    """
    if text.device != student.device:
        text = send(text, student.device)
    rows, bias = fold_padding(text.to(student.dtype), length)
    embedded = student.edges.text_embedding(rows[None])
    kv: list[Sequence[Tensor]] = [block.caption_kv(embedded) for block in student.blocks]
    if student.kernels.arena.head_major:
        kv = [[x.transpose(1, 2).contiguous().transpose(1, 2) for x in pair] for pair in kv]
    k, v = zip(*kv, strict=True)
    return CaptionKV(kernels=student.kernels, k=k, v=v, bias=bias)


def fold_padding(text: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Keep one padding row of a caption, which counts as all; give also each row's logit bias."""
    bias = torch.zeros(length + 1, dtype=torch.float32, device=text.device)[: len(text)]
    bias[length:].fill_(math.log(max(1, len(text) - length)))
    return text[: length + 1], bias
