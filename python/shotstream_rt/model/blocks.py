"""One transformer block of the Wan2.1 architecture, and the two ends of the network.

``Block`` holds parameters under the names of the released checkpoints. ``bind`` pairs them with a
``KernelSet``; the bound form is the only forward pass: training, checks and all torch backends use
it. It has three parts, before, between and after the block's two attentions, because only the
caller knows which keys there are: a pass reads an arena, training masks a sequence.

Source: ShotStream ``wan/modules/causal_model.py``; the maths is in ``docs/architecture.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.reference.dual_attention_fp8 import value_reach
from ..nvtx import detail

if TYPE_CHECKING:
    from ..backends.cache import KVArena
    from ..config import ModelConfig
    from ..kernels.sets.kernel_set import KernelSet, Linear
    from ..plan.pass_plan import PassPlan


class Modulation(NamedTuple):
    """The six rows of adaptive modulation, ``[B or 1, F or 1, dim]``; factors are 1 + scale."""

    attention_offset: Tensor
    attention_factor: Tensor
    attention_gate: Tensor
    ffn_offset: Tensor
    ffn_factor: Tensor
    ffn_gate: Tensor


def modulate(time_rows: Tensor, table: Tensor) -> Modulation:
    """Add a block's table to the time projection.

    Args:
        time_rows: ``[B, F, 6, dim]``.
        table: ``[1, 6, dim]``.
    """
    rows = Modulation(*(time_rows + table).unbind(2))
    return rows._replace(attention_factor=1 + rows.attention_factor, ffn_factor=1 + rows.ffn_factor)


class RmsNorm(nn.Module):
    """The learned factors of an RMS norm; the maths is in ``kernels/reference/qk_norm.py``."""

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
        self.modulation = nn.Parameter(_random_table(6, dim))
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
        return modulate(time_rows, self.modulation)

    def bind(
        self, kernels: KernelSet, load: Callable[[nn.Linear, str], None] | None = None
    ) -> BoundBlock:
        """Pair the parameters with kernels; fused or packed weights are made here, once.

        The bound block holds no parameter that a fused weight replaces, so that dropping this block
        frees them.

        Args:
            kernels: the kernel set to run.
            load: given a linear layer and its name in the block, puts its weights in place. The
                layer is dropped as soon as it is fused, so that no more than one fused layer is
                held twice; this block is of no use afterwards. Default: the weights are in place.
        """
        own, cross = self.self_attn, self.cross_attn
        names = {module: name for name, module in self.named_modules()}
        reach: list[Tensor] = []

        def fused(*layers: nn.Linear, gelu: bool = False) -> Linear:
            if load is not None:
                for layer in layers:
                    load(layer, names[layer])
            if kernels.arena.values_in_8_bits and own.v in layers:
                reach.append(value_reach(own.v, self.config.num_heads))
            product = kernels.fuse_linear(layers, gelu)
            if load is not None:
                for layer in layers:
                    del layer.weight, layer.bias
            return product

        qkv = fused(own.q, own.k, own.v)
        return BoundBlock(
            kernels=kernels,
            heads=self.config.num_heads,
            eps=self.config.eps,
            modulation=self.modulation,
            norm_q=own.norm_q.weight,
            norm_k=own.norm_k.weight,
            cross_factor=self.norm3.weight[None, None],
            cross_offset=self.norm3.bias[None, None],
            cross_norm_q=cross.norm_q.weight,
            cross_norm_k=cross.norm_k.weight,
            value_reach=reach[0] if reach else None,
            qkv=qkv,
            out=fused(own.o),
            cross_q=fused(cross.q),
            cross_kv=fused(cross.k, cross.v),
            cross_out=fused(cross.o),
            ffn_up=fused(self._ffn(0), gelu=True),
            ffn_down=fused(self._ffn(2)),
        )

    def names_beside_linear_layers(self) -> list[str]:
        """Return the names of the parameters that ``bind`` keeps as they are."""
        linear = {name for name, module in self.named_modules() if isinstance(module, nn.Linear)}
        return [name for name in self.state_dict() if name.rpartition(".")[0] not in linear]

    def _ffn(self, index: int) -> nn.Linear:
        layer = self.ffn[index]
        assert isinstance(layer, nn.Linear)
        return layer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BoundBlock:
    """A block ready to run, in three parts around its two attentions.

    A pass is::

        qkv = block.project(x, m)                       # [B, T, 3 * dim]
        attended = ...                                  # self-attention, [B, T, dim]
        x, q = block.leave_self(x, attended, m)         # q [B, T, N, D]
        attended = ...                                  # cross-attention, [B, T, dim]
        x = block.leave_cross(x, attended, m)           # [B, T, dim]

    ``x`` are tokens ``[B, T, dim]``, ``m`` is the modulation of their frames, which have equal
    numbers of them, and ``attended`` is like ``x``, with all heads side by side: what the last two
    add to ``x`` behind an output layer. ``append`` and ``split`` are the two ways from ``qkv`` to
    queries, keys and values: into the layer's arena, rotated there or not as the plan of the pass
    says, or as tensors. Both rotate by ``rotation``, complex64 ``[T, D / 2]``.

    Attributes:
        kernels: the kernel set to run.
        heads: attention heads ``N``.
        eps: of every norm.
        modulation: ``[1, 6, dim]``; see ``modulate``.
        norm_q: ``[dim]``, factors of the norm of self-attention's queries.
        norm_k: ``[dim]``, of its keys.
        cross_factor: ``[1, 1, dim]``, factor of the norm in front of cross-attention.
        cross_offset: ``[1, 1, dim]``, its offset.
        cross_norm_q: ``[dim]``, factors of the norm of cross-attention's queries.
        cross_norm_k: ``[dim]``, of its keys.
        value_reach: ``[2, N]``, see ``reference.dual_attention_fp8``; ``None`` where the kernels
            keep values in the model's type.
        qkv: queries | keys | values of self-attention.
        out: self-attention's output layer.
        cross_q: cross-attention's queries.
        cross_kv: keys | values of embedded captions.
        cross_out: cross-attention's output layer.
        ffn_up: the feed-forward's first layer and its GELU.
        ffn_down: its second layer.
    """

    kernels: KernelSet
    heads: int
    eps: float
    modulation: Tensor
    norm_q: Tensor
    norm_k: Tensor
    cross_factor: Tensor
    cross_offset: Tensor
    cross_norm_q: Tensor
    cross_norm_k: Tensor
    value_reach: Tensor | None
    qkv: Linear
    out: Linear
    cross_q: Linear
    cross_kv: Linear
    cross_out: Linear
    ffn_up: Linear
    ffn_down: Linear

    @property
    def nbytes(self) -> int:
        """Bytes of all weights held."""
        parts = (
            self.modulation, self.norm_q, self.norm_k, self.cross_factor, self.cross_offset,
            self.cross_norm_q, self.cross_norm_k, self.qkv, self.out, self.cross_q, self.cross_kv,
            self.cross_out, self.ffn_up, self.ffn_down,
        )  # fmt: skip
        return sum(part.nbytes for part in parts)

    def project(self, x: Tensor, m: Modulation) -> Tensor:
        """Modulated norm of ``x`` ``[B, T, dim]``, then raw queries | keys | values."""
        with detail("attn"):
            h = self.kernels.layer_norm(x, m.attention_factor, m.attention_offset, self.eps)
            qkv: Tensor = self.qkv(h)
            return qkv

    def append(self, qkv: Tensor, rotation: Tensor, arena: KVArena, plan: PassPlan) -> Tensor:
        """Store keys and values, give queries ``[1, T, N, D]``; arguments: see ``BoundBlock``."""
        with detail("attn"):
            return self.kernels.qkv_append(
                qkv[0], self.norm_q, self.norm_k, rotation, arena.keys, arena.values, plan.writes,
                qkv.shape[1] // len(plan.writes), self.eps, plan.rotate_keys,
            ).unsqueeze(0)  # fmt: skip

    def leave_self(self, x: Tensor, attended: Tensor, m: Modulation) -> tuple[Tensor, Tensor]:
        """Return the sum, and queries of cross-attention; arguments: see ``BoundBlock``."""
        with detail("attn"):
            x, h = self.kernels.gated_residual_norm(
                x, self.out(attended), m.attention_gate, self.cross_factor, self.cross_offset,
                self.eps,
            )  # fmt: skip
        with detail("cross"):
            q = self.kernels.rms_norm(self.cross_q(h), self.cross_norm_q, self.eps)
            return x, q.unflatten(-1, (self.heads, -1))

    def leave_cross(self, x: Tensor, attended: Tensor, m: Modulation) -> Tensor:
        """Return the sum, the feed-forward's result added; arguments as of ``leave_self``."""
        with detail("cross"):
            x, h = self.kernels.gated_residual_norm(
                x, self.cross_out(attended), None, m.ffn_factor, m.ffn_offset, self.eps
            )
        with detail("ffn"):
            return self.kernels.gated_residual(x, self.ffn_down(self.ffn_up(h)), m.ffn_gate)

    def split(self, qkv: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as tensors: attention without an arena.

        Args:
            qkv: ``[B, T, 3 * dim]``.
            rotation: complex64 ``[T, D / 2]``, or one of each sample ``[B, T, D / 2]``.

        Returns:
            Normalised, rotated q and k, and v, each ``[B, T, N, D]``.
        """
        kernels = self.kernels
        q, k, v = qkv.chunk(3, -1)
        q = kernels.rotate(self._heads(kernels.rms_norm(q, self.norm_q, self.eps)), rotation)
        k = kernels.rotate(self._heads(kernels.rms_norm(k, self.norm_k, self.eps)), rotation)
        return q, k, self._heads(v)

    def caption_kv(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[captions, tokens, N, D]`` of captions ``[captions, tokens, dim]``."""
        k, v = self.cross_kv(text).chunk(2, -1)
        k = self.kernels.rms_norm(k, self.cross_norm_k, self.eps)
        return k.unflatten(-1, (self.heads, -1)), v.unflatten(-1, (self.heads, -1))

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1))
        return heads


