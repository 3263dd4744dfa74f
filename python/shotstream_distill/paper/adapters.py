"""LoRA on a training network: low-rank updates on every linear layer of every block.

Called by the self-forcing stages. An adapter is a parametrisation, so fused products read the
adapted weight as if it were one; names of saved tensors are those that PEFT writes, which the
runtime merges.

Source: ShotStream stage 2: rank 256, alpha 256, ten layers of each block.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .network import TrainNet

_PREFIX = "base_model.model."


class LowRank(nn.Module):
    """``W + scale * B A``; B starts at zero, so nothing changes at first.

    Args:
        weight: ``[rows, columns]`` to adapt.
        rank: of the update.
        scale: of the update.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        bound = 1 / math.sqrt(columns)
        a = torch.empty(rank, columns, device=weight.device, dtype=weight.dtype)
        self.lora_A = nn.Parameter(a.uniform_(-bound, bound))
        self.lora_B = nn.Parameter(weight.new_zeros(rows, rank))
        self._scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight."""
        return torch.addmm(weight, self.lora_B, self.lora_A, alpha=self._scale)


def adapted_layers(net: TrainNet) -> dict[str, nn.Linear]:
    """Return the layers that LoRA adapts, by name: ten per block."""
    return {
        f"blocks.{index}.{name}": module
        for index, block in enumerate(net.blocks)
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    }


def add_adapters(net: TrainNet, rank: int, alpha: float, *, seed: int) -> None:
    """Freeze a network and put trainable adapters on it.

    Args:
        net: changed in place.
        rank: of the updates.
        alpha: their strength, in ranks; 0 for the rank.
        seed: of the adapters.
    """
    net.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in adapted_layers(net).values():
            update = LowRank(layer.weight, rank, (alpha or rank) / rank)
            parametrize.register_parametrization(layer, "weight", update)


def adapter_name(name: str) -> str:
    """Return PEFT's name of an adapter's parameter."""
    layer, _, side = name.partition(".parametrizations.weight.0.")
    return f"{_PREFIX}{layer}.{side}.weight"
