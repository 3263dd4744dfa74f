"""Linear layers in the form that segments have: weights ``[in, out]`` as tensors of their own.

The same objects are exported (on the meta device) and hold the weights that an opened model binds,
so the two cannot differ. They are callable like those of any kernel set.

The forms in 8 bits are ``reference.fp8_linear``'s: one scale per token and one per output channel.
Their product is a custom operator, which becomes a quantise and a dequantise node with a constant
scale of one; the true scales are explicit multiplications. A scale that were an input of such a
node would make libraries multiply in 16 bits without a word.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.reference.fp8_linear import quantise_weight
from ..kernels.reference.fp8_rows import FLOOR, LARGEST
from ..kernels.reference.linear import side_by_side
from ..kernels.sets.kernel_set import KernelSet

LARGEST_INT8 = 127.0

_LIBRARY = torch.library.Library("shotstream_export", "DEF")
_LIBRARY.define("product_8bit(Tensor rows, Tensor weight) -> Tensor")


def _product_8bit(rows: Tensor, weight: Tensor) -> Tensor:
    if weight.dtype == torch.int8:
        return rows.round().clamp(-128, 127) @ weight.float()
    return rows.to(weight.dtype).float() @ weight.float()


_LIBRARY.impl("product_8bit", _product_8bit, "CompositeExplicitAutograd")


def _shape_of_product(rows: Tensor, weight: Tensor) -> Tensor:
    return rows.new_empty(*rows.shape[:-1], weight.shape[1])


torch.library.register_fake("shotstream_export::product_8bit", _shape_of_product, lib=_LIBRARY)


class ScaledRows(NamedTuple):
    """Rows stretched to the range of 8-bit numbers, not rounded yet.

    Attributes:
        values: float32 ``[..., width]``.
        scale: float32 ``[..., 1]``; times ``values`` gives the rows.
    """

    values: Tensor
    scale: Tensor


class _Held(nn.Module):
    """Layers on one input, whose tensors are parameters."""

    largest: float | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of weights held."""
        return sum(parameter.nbytes for parameter in self.parameters())

    def hold(self, **tensors: Tensor) -> None:
        """Keep tensors as parameters under these names."""
        for name, tensor in tensors.items():
            setattr(self, name, nn.Parameter(tensor.detach().contiguous(), requires_grad=False))


class Product(_Held):
    """One product ``[..., in] -> [..., out]`` in the model's type.

    Args:
        layers: linear layers that read the same input.
        gelu: apply the tanh approximation of GELU.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: Sequence[nn.Linear], gelu: bool = False) -> None:
        super().__init__()
        weight, bias = side_by_side(layers)
        self.hold(weight=weight.t(), bias=bias[None, None])
        self.gelu = gelu

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``[..., in]``."""
        y = x @ self.weight + self.bias
        return F.gelu(y, approximate="tanh") if self.gelu else y


class Product8Bit(_Held, ABC):
    """One product on a weight in 8 bits.

    Args:
        layers: linear layers that read the same input.
        gelu: apply the tanh approximation of GELU and stretch the result for the next product.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor
    largest: float

    def __init__(self, layers: Sequence[nn.Linear], gelu: bool = False) -> None:
        super().__init__()
        weight, bias = side_by_side(layers)
        values, scale = self.quantise(weight.detach())
        self.hold(weight=values.t(), scale=scale.t()[None], bias=bias[None, None])
        self.gelu, self._dtype = gelu, weight.dtype

    @abstractmethod
    def quantise(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Give 8-bit numbers like ``weight`` ``[out, in]`` and scales ``[out, 1]``."""

    def forward(self, x: Tensor | ScaledRows) -> Tensor | ScaledRows:
        """Multiply ``[..., in]``, stretched or not (then it is stretched first).

        Unlike the kernel sets' twins in a 16-bit type, what goes into the GELU is not rounded to it
        in between.
        """
        rows = x if isinstance(x, ScaledRows) else stretch_rows(x, self.largest)
        y: Tensor = torch.ops.shotstream_export.product_8bit(rows.values, self.weight)
        y = y * (rows.scale * self.scale) + self.bias.float()
        if self.gelu:
            return stretch_rows(F.gelu(y, approximate="tanh"), self.largest)
        return y.to(self._dtype)


class Fp8Product(Product8Bit):
    """``Product8Bit`` on e4m3 numbers, as ``reference.fp8_linear`` computes."""

    largest = LARGEST

    def quantise(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Product8Bit``."""
        return quantise_weight(weight)


class Int8Product(Product8Bit):
    """``Product8Bit`` on integers, for GPUs without e4m3."""

    largest = LARGEST_INT8

    def quantise(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Product8Bit``."""
        values, scale = stretch_rows(weight, self.largest)
        return values.round().to(torch.int8), scale


PRODUCTS = {"exact": Product, "fp8": Fp8Product, "int8": Int8Product}
"""By the name that ``export --products`` has for them."""


def stretch_rows(x: Tensor, largest: float) -> ScaledRows:
    """Scale rows so that their largest number is the largest of an 8-bit type.

    Args:
        x: ``[..., width]``, finite, of any float type.
        largest: of the type.
    """
    wide = x.float()
    peak = wide.abs().amax(-1, keepdim=True).clamp(min=FLOOR)
    return ScaledRows(wide * (largest / peak), peak / largest)


def with_products(kernels: KernelSet, products: str) -> KernelSet:
    """Give a kernel set products whose tensors segments can be bound to.

    Args:
        kernels: with norms that give plain tensors.
        products: one of ``PRODUCTS``.
    """
    product = PRODUCTS[products]
    largest = product.largest
    if largest is None:
        return replace(kernels, fuse_linear=product)

    def layer_norm(x: Tensor, factor: Tensor, offset: Tensor, eps: float) -> ScaledRows:
        rows = kernels.layer_norm(x.float(), factor.float(), offset.float(), eps)
        return stretch_rows(rows, largest)

    def gated_residual_norm(
        x: Tensor, y: Tensor, gate: Tensor | None, factor: Tensor, offset: Tensor, eps: float
    ) -> tuple[Tensor, ScaledRows]:
        total = x + y if gate is None else kernels.gated_residual(x, y, gate)
        return total, layer_norm(total, factor, offset, eps)

    return replace(
        kernels, fuse_linear=product, layer_norm=layer_norm, gated_residual_norm=gated_residual_norm
    )