class PatchEmbedding(nn.Conv3d):
    """From latents to tokens; the convolution does not overlap, so it is one matrix product."""

    def forward(self, latents: Tensor) -> Tensor:
        """Turn latents ``[B, F, C, h, w]`` into tokens ``[B, T, dim]``, by frame, row, column."""
        patches = latents.to(self.weight.dtype).unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))
        patches = patches.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)
        return F.linear(patches, self.weight.flatten(1), self.bias)


class Head(nn.Module):
    """Final modulated norm and projection to patches, channel fastest inside a patch."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(_random_table(2, config.dim))
        self.head = nn.Linear(config.dim, config.out_dim * 4)

    def modulate(self, time_features: Tensor) -> tuple[Tensor, Tensor]:
        """Factor (1 + scale) and offset ``[B, F, dim]`` from the time MLP's ``[B, F, dim]``."""
        offset, scale = (time_features.unsqueeze(2) + self.modulation).unbind(2)
        return 1 + scale, offset

    def forward(self, x: Tensor, factor: Tensor, offset: Tensor, kernels: KernelSet) -> Tensor:
        """Return patches ``[B, T, 4 * out_dim]``.

        Args:
            x: tokens ``[B, T, dim]``.
            factor: as ``modulate`` returns it.
            offset: likewise.
            kernels: the kernel set to run.
        """
        out: Tensor = self.head(kernels.head_norm(x, factor, offset, self.eps))
        return out


def fold_patches(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Turn patches ``[B, T, 4 * C]`` into latents ``[B, F, C, h, w]``; ``grid`` is of a frame."""
    x: Tensor = patches.unflatten(-1, (2, 2, -1)).unflatten(1, (-1, *grid))
    return x.permute(0, 1, 6, 2, 4, 3, 5).flatten(5).flatten(3, 4)


def _random_table(rows: int, dim: int) -> Tensor:
    """Initial modulation ``[1, rows, dim]``; on the meta device nothing is drawn.

    Torch computes ``randn / x`` on the meta device by decomposing it, and its first decomposition
    imports the compiler: seconds, and 140 MiB, for numbers that are never used.
    """
    table = torch.empty(1, rows, dim)
    return table if table.is_meta else table.normal_().div_(dim**0.5)
