"""Matrix products on the CPU: linear layers packed once, nano's convolutions, and attention.

oneDNN's own float32 product reaches twice the rate of the default library on AVX-512 machines that
are not Intel's, and it applies the GELU while the result is still in registers.

In float32 on CPUs with AVX2 and nothing wider oneDNN reaches four fifths of what a core can
multiply, packs a head's keys and values in front of every product and reorders the images of every
convolution. There the native core's products take its place: they reach nine tenths and more and
give the same bits (``runtime/include/shotstream/product.h``, ``convolution.h``). One thread does
them: where torch has several for an operation, oneDNN divides its products over them and stays.

Attention is two products and a softmax per head, faster than ``scaled_dot_product_attention``
(bfloat16: 2 to 3 times). It wants the arena head by head in memory, so that each head's keys are
one dense matrix. On CPUs with a matrix unit (AMX, so Intel's) it is the other way round: torch's
fused attention multiplies blocks that stay in the cache, and takes three fifths of the time in
bfloat16 and three quarters in float32. On AMD's with products of bfloat16 the native core attends
in bfloat16 (``native_steps.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._native import (
    convolve,
    multiply,
    multiply_keys,
    multiply_values,
    pack_kernel,
    pack_weight,
    packed_numbers,
)
from ..reference.linear import FusedLinear, side_by_side
from ..torch_ops import pass_ops
from . import native_steps
from .instructions import (
    NARROW_HEAD,
    TYPICAL_ROWS,
    can_pack,
    has_avx2_alone,
    has_fast_vectors,
    has_matrix_unit,
)

if TYPE_CHECKING:
    from ..sets.kernel_set import Attention

_LANES = 16
"""Columns of a panel."""
_BLOCK = 8
"""Channels that a convolution reads at a time."""
_SMALL_IMAGE = 20480
"""Numbers up to which torch convolves an image that is alone by itself, not by oneDNN."""

_GELU: tuple[str, list[float], str] = ("gelu", [], "tanh")
_NO_GELU: tuple[str, list[float], str] = ("none", [], "")
"""What oneDNN does to a product while it is in registers."""

_PANEL_LOGITS_BYTES = 768 << 10
"""Most logits of one block of queries of all heads. Measured with 192 to 3,000 KiB: less costs
calls."""

_HEAD_LOGITS_BYTES = 1 << 20
"""Most logits of one block of queries of a head: a core's second-level cache. Measured with 0.25 to
4 MiB; in float32 twice as much costs a quarter of the speed."""


class PackedLinear:
    """One product ``[..., in] -> [..., out]`` on a weight that is held once, in oneDNN's order.

    Args:
        weight: ``[out, in]``; copied.
        bias: ``[out]``.
        gelu: apply the tanh approximation of GELU to the result, inside oneDNN's product.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        self.bias = bias.contiguous()
        self._weight = _in_onednn_order(weight)
        self._gelu: tuple[str, list[float], str] = _GELU if gelu else _NO_GELU

    @property
    def nbytes(self) -> int:
        """Bytes held; narrow weights are padded to whole blocks."""
        held = self._weight
        own = int(torch.ops.mkldnn._nbytes(held)) if held.is_mkldnn else held.nbytes
        return self.bias.nbytes + own

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply ``[..., in]``."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, *self._gelu)
        return y


class PanelLinear(PackedLinear):
    """The same in float32, on one thread by the native core, which wants a weight in panels.

    The order is changed when a thread comes whose operations have another number of threads. The
    result is the same.

    Args:
        weight: ``[out, in]``, float32; copied.
        bias: ``[out]``.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__(weight, bias)
        self._columns, self._inner = weight.shape

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply ``[..., in]``."""
        # Films share it: each goes on with what it has read here, whatever others make of it.
        held, inner = self._weight, self._inner
        if torch.get_num_threads() > 1:
            return self._divide(x, held)
        if held.is_mkldnn:
            held = self._weight = _in_panels(held.to_dense())
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], self._columns)
        multiply(
            x.data_ptr(), held.data_ptr(), self.bias.data_ptr(), out.data_ptr(),
            x.numel() // inner, inner, self._columns,
        )  # fmt: skip
        return out

    def _divide(self, x: Tensor, held: Tensor) -> Tensor:
        """Multiply by oneDNN, on several threads."""
        if not held.is_mkldnn:
            panels = held.view(-1, self._inner, _LANES).transpose(1, 2)
            dense = panels.reshape(-1, self._inner)[: self._columns]
            held = self._weight = _in_onednn_order(dense)
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, held, self.bias, *self._gelu)
        return y


def _in_onednn_order(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), TYPICAL_ROWS)
    return packed


def _in_panels(weight: Tensor) -> Tensor:
    """Copy a dense weight ``[out, in]`` into the order of the native core's linear layers."""
    columns, inner = weight.shape
    packed = weight.new_empty(packed_numbers(columns, inner))
    pack_weight(weight.data_ptr(), columns, inner, packed.data_ptr())
    return packed


def fuse_linear(layers: Sequence[nn.Linear], gelu: bool = False) -> PackedLinear | FusedLinear:
    """Like ``kernels.reference.linear.fuse_linear``, on packed weights.

    Not differentiable.

    Args:
        layers: linear layers of equal input width; outputs are concatenated in this order.
        gelu: apply the tanh approximation of GELU to the result.

    Returns:
        The product; torch's own, on plain weights, if oneDNN cannot pack them (``can_pack``).
    """
    weight, bias = (x.detach() for x in side_by_side(layers))
    if not can_pack(weight.dtype):
        return FusedLinear(weight, bias, gelu=gelu)
    if weight.dtype == torch.float32 and has_avx2_alone() and not gelu:
        return PanelLinear(weight, bias)
    return PackedLinear(weight, bias, gelu=gelu)


