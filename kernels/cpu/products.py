"""Matrix products on the CPU through oneDNN: linear layers packed once, and attention.

oneDNN's own float32 product reaches twice the rate of the default library on AVX-512 machines that
are not Intel's, and it applies the GELU while the result is still in registers.

Attention is two such products and a softmax per head, faster than ``scaled_dot_product_attention``
there (bfloat16: 2 to 3 times). It wants the arena head by head in memory, so that each head's keys
are one dense matrix: a strided one would send oneDNN to its reference loops, hundreds of times
slower, so it is made dense first. In float32 on CPUs with AVX2 and nothing wider the native core's
products take oneDNN's place (``avx2_products.py``), with the same bits.

On CPUs with a matrix unit (AMX, so Intel's) it is the other way round: torch's fused attention
multiplies blocks that stay in the cache, and takes three fifths of the time in bfloat16 and three
quarters in float32. On AMD's with products of bfloat16 the native core attends in bfloat16
(``bfloat16_attention.py``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..._native import has_fast_bfloat16_products
from ..reference.linear import FusedLinear, side_by_side
from ..torch_ops import dual_attention as fused_attention
from . import avx2_products, bfloat16_attention
from .avx2_products import PanelWeight

_TYPICAL_ROWS = 512

_LOGITS_BYTES = 1 << 20
"""Most logits of one block of queries: a core's second-level cache. Measured with 0.25 to 4 MiB; in
float32 twice as much costs a quarter of the speed."""


_NARROW = 64
"""Features of a head up to which attention in float32 has one form on all CPUs."""

_ONEDNN_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""oneDNN's own variables: the instructions that it may use. The first one that is set counts."""

_WITHOUT_BFLOAT16 = ("AVX512_CORE", "AVX512_CORE_VNNI")
"""Limits of oneDNN under which it multiplies bfloat16 by other instructions: on a Zen 5 in three
times the time of float32."""


class PackedLinear:
    """One product ``[..., in] -> [..., out]`` on a weight that is held once, in the fastest order.

    That is oneDNN's own; or, for float32 with AVX2 on one thread, the native core's. It is changed
    when a thread comes whose operations have another number of threads. The result is the same.

    Args:
        weight: ``[out, in]``; copied.
        bias: ``[out]``.
        gelu: apply the tanh approximation of GELU to the result.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        self.bias = bias
        # The GELU is oneDNN's own, in its product.
        self._may_change = avx2_products.can_pack(weight) and not gelu
        self._weight: Tensor | PanelWeight = _in_onednn_order(weight)
        self._activation: tuple[str, list[float], str] = (
            ("gelu", [], "tanh") if gelu else ("none", [], "")
        )

    @property
    def nbytes(self) -> int:
        """Bytes held; oneDNN pads narrow weights to whole blocks."""
        held = self._weight
        own = isinstance(held, PanelWeight)
        return self.bias.nbytes + (held.nbytes if own else int(torch.ops.mkldnn._nbytes(held)))

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply ``[..., in]``."""
        # Films share it: each goes on with what it has read here, whatever others make of it.
        held = self._weight
        if self._may_change and torch.get_num_threads() == 1:
            if not isinstance(held, PanelWeight):
                held = self._weight = PanelWeight(held.to_dense(), self.bias)
            return held.multiply(x)
        if isinstance(held, PanelWeight):
            held = self._weight = _in_onednn_order(held.unpacked())
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, held, self.bias, *self._activation)
        return y


