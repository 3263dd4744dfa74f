"""What of a codec is measured, not learned: statistics of latents, limits of features."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from shotstream_rt.model.nano.codec import CausalBlock, NanoCodecNet

from .clips import stack

HEADROOM = 0.85
"""Length of the decoder's limits, in what the farthest pixel of clean clips needs.

It costs nano .01 dB; 0.8 costs .05, 0.7 costs 1.4.
"""

LIMIT = ".limit"
"""End of the names of the decoder's limits."""

_FLATTEST = 1e-3  # shortest axis of a block's features, in longest ones
_MEASURED_AT_ONCE = 20


@torch.no_grad()
def measure_latents(net: NanoCodecNet, clips: list[tuple[Tensor, Tensor]]) -> None:
    """Set the statistics that latents are normalised with."""
    net.latent_mean.zero_()
    net.latent_std.fill_(1.0)
    latents = net.encode(stack(clips)[0]).transpose(1, 2).transpose(0, 1).flatten(1)
    net.latent_mean.copy_(latents.mean(1))
    net.latent_std.copy_(latents.std(1))


def lift_limits(net: NanoCodecNet) -> list[Tensor]:
    """Take away the limits of the decoder's features; returns them, to be measured anew."""
    limits = [value for name, value in net.named_buffers() if name.endswith(LIMIT)]
    for limit in limits:
        limit.fill_(math.inf)
    return limits


@torch.no_grad()
def measure_features(net: NanoCodecNet, clips: list[tuple[Tensor, Tensor]]) -> None:
    """Limit the decoder's features to what clean clips need.

    The ellipsoid's axes are to each other as the channels' root mean squares, and nearly as long
    as the pixel farthest out asks for.
    """
    limits = lift_limits(net)
    blocks = [m for m in net.modules() if isinstance(m, CausalBlock) and m.limit is not None]

    def measure(note: Callable[[int, Tensor], None]) -> None:
        hooks = [
            block.register_forward_pre_hook(lambda _, inputs, index=index: note(index, inputs[0]))
            for index, block in enumerate(blocks)
        ]
        for first in range(0, len(clips), _MEASURED_AT_ONCE):
            frames, _ = stack(clips[first : first + _MEASURED_AT_ONCE])
            net.decode(net.encode(frames), None)
        for hook in hooks:
            hook.remove()

    axes = [torch.zeros_like(limit) for limit in limits]
    radii = [torch.zeros(()) for _ in limits]

    def add_up(index: int, x: Tensor) -> None:
        axes[index] += x.square().sum((0, 2, 3))

    measure(add_up)
    for axis in axes:
        axis.sqrt_().clamp_(min=axis.amax() * _FLATTEST)

    def farthest(index: int, x: Tensor) -> None:
        radius = (x / axes[index].view(-1, 1, 1)).square().mean(1).amax().sqrt()
        radii[index] = torch.maximum(radii[index], radius)

    measure(farthest)
    for limit, axis, radius in zip(limits, axes, radii, strict=True):
        limit.copy_(HEADROOM * axis * radius)
