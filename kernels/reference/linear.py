"""Several linear layers on one input as one matrix product, then an optional tanh-GELU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FusedLinear:
    """One product ``[..., in] -> [..., out]`` with a bias and an optional tanh-GELU.

    Args:
        weight: ``[out, in]``.
        bias: ``[out]``.
        gelu: apply the tanh approximation of GELU to the result.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        self.weight, self.bias, self.gelu = weight, bias, gelu

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self.weight.nbytes + self.bias.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply ``[..., in]``."""
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y, approximate="tanh") if self.gelu else y


def fuse_linear(layers: Sequence[nn.Linear], gelu: bool = False) -> FusedLinear:
    """Fuse layers that read the same input.

    Args:
        layers: linear layers of equal input width; outputs are concatenated in this order.
        gelu: apply the tanh approximation of GELU to the result.

    Returns:
        ``[..., in] -> [..., sum(out)]``; differentiable with respect to the layers' parameters. A
        single layer's tensors are shared, several are copied side by side.
    """
    return FusedLinear(*side_by_side(layers), gelu=gelu)


def side_by_side(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    """Return weight ``[sum(out), in]`` and bias ``[sum(out)]``; a single layer's are not copied."""
    if len(layers) == 1:
        return layers[0].weight, layers[0].bias
    weights: list[Tensor] = [layer.weight for layer in layers]
    biases: list[Tensor] = [layer.bias for layer in layers]
    return torch.cat(weights), torch.cat(biases)
