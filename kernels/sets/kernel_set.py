"""A frozen set of kernels: which form of every step a backend runs, chosen once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from ..reference import (
    adaln,
    dual_attention,
    history_attention,
    linear,
    qk_norm,
    qkv_append,
    renoise,
    rope_shot,
)
from ..reference.history_attention import Spans, attend_by_spans
from ..torch_ops import pass_ops
from .arena_layout import ArenaLayout, ArenaPart

LinearInput: TypeAlias = Any
"""Input of a set's linear layers: a tensor ``[B, T, dim]``, or ``Fp8Rows`` in the fp8 sets. Made by
the set's norms, read by its linear layers only."""


class Linear(Protocol):
    """A matrix product with its weights, made once by ``FuseLinear``."""

    @property
    def nbytes(self) -> int:
        """Bytes of weights held."""
        ...

    def __call__(self, x: LinearInput, /) -> LinearInput:
        """Multiply ``[..., in]``; a plain tensor ``[..., out]`` unless a GELU follows."""
        ...


class FuseLinear(Protocol):
    """Makes one product of layers that read the same input."""

    def __call__(self, layers: Sequence[nn.Linear], gelu: bool = False) -> Linear:
        """Return the product; outputs in the order of ``layers``, then an optional tanh-GELU."""
        ...


class Norm(Protocol):
    """``LN(x) * factor + offset``."""

    def __call__(self, x: Tensor, factor: Tensor, offset: Tensor, eps: float) -> LinearInput:
        """Normalise tokens.

        Args:
            x: ``[B, T, dim]``, tokens ordered by latent frame.
            factor: ``[B or 1, F or 1, dim]``; each row serves one frame's tokens.
            offset: like ``factor``.
            eps: added to the variance.
        """
        ...


class GatedResidualNorm(Protocol):
    """``z = x + y * gate`` and ``LN(z) * factor + offset``."""

    def __call__(
        self, x: Tensor, y: Tensor, gate: Tensor | None, factor: Tensor, offset: Tensor, eps: float
    ) -> tuple[Tensor, LinearInput]:
        """Return the sum, and the sum normalised.

        Args:
            x: ``[B, T, dim]``, tokens ordered by latent frame.
            y: like ``x``.
            gate: ``[B or 1, F or 1, dim]``; ``None`` for one.
            factor: ``[B or 1, F or 1, dim]``, of the norm.
            offset: like ``factor``.
            eps: added to the variance.
        """
        ...


