"""Products of float32 on a CPU whose widest registers are those of AVX2, by the native core.

oneDNN's reach four fifths of what such a core can multiply, it packs a head's keys and values in
front of every product and reorders the images of every convolution; the core's reach nine tenths
and more and give the same bits (``runtime/include/shotstream/product.h``, ``convolution.h``).

One thread does them: where torch has several for an operation, oneDNN divides its products over
them and stays.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ..._native import (
    convolve,
    has_products,
    multiply,
    multiply_keys,
    multiply_values,
    pack_kernel,
    pack_weight,
    packed_numbers,
)

_LANES = 16
_BLOCK = 8
_SMALL_IMAGE = 20480
"""Numbers up to which torch convolves an image that is alone by itself."""

_LOGITS_BYTES = 768 << 10
"""Most logits of one block of queries. Measured with 192 to 3,000 KiB: less costs calls."""


@cache
def has_avx2_alone() -> bool:
    """Tell whether this CPU has AVX2 and nothing wider, and torch uses it.

    A release of torch that cannot tell whether there is AVX-512 answers no.
    """
    has_more = getattr(torch.cpu, "_is_avx512_supported", None)
    used = torch.backends.cpu.get_cpu_capability() == "AVX2"
    return used and has_products() and has_more is not None and not has_more()


def can_pack(weight: Tensor) -> bool:
    """Tell whether a weight ``[out, in]`` may be held for these products."""
    return weight.dtype == torch.float32 and has_avx2_alone()


class PanelWeight:
    """A linear layer's weight in the order of these products.

    Args:
        weight: ``[out, in]``; copied.
        bias: ``[out]``.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._columns, self._inner = weight.shape
        self._bias = bias.contiguous()
        self._packed = weight.new_empty(packed_numbers(self._columns, self._inner))
        source = weight.contiguous()
        pack_weight(source.data_ptr(), self._columns, self._inner, self._packed.data_ptr())

    @property
    def nbytes(self) -> int:
        """Bytes held beside the bias."""
        return self._packed.nbytes

    def unpacked(self) -> Tensor:
        """Return the weight ``[out, in]``."""
        panels = self._packed.view(-1, self._inner, _LANES).transpose(1, 2)
        return panels.reshape(-1, self._inner)[: self._columns]

    def multiply(self, x: Tensor) -> Tensor:
        """Multiply ``[..., in]`` and add the bias."""
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], self._columns)
        multiply(
            x.data_ptr(), self._packed.data_ptr(), self._bias.data_ptr(), out.data_ptr(),
            x.numel() // self._inner, self._inner, self._columns,
        )  # fmt: skip
        return out


class PanelKernel:
    """The weight of a convolution of 3 x 3 pixels, padded by one, in the order of these products.

    Args:
        weight: ``[out, in, 3, 3]``, such as ``fits_images`` takes; copied.
        bias: ``[out]``.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._outputs, self._inputs = weight.shape[:2]
        self._bias, source = bias.contiguous(), weight.contiguous()
        self._packed = source.new_empty(source.numel())
        pack_kernel(source.data_ptr(), self._outputs, self._inputs, self._packed.data_ptr())

    def convolve(self, x: Tensor) -> Tensor:
        """Convolve ``[B, in, h, w]`` and add the bias."""
        images, _, height, width = x.shape
        out = x.new_empty(images, self._outputs, height, width)
        convolve(
            x.data_ptr(), self._packed.data_ptr(), self._bias.data_ptr(), out.data_ptr(),
            images, self._inputs, self._outputs, height, width,
        )  # fmt: skip
        return out


def fits_images(x: Tensor, weight: Tensor) -> bool:
    """Tell whether ``PanelKernel`` is the fastest for images ``[B, in, h, w]``, with oneDNN's bits.

    A small image alone torch does not give to oneDNN, and one that is traced has no memory.
    """
    outputs, inputs = weight.shape[:2]
    channels = outputs % _LANES == 0 and inputs % _BLOCK == 0
    large = len(x) > 1 or x.numel() > _SMALL_IMAGE
    plain = type(x) is Tensor and x.device.type == "cpu" and x.is_contiguous()
    alone = has_avx2_alone() and torch.get_num_threads() == 1
    return plain and channels and large and weight.dtype == x.dtype == torch.float32 and alone


def fits_heads(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Tell whether ``attend`` takes these; they are as for it."""
    rows = all(x.stride(-1) == 1 for x in (k, v))
    alone = has_avx2_alone() and torch.get_num_threads() == 1
    return rows and q.shape[-1] % _LANES == 0 and q.dtype == torch.float32 and alone


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """Like ``reference.dual_attention.dual_attention``, with its arguments."""
    _, queries, heads, width = q.shape
    keys = k.shape[1]
    most = max(1, _LOGITS_BYTES // (heads * keys * q.element_size()))
    rows = -(-queries // -(-queries // most))
    scaled = (q * scale).contiguous()
    out, logits = torch.empty_like(scaled), q.new_empty(heads, rows, keys)
    k_strides, v_strides, strides = (x.stride()[1:3] for x in (k, v, scaled))
    for start in range(0, queries, rows):
        count = min(rows, queries - start)
        place, part = start * scaled.stride(1) * q.element_size(), logits[:, :count]
        sizes, logits_strides = (count, keys, heads, width), (keys, rows * keys)
        multiply_keys(
            scaled.data_ptr() + place, k.data_ptr(), part.data_ptr(), sizes,
            strides, k_strides, logits_strides,
        )  # fmt: skip
        if bias is not None:
            part += bias
        torch.softmax(part, -1, out=part)
        multiply_values(
            part.data_ptr(), v.data_ptr(), out.data_ptr() + place, sizes,
            logits_strides, v_strides, strides,
        )  # fmt: skip
    return out
