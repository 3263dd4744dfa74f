"""The part ``waves`` of a kernel set: products whose last wave of tiles would be half empty.

Which products these are follows from their shape and the number of multiprocessors, call by call:
on an H200, of the 1.3B student's, the second one of the feed-forward (37 x 6 tiles, 1.68 waves).
All others, and those with a GELU, stay the library's. Products in 8 bits leave it nothing to do, so
it is refused beside a profile that has them. Every sum is added in the order of a product that is
not cut; the library's own order is not known, so results differ by rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from ..gpu.wave_product import launch_product, wave_split_of
from ..gpu.wave_split import worth_cutting
from ..reference.linear import FusedLinear, side_by_side
from .kernel_set import KernelSet, Linear


class WaveLinear(FusedLinear):
    """A product ``[..., in] -> [..., out]`` whose last wave is cut where that pays."""

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply ``[..., in]``."""
        split, inner_blocks = wave_split_of(x, self.weight)
        if not worth_cutting(split, inner_blocks):
            return super().__call__(x)
        return launch_product(x, self.weight, self.bias, split)


def with_waves(kernels: KernelSet) -> KernelSet:
    """Replace the linear layers of a set, except those with a GELU."""

    def fuse_linear(layers: Sequence[nn.Linear], gelu: bool = False) -> Linear:
        if gelu:
            return kernels.fuse_linear(layers, gelu)
        weight, bias = side_by_side(layers)
        return WaveLinear(weight.detach(), bias.detach())

    return replace(kernels, name=f"{kernels.name}+waves", fuse_linear=fuse_linear)