class GatedResidual(Protocol):
    """``x + y * gate``."""

    def __call__(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        """Return the sum.

        Args:
            x: ``[B, T, dim]``, tokens ordered by latent frame.
            y: like ``x``.
            gate: ``[B or 1, F or 1, dim]``; each row serves one frame's tokens.
        """
        ...


class RmsNorm(Protocol):
    """RMS norm over the last axis, all heads together."""

    def __call__(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Normalise rows.

        Args:
            x: ``[..., dim]``.
            weight: factors ``[dim]``.
            eps: added to the mean square.
        """
        ...


class Rotate(Protocol):
    """Rotary embedding."""

    def __call__(self, x: Tensor, table: Tensor) -> Tensor:
        """Rotate ``x`` ``[..., T, N, D]`` by ``table``, complex64 ``[T, D / 2]``."""
        ...


class QkvAppend(Protocol):
    """Norms and rotation of a fused projection; keys and values into their arena slots."""

    def __call__(
        self, qkv: Tensor, weight_q: Tensor, weight_k: Tensor, table: Tensor, arena_k: ArenaPart,
        arena_v: ArenaPart, slots: Sequence[int], frame_tokens: int, eps: float, rotate_key: bool,
    ) -> Tensor:  # fmt: skip
        """Store keys and values, and return rotated queries ``[T, N, D]``.

        Args:
            qkv: ``[T, 3 * dim]``, queries | keys | values of a chunk.
            weight_q: ``[dim]``, factors of the queries' RMS norm.
            weight_k: ``[dim]``, factors of the keys' RMS norm.
            table: complex64 ``[T, D / 2]``.
            arena_k: keys of all slots, in the form that the set's ``arena`` says.
            arena_v: values, likewise.
            slots: arena slot of each of the chunk's latent frames.
            frame_tokens: tokens of a latent frame.
            eps: added to the mean square.
            rotate_key: store keys rotated; otherwise as normalised.
        """
        ...


class Attention(Protocol):
    """Softmax attention over a prefix of an arena or over a caption."""

    def __call__(
        self, q: Tensor, k: ArenaPart, v: ArenaPart, scale: float, bias: Tensor | None
    ) -> Tensor:
        """Attend; the result is like ``q``.

        Over an arena whose layout says so it is not a tensor but ``Fp8Rows``, which a linear layer
        takes as well.

        Args:
            q: ``[B, T, N, D]``.
            k: ``[B, keys, N, D]``; a prefix of an arena in the form that the set's ``arena`` says.
            v: like ``k``.
            scale: factor on the logits.
            bias: added to the logits ``[B, N, T, keys]``; ``None`` for none.
        """
        ...


class HistoryAttention(Protocol):
    """Attention in which each head reads its own ranges of the keys."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, spans: Sequence[Spans]
    ) -> Tensor:
        """Attend as ``Attention``.

        Args:
            q: ``[B, T, N, D]``.
            k: ``[B, keys, N, D]``, the prefix.
            v: like ``k``.
            scale: factor on the logits.
            spans: half-open token ranges, one list per head.
        """
        ...


class ToX0(Protocol):
    """Clean estimate from noisy latents and predicted flow."""

    def __call__(self, x_t: Tensor, flow: Tensor, sigma: Tensor | float) -> Tensor:
        """Return ``x_t - sigma * flow`` in the type of ``flow``.

        Args:
            x_t: noisy latents, any shape.
            flow: what was predicted of them, like ``x_t``.
            sigma: their noise level, from 0 to 1.
        """
        ...


class Advance(Protocol):
    """End of one denoising step, start of the next."""

    def __call__(
        self, x_t: Tensor, flow: Tensor, noise: Tensor, sigmas: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Return the clean estimate, and that estimate at the noise level of step ``step + 1``.

        Args:
            x_t: noisy latents, any shape.
            flow: what was predicted of them, like ``x_t``.
            noise: like ``x_t``, standard normal.
            sigmas: float64, noise level of each step.
            step: of the latents, an index into ``sigmas``.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSet:
    """The steps of a pass, each one call; signatures are those of ``kernels/reference``.

    A block is ``layer_norm -> linear -> qkv_append -> attention -> linear -> gated_residual_norm ->
    linear -> rms_norm -> cross_attention -> linear -> gated_residual_norm -> linear (GELU) ->
    linear -> gated_residual``; a step ends in ``advance``, the last one in ``to_x0``. Another set
    is made with ``dataclasses.replace``. A set with quantised products replaces ``fuse_linear``,
    ``layer_norm`` and ``gated_residual_norm`` together: the norms may give ``LinearInput`` of any
    form that its linear layers take. Those also take plain tensors (attention's result, captions);
    they give plain tensors, and with GELU the input of the next of them.

    Attributes:
        name: ``reference``, ``torch``, ``cpu`` or ``triton``, then what was replaced in it, as in
            ``triton+cudnn``.
        arena: how keys and values of the arena lie in memory, for ``qkv_append`` and ``attention``.
        fuse_linear: makes one product of layers that read the same input, once, as weights load.
        layer_norm: norm in front of a block's linear layer.
        gated_residual_norm: residual, and the norm in front of the next linear layer.
        gated_residual: residual at a block's end.
        head_norm: the norm in front of the output layer, which is the model's own: a plain tensor.
        rms_norm: norm of cross-attention's queries and keys.
        rotate: rotation of keys that an arena holds unrotated, as they are read.
        qkv_append: norms and rotation of a projection; keys and values into their arena slots.
        attention: over the valid prefix of an arena; the bias is ``None`` in inference.
        history_attention: over each head's own spans of the prefix, where history is pruned.
        cross_attention: over a caption's keys, with a bias per key.
        to_x0: clean estimate of the last step.
        advance: clean estimate of a step, and the next step's input.
    """

    name: str
    arena: ArenaLayout
    fuse_linear: FuseLinear
    layer_norm: Norm
    gated_residual_norm: GatedResidualNorm
    gated_residual: GatedResidual
    head_norm: Norm
    rms_norm: RmsNorm
    rotate: Rotate
    qkv_append: QkvAppend
    attention: Attention
    history_attention: HistoryAttention
    cross_attention: Attention
    to_x0: ToX0
    advance: Advance


REFERENCE = KernelSet(
    name="reference",
    arena=ArenaLayout(),
    fuse_linear=linear.fuse_linear,
    layer_norm=adaln.layer_norm,
    gated_residual_norm=adaln.gated_residual_norm,
    gated_residual=adaln.gated_residual,
    head_norm=adaln.layer_norm,
    rms_norm=qk_norm.rms_norm,
    rotate=rope_shot.rotate,
    qkv_append=qkv_append.qkv_append,
    attention=dual_attention.dual_attention,
    history_attention=history_attention.history_attention,
    cross_attention=dual_attention.dual_attention,
    to_x0=renoise.to_x0,
    advance=renoise.advance,
)


TORCH_OPS = replace(
    REFERENCE,
    name="torch",
    layer_norm=pass_ops.layer_norm,
    gated_residual_norm=pass_ops.gated_residual_norm,
    gated_residual=pass_ops.gated_residual,
    head_norm=pass_ops.layer_norm,
    rms_norm=pass_ops.rms_norm,
    rotate=pass_ops.rotate,
    qkv_append=pass_ops.qkv_append,
    attention=pass_ops.dual_attention,
    history_attention=partial(attend_by_spans, pass_ops.dual_attention),
    cross_attention=pass_ops.dual_attention,
    to_x0=pass_ops.to_x0,
    advance=pass_ops.advance,
)
"""Torch's own fused calls: runs everywhere, is never the fastest."""


def triton_unavailable_reason() -> str | None:
    """Return why the ``triton`` set cannot run here, or ``None``; its interpreter counts."""
    if find_spec("triton") is None:
        return "triton is not installed; pip install shotstream_rt[gpu]"
    if not torch.cuda.is_available() and not interpreting():
        return "no NVIDIA GPU that torch can use, and TRITON_INTERPRET is not 1"
    return None


def gluon_unavailable_reason(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Return why the attention written for sm_90 cannot run here, or ``None``.

    Args:
        device: where tensors are.
        dtype: of queries and results.
        head_dim: features per head.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return f"gluon attention needs an NVIDIA GPU that torch can use, not {device.type}"
    if find_spec("triton") is None or find_spec("triton.experimental.gluon") is None:
        return "gluon attention needs triton 3.6; pip install shotstream_rt[gpu]"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) != (9, 0):
        return f"gluon attention is for sm_90, not sm_{major}{minor}"
    if dtype != torch.bfloat16:
        return f"gluon attention takes bfloat16, not {str(dtype)[6:]}"
    if head_dim != 128:
        return f"gluon attention takes heads of 128, not {head_dim}"
    return None


def interpreting() -> bool:
    """Return whether Triton runs its kernels on the host."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def triton_kernels() -> KernelSet:
    """Build the set for GPUs: Triton kernels, matrix products by cuBLAS."""
    from ..gpu import adaln as gpu_adaln
    from ..gpu import dual_attention as gpu_attention
    from ..gpu import history_attention as gpu_history
    from ..gpu import linear as gpu_linear
    from ..gpu import qk_norm as gpu_norm
    from ..gpu import qkv_append as gpu_append
    from ..gpu import renoise as gpu_renoise
    from ..gpu import rope_shot as gpu_rope

    return replace(
        REFERENCE,
        name="triton",
        fuse_linear=gpu_linear.fuse_linear,
        layer_norm=gpu_adaln.layer_norm,
        gated_residual_norm=gpu_adaln.gated_residual_norm,
        gated_residual=gpu_adaln.gated_residual,
        head_norm=gpu_adaln.layer_norm,
        rms_norm=gpu_norm.rms_norm,
        rotate=gpu_rope.rotate,
        qkv_append=gpu_append.qkv_append,
        attention=gpu_attention.dual_attention,
        history_attention=gpu_history.history_attention,
        cross_attention=gpu_attention.dual_attention,
        to_x0=gpu_renoise.to_x0,
        advance=gpu_renoise.advance,
    )