def _in_onednn_order(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _TYPICAL_ROWS)
    return packed


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Tell whether oneDNN multiplies packed weights of a type on this CPU.

    It has no bfloat16 product for CPUs without AVX-512 (or below it, if ``ONEDNN_MAX_CPU_ISA`` says
    so); which instructions it wants differs from release to release, so one product is tried.
    """
    one = torch.ones(16, 16, dtype=dtype, device="cpu")
    try:
        PackedLinear(one, one[0])(one)
    except RuntimeError:
        return False
    return True


@cache
def has_matrix_unit() -> bool:
    """Tell whether this CPU multiplies tiles of bfloat16 (AMX), and oneDNN may use it.

    False too where ``ONEDNN_MAX_CPU_ISA`` keeps oneDNN from it.
    """
    limit = _onednn_limit()
    allowed = not limit or "AMX" in limit
    return allowed and _has("_is_amx_tile_supported") and can_pack(torch.bfloat16)


@cache
def has_fast_vectors() -> bool:
    """Tell whether this CPU multiplies vectors of bfloat16 twice as fast as those of float32.

    AMD's with AVX-512 do; on Intel's with those instructions, and no matrix unit, nano's film takes
    longer in bfloat16 than in float32. False too where oneDNN may not use them.
    """
    allowed = _onednn_limit() not in _WITHOUT_BFLOAT16
    return allowed and has_fast_bfloat16_products() and can_pack(torch.bfloat16)


@cache
def has_fast_bfloat16() -> bool:
    """Tell whether bfloat16 is the faster type on this CPU."""
    return has_matrix_unit() or has_fast_vectors()


@cache
def divides_exactly(dtype: torch.dtype) -> bool:
    """Tell whether products of a type keep their bits however their rows are divided.

    By parts of the rows, or by threads. They were compared in float32 where AVX2 is the widest, and
    in bfloat16 on AMD's CPUs; elsewhere this says no.
    """
    if dtype == torch.float32:
        return avx2_products.has_avx2_alone()
    return dtype == torch.bfloat16 and has_fast_vectors() and not has_matrix_unit()


def _onednn_limit() -> str:
    """Return oneDNN's name of the instructions that it is kept to, or "" if it may use all."""
    values = (os.environ.get(name, "").upper() for name in _ONEDNN_LIMITS)
    limit = next(filter(None, values), "")
    return "" if limit in ("DEFAULT", "ALL") else limit


def _has(question: str) -> bool:
    """Ask torch, which has no public name for it; a release that cannot be asked answers no."""
    asked = getattr(torch.cpu, question, None)
    return asked is not None and bool(asked())


def fuse_linear(layers: Sequence[nn.Linear], gelu: bool = False) -> PackedLinear | FusedLinear:
    """Like ``kernels.reference.linear.fuse_linear``, on weights in oneDNN's order.

    Not differentiable.

    Args:
        layers: linear layers of equal input width; outputs are concatenated in this order.
        gelu: apply the tanh approximation of GELU to the result.

    Returns:
        The product; torch's own, on plain weights, if oneDNN cannot pack them (``can_pack``).
    """
    weight, bias = side_by_side(layers)
    if can_pack(weight.dtype):
        return PackedLinear(weight.detach(), bias.detach(), gelu=gelu)
    return FusedLinear(weight.detach(), bias.detach(), gelu=gelu)


def dual_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None
) -> Tensor:
    """See ``reference.dual_attention.dual_attention``; arguments as there.

    Logits are in the type of the inputs.
    """
    # Nano's films in float32 keep their bits, and it has narrow heads.
    narrow_float32 = q.dtype == torch.float32 and q.shape[-1] <= _NARROW
    if not narrow_float32 and has_matrix_unit():
        return fused_attention.dual_attention(q, k, v, scale, bias)
    if bfloat16_attention.fits_heads(q, k, v, bias) and has_fast_vectors():
        return bfloat16_attention.attend(q, k, v, scale, bias)
    if avx2_products.fits_heads(q, k, v):
        return avx2_products.attend(q, k, v, scale, bias)
    return _attend_by_head(q, k, v, scale, bias)


def _attend_by_head(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """Attend with two products per head and block of queries."""
    product = _onednn_product if can_pack(q.dtype) else F.linear
    _, queries, heads, width = q.shape
    keys = k.shape[1]
    blocks = -(-queries * keys * q.element_size() // _LOGITS_BYTES)
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
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y
