"""Several linear layers on one input as one matrix product, then an optional tanh-GELU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fuse_linear(layers: Sequence[nn.Linear], gelu: bool = False) -> Callable[[Tensor], Tensor]:
    """Fuse layers that read the same input.

    Args:
        layers: linear layers of equal input width; outputs are concatenated in this order.
        gelu: apply the tanh approximation of GELU to the result.

    Returns:
        ``[..., in] -> [..., sum(out)]``; differentiable with respect to the layers' parameters.
    """
    weights: list[Tensor] = [layer.weight for layer in layers]
    biases: list[Tensor] = [layer.bias for layer in layers]
    weight = torch.cat(weights) if len(layers) > 1 else weights[0]
    bias = torch.cat(biases) if len(layers) > 1 else biases[0]

    def apply(x: Tensor) -> Tensor:
        y = F.linear(x, weight, bias)
        return F.gelu(y, approximate="tanh") if gelu else y

    return apply