class PanelConvolution(nn.Conv2d):
    """A convolution of 3 x 3 pixels, padded by one, where ``fits`` says yes.

    A frozen one is the native core's in float32 on one thread, with the bits of torch's. Its weight
    is packed when it is first used so.
    """

    _packed: tuple[tuple[int, int], Tensor] | None = None
    """The weight that was packed, and its panels."""

    @staticmethod
    def fits(inputs: int, outputs: int) -> bool:
        """Tell whether this is the fastest form for these numbers of channels on this CPU."""
        return has_avx2_alone() and outputs % _LANES == 0 and inputs % _BLOCK == 0

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[B, in, h, w]`` to ``[B, out, h, w]``."""
        weight, bias, held = self.weight, self.bias, self._packed
        # What is traced has no memory; a small image alone torch does not give to oneDNN.
        plain = type(x) is Tensor and x.device.type == "cpu" and x.is_contiguous()
        fits = plain and weight.dtype == x.dtype == torch.float32 and torch.get_num_threads() == 1
        large = len(x) > 1 or x.numel() > _SMALL_IMAGE
        if bias is None or weight.requires_grad or x.requires_grad or not fits or not large:
            return super().forward(x)
        source = weight.data_ptr(), 0 if weight.is_inference() else weight._version
        if held is None or held[0] != source:
            held = self._packed = source, _in_kernel_order(weight)
        out = x.new_empty(len(x), self.out_channels, *x.shape[2:])
        convolve(
            x.data_ptr(), held[1].data_ptr(), bias.data_ptr(), out.data_ptr(),
            len(x), self.in_channels, self.out_channels, *x.shape[2:],
        )  # fmt: skip
        return out


def _in_kernel_order(weight: Tensor) -> Tensor:
    """Copy a weight ``[out, in, 3, 3]`` into the order of the native core's convolution."""
    source, packed = weight.contiguous(), weight.new_empty(weight.numel())
    pack_kernel(source.data_ptr(), weight.shape[0], weight.shape[1], packed.data_ptr())
    return packed


@cache
def attention_for(dtype: torch.dtype, head_dim: int) -> Attention:
    """Return the fastest attention; like ``reference.dual_attention.dual_attention``.

    Args:
        dtype: of queries, keys and values, and of the logits but for the native core's in bfloat16.
        head_dim: features per head.
    """
    one_form = dtype == torch.float32 and head_dim <= NARROW_HEAD
    if has_matrix_unit() and not one_form:
        return pass_ops.dual_attention
    if dtype == torch.bfloat16 and head_dim % native_steps.WIDTH_STEP == 0 and has_fast_vectors():
        return native_steps.dual_attention
    if dtype == torch.float32 and head_dim % _LANES == 0 and has_avx2_alone():
        return _attend_by_panels
    return _attend_by_head


def _attend_by_panels(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """Attend in float32 on one thread: two products of the native core per block of queries."""
    plain = q.dtype == torch.float32 and k.stride(-1) == v.stride(-1) == 1
    if torch.get_num_threads() > 1 or not plain:
        return _attend_by_head(q, k, v, scale, bias)
    (_, queries, heads, width), keys = q.shape, k.shape[1]
    most = max(1, _PANEL_LOGITS_BYTES // (heads * keys * q.element_size()))
    rows = -(-queries // -(-queries // most))
    scaled, room = (q * scale).contiguous(), q.new_empty(heads, rows, keys)
    out, of_room = torch.empty_like(scaled), (keys, rows * keys)
    of_k, of_v, of_q = (x.stride()[1:3] for x in (k, v, scaled))
    for x, y in zip(scaled.split(rows, 1), out.split(rows, 1), strict=True):
        logits, sizes = room[:, : x.shape[1]], (x.shape[1], keys, heads, width)
        multiply_keys(x.data_ptr(), k.data_ptr(), logits.data_ptr(), sizes, of_q, of_k, of_room)
        if bias is not None:
            logits += bias
        torch.softmax(logits, -1, out=logits)
        multiply_values(logits.data_ptr(), v.data_ptr(), y.data_ptr(), sizes, of_room, of_v, of_q)
    return out


def _attend_by_head(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """Attend with two products per head and block of queries.

    A strided matrix would send oneDNN to its reference loops, hundreds of times slower, so keys and
    values are made dense first.
    """
    product = _onednn_product if can_pack(q.dtype) else F.linear
    _, queries, heads, width = q.shape
    keys = k.shape[1]
    blocks = -(-queries * keys * q.element_size() // _HEAD_LOGITS_BYTES)
    rows = -(-queries // blocks)
    out = q.new_empty(heads, queries, width)
    scaled = (q[0] * scale).transpose(0, 1).contiguous()
    for head in range(heads):
        k_head, v_head = k[0, :, head].contiguous(), v[0, :, head].contiguous().t()
        for start in range(0, queries, rows):
            block = slice(start, start + rows)
            logits = product(scaled[head, block], k_head)
            if bias is not None:
                logits = logits + bias
            weights = torch.softmax(logits, -1).to(q.dtype)
            out[head, block] = product(weights, v_head)
    return out.transpose(0, 1).unsqueeze(0)


def _onednn_product(x: Tensor, weight: Tensor) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, *_NO_GELU)
    return y
