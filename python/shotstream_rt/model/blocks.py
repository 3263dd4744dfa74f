"""One transformer block of the Wan2.1 architecture, and its head.

Parameters carry the names of the released checkpoints. ``bind`` pairs them with a ``KernelSet``;
the bound form is the only forward there is, for training, for the oracle and for fast backends.

Source: ShotStream ``wan/modules/causal_model.py``; the maths is in ``docs/architecture.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ..nvtx import detail

if TYPE_CHECKING:
    from ..cache import KVArena
    from ..config import ModelConfig
    from ..kernels.kernel_set import KernelSet, Linear

Attend = Callable[[Tensor], Tensor]
"""Self-attention from a fused projection ``[B, T, 3 * dim]`` (queries | keys | values, neither
normalised nor rotated) to ``[B, T, dim]``. It may store keys and values and attend to more."""

CrossAttend = Callable[[Tensor], Tensor]
"""Cross-attention of normalised q ``[B, T, N, D]`` to the captions; returns like q."""

Rotate = Callable[[Tensor], Tensor]
"""Rotary embedding of ``[B, T, N, D]``."""


class Modulation(NamedTuple):
    """The six rows of adaptive modulation, ``[B or 1, F or 1, dim]``; factors are 1 + scale."""

    attention_offset: Tensor
    attention_factor: Tensor
    attention_gate: Tensor
    ffn_offset: Tensor
    ffn_factor: Tensor
    ffn_gate: Tensor


class RmsNorm(nn.Module):
    """The learned factors of an RMS norm; the maths is in ``kernels/qk_norm``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))


class Attention(nn.Module):
    """Projections and norms of one attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.o = nn.Linear(dim, dim)
        self.norm_q = RmsNorm(dim)
        self.norm_k = RmsNorm(dim)


class Block(nn.Module):
    """Parameters of one transformer block (27 tensors)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.self_attn = Attention(dim)
        self.norm3 = nn.LayerNorm(dim, eps=config.eps)
        self.cross_attn = Attention(dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, dim),
        )

    def modulate(self, time_rows: Tensor) -> Modulation:
        """Add this block's table to the time projection.

        Args:
            time_rows: ``[B, F, 6, dim]``.
        """
        rows = Modulation(*(time_rows + self.modulation).unbind(2))
        return rows._replace(
            attention_factor=1 + rows.attention_factor, ffn_factor=1 + rows.ffn_factor
        )

    def bind(self, kernels: KernelSet) -> BoundBlock:
        """Pair the parameters with kernels; fused or packed weights are made here, once."""
        own, cross = self.self_attn, self.cross_attn
        return BoundBlock(
            block=self,
            kernels=kernels,
            qkv=kernels.fuse_linear([own.q, own.k, own.v], False),
            out=kernels.fuse_linear([own.o], False),
            cross_q=kernels.fuse_linear([cross.q], False),
            cross_kv=kernels.fuse_linear([cross.k, cross.v], False),
            cross_out=kernels.fuse_linear([cross.o], False),
            ffn_up=kernels.fuse_linear([self._ffn(0)], True),
            ffn_down=kernels.fuse_linear([self._ffn(2)], False),
        )

    def _ffn(self, index: int) -> nn.Linear:
        layer = self.ffn[index]
        assert isinstance(layer, nn.Linear)
        return layer


@dataclass(frozen=True, slots=True)
class BoundBlock:
    """A block ready to run: parameters and kernels."""

    block: Block
    kernels: KernelSet
    qkv: Linear
    out: Linear
    cross_q: Linear
    cross_kv: Linear
    cross_out: Linear
    ffn_up: Linear
    ffn_down: Linear

    def __call__(self, x: Tensor, m: Modulation, attend: Attend, cross: CrossAttend) -> Tensor:
        """Run the block on ``[B, T, dim]``; ``T`` is the frames of ``m`` times their tokens."""
        kernels, eps = self.kernels, self.block.config.eps
        factor, offset = self.block.norm3.weight[None, None], self.block.norm3.bias[None, None]
        with detail("attn"):
            y = self.out(attend(self.project(x, m)))
            x, h = kernels.gated_residual_norm(x, y, m.attention_gate, factor, offset, eps)
        with detail("cross"):
            q = kernels.rms_norm(self.cross_q(h), self.block.cross_attn.norm_q.weight, eps)
            y = self.cross_out(cross(self._heads(q)).flatten(2))
            x, h = kernels.gated_residual_norm(x, y, None, m.ffn_factor, m.ffn_offset, eps)
        with detail("ffn"):
            return kernels.gated_residual(x, self.ffn_down(self.ffn_up(h)), m.ffn_gate)

    def project(self, x: Tensor, m: Modulation) -> Tensor:
        """Modulated norm and fused projection: what ``Attend`` takes."""
        eps = self.block.config.eps
        qkv: Tensor = self.qkv(
            self.kernels.layer_norm(x, m.attention_factor, m.attention_offset, eps)
        )
        return qkv

    def split(self, qkv: Tensor, rotate: Rotate) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised, rotated q and k, and v, each ``[B, T, N, D]``: attention without an arena."""
        own, eps = self.block.self_attn, self.block.config.eps
        q, k, v = qkv.chunk(3, -1)
        q = rotate(self._heads(self.kernels.rms_norm(q, own.norm_q.weight, eps)))
        k = rotate(self._heads(self.kernels.rms_norm(k, own.norm_k.weight, eps)))
        return q, k, self._heads(v)

    def append(
        self,
        qkv: Tensor,
        rotation: Tensor,
        arena: KVArena,
        slots: Sequence[int],
        *,
        rotate_key: bool,
    ) -> Tensor:
        """Leave a chunk's keys and values in their arena slots; give its queries.

        Args:
            qkv: ``[1, T, 3 * dim]``.
            rotation: complex64 ``[T, D / 2]``.
            arena: of this layer.
            slots: arena slot of each of the chunk's latent frames.
            rotate_key: store keys rotated; otherwise as normalised.

        Returns:
            Normalised, rotated queries ``[1, T, N, D]``.
        """
        own = self.block.self_attn
        return self.kernels.qkv_append(
            qkv[0], own.norm_q.weight, own.norm_k.weight, rotation, arena.k, arena.v, slots,
            qkv.shape[1] // len(slots), self.block.config.eps, rotate_key,
        ).unsqueeze(0)  # fmt: skip

    def caption_kv(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-attention keys and values of embedded captions.

        Args:
            text: ``[captions, tokens, dim]``, after the text MLP.

        Returns:
            Two ``[captions, tokens, N, D]``.
        """
        k, v = self.cross_kv(text).chunk(2, -1)
        eps = self.block.config.eps
        k = self.kernels.rms_norm(k, self.block.cross_attn.norm_k.weight, eps)
        return self._heads(k), self._heads(v)

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.block.config.num_heads, -1))
        return heads


class Head(nn.Module):
    """Final modulated norm and projection to patches."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)
        self.head = nn.Linear(config.dim, config.out_dim * 4)

    def modulate(self, time_features: Tensor) -> tuple[Tensor, Tensor]:
        """Factor (1 + scale) and offset ``[B, F, dim]`` from the time MLP's ``[B, F, dim]``."""
        offset, scale = (time_features.unsqueeze(2) + self.modulation).unbind(2)
        return 1 + scale, offset

    def forward(self, x: Tensor, factor: Tensor, offset: Tensor, kernels: KernelSet) -> Tensor:
        """Return ``[B, T, 4 * out_dim]``, channel fastest inside a patch."""
        out: Tensor = self.head(kernels.head_norm(x, factor, offset, self.eps))
        return out
