"""One transformer block of the Wan2.1 architecture, and its head.

Parameters carry the names of the released checkpoints. ``bind`` pairs them with a ``KernelSet``;
the bound form is the only forward there is, for training, for the oracle and for fast backends.

Source: ShotStream ``wan/modules/causal_model.py``; the maths is in ``docs/architecture.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ..config import ModelConfig
    from ..kernels.kernel_set import KernelSet

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Self-attention of (rotated q, rotated k, v), each ``[B, T, N, D]``; returns like q. It may store
k and v in a cache and attend to more than them."""

CrossAttend = Callable[[Tensor], Tensor]
"""Cross-attention of normalised q ``[B, T, N, D]`` to the captions; returns like q."""

Rotate = Callable[[Tensor], Tensor]
"""Rotary embedding of ``[B, T, N, D]``."""


class Modulation(NamedTuple):
    """The six rows of adaptive modulation, each ``[B or 1, F or 1, 1, dim]``."""

    attention_shift: Tensor
    attention_scale: Tensor
    attention_gate: Tensor
    ffn_shift: Tensor
    ffn_scale: Tensor
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
        rows = time_rows + self.modulation
        return Modulation(*(row.unsqueeze(2) for row in rows.unbind(2)))

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
    qkv: Callable[[Tensor], Tensor]
    out: Callable[[Tensor], Tensor]
    cross_q: Callable[[Tensor], Tensor]
    cross_kv: Callable[[Tensor], Tensor]
    cross_out: Callable[[Tensor], Tensor]
    ffn_up: Callable[[Tensor], Tensor]
    ffn_down: Callable[[Tensor], Tensor]

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.block.config.num_heads, -1))
        return heads

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

    def project(
        self, x: Tensor, m: Modulation, rotate: Rotate, rotate_key: Rotate | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Modulated norm, projections, RMS norms and rotation: q, k, v ``[B, T, N, D]``.

        ``rotate_key`` stands in for ``rotate`` on keys that a cache keeps unrotated.
        """
        own, eps = self.block.self_attn, self.block.config.eps
        h = self._per_frame(x, m)
        h = self.kernels.modulated_layer_norm(h, m.attention_shift, m.attention_scale, eps)
        q, k, v = self.qkv(h.flatten(1, 2)).chunk(3, -1)
        q = rotate(self._heads(self.kernels.rms_norm(q, own.norm_q.weight, eps)))
        rotate_key = rotate_key or rotate
        k = rotate_key(self._heads(self.kernels.rms_norm(k, own.norm_k.weight, eps)))
        return q, k, self._heads(v)

    def __call__(
        self,
        x: Tensor,
        m: Modulation,
        rotate: Rotate,
        attend: Attend,
        cross: CrossAttend,
        rotate_key: Rotate | None = None,
    ) -> Tensor:
        """Run the block on ``[B, T, dim]``; ``T`` is the frames of ``m`` times their tokens."""
        kernels, eps = self.kernels, self.block.config.eps
        attended = attend(*self.project(x, m, rotate, rotate_key)).flatten(2)
        x = self._residual(x, self.out(attended), m.attention_gate)

        norm3 = self.block.norm3
        h = nn.functional.layer_norm(x, (x.shape[-1],), norm3.weight, norm3.bias, eps)
        q = kernels.rms_norm(self.cross_q(h), self.block.cross_attn.norm_q.weight, eps)
        x = x + self.cross_out(cross(self._heads(q)).flatten(2))

        h = kernels.modulated_layer_norm(self._per_frame(x, m), m.ffn_shift, m.ffn_scale, eps)
        return self._residual(x, self.ffn_down(self.ffn_up(h.flatten(1, 2))), m.ffn_gate)

    @staticmethod
    def _per_frame(x: Tensor, m: Modulation) -> Tensor:
        frames: Tensor = x.unflatten(1, (m.attention_gate.shape[1], -1))
        return frames

    def _residual(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        frames = gate.shape[1]
        x, y = x.unflatten(1, (frames, -1)), y.unflatten(1, (frames, -1))
        return self.kernels.gated_residual(x, y, gate).flatten(1, 2)


class Head(nn.Module):
    """Final modulated norm and projection to patches."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)
        self.head = nn.Linear(config.dim, config.out_dim * 4)

    def modulate(self, time_features: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale rows ``[B, F, 1, dim]`` from the time MLP's output ``[B, F, dim]``."""
        rows = time_features.unsqueeze(2) + self.modulation
        return rows[:, :, :1], rows[:, :, 1:]

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor, kernels: KernelSet) -> Tensor:
        """Return ``[B, T, 4 * out_dim]``, channel fastest inside a patch."""
        h = x.unflatten(1, (shift.shape[1], -1))
        h = kernels.modulated_layer_norm(h, shift, scale, self.eps)
        out: Tensor = self.head(h.flatten(1, 2))
        return out
