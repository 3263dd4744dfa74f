"""The dual KV cache and the caption cache: tensors only; every index comes from a plan.

One arena per layer, ``[context slots | local ring]``, token-major in meaning: row ``t`` holds token
``t`` of the slots in order, whatever the layout in memory. Nothing is ever moved or cloned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .config import StreamConfig


class KVArena:
    """Keys and values of one layer.

    Args:
        tokens: rows.
        heads: attention heads.
        head_dim: features per head.
        head_major: keep each head's rows together in memory (what CPU products want) instead of
            each token's heads (what GPU kernels want).
        dtype: element type.
        device: where it lives.
    """

    def __init__(
        self,
        tokens: int,
        heads: int,
        head_dim: int,
        *,
        head_major: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (2, heads, tokens, head_dim) if head_major else (2, tokens, heads, head_dim)
        storage = torch.zeros(shape, dtype=dtype, device=device)
        if head_major:
            storage = storage.transpose(1, 2)
        self.k: Tensor
        self.v: Tensor
        self.k, self.v = storage.unbind(0)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.k.nbytes + self.v.nbytes

    def prefix(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first ``tokens`` rows, ``[1, tokens, N, D]``, without a copy."""
        return self.k[:tokens].unsqueeze(0), self.v[:tokens].unsqueeze(0)


class DualKVCache:
    """One arena per layer for the six context frames and the running shot.

    Args:
        config: shapes.
        head_major: see ``KVArena``.
        dtype: element type.
        device: where it lives.
    """

    def __init__(
        self,
        config: StreamConfig,
        *,
        head_major: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        model = config.model
        self.frame_tokens = model.tokens_per_frame
        self.arenas = [
            KVArena(
                config.arena_frames * self.frame_tokens,
                model.num_heads,
                model.head_dim,
                head_major=head_major,
                dtype=dtype,
                device=device,
            )
            for _ in range(model.num_layers)
        ]

    @property
    def nbytes(self) -> int:
        """Bytes held by all layers."""
        return sum(arena.nbytes for arena in self.arenas)

    def poison(self) -> None:
        """Fill with NaN, so that a read of a slot never written shows."""
        for arena in self.arenas:
            arena.k.fill_(torch.nan)
            arena.v.fill_(torch.nan)


@dataclass(slots=True)
class CaptionKV:
    """Cross-attention keys and values of one caption in one layer.

    Padding positions of a caption are identical, so they are held as one last key whose logit bias
    is the log of their number: the same softmax, a fifth of the work.

    Attributes:
        k: ``[1, tokens, N, D]``.
        v: like ``k``.
        bias: float32 ``[tokens]``.
    """

    k: Tensor
    v: Tensor
    bias: Tensor


@dataclass(slots=True)
class CaptionCache:
    """Caption keys and values by layer, then by caption row."""

    layers: list[list[CaptionKV]] = field(default_factory=list)


def fold_padding(embeddings: Tensor, lengths: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Cut each caption behind its first padding row and count what that row stands for.

    Args:
        embeddings: ``[captions, text_len, text_dim]``, zero rows past each length.
        lengths: real tokens per caption.

    Returns:
        Per caption: rows ``[tokens, text_dim]`` and their logit biases float32 ``[tokens]``.
    """
    folded = []
    for rows, length in zip(embeddings, lengths, strict=True):
        kept = min(length + 1, rows.shape[0])
        bias = torch.zeros(kept, device=rows.device)
        if length < rows.shape[0]:
            bias[-1:].fill_(math.log(rows.shape[0] - length))
        folded.append((rows[:kept], bias))
    return folded
