"""A tiny decoder of Wan 2.1 latents: TAEHV's ``taew2_1``.

The Wan VAE decodes a latent's four frames with 25 times the work.

Source: madebyollin/taehv. From its ``taehv.py``: layers and their numbers, the order of channels in
memory blocks and frame growth, zeros before the first frame, pixels in [0, 1], and the first three
frames of a stream dropped. From its README, and from Self-Forcing's demo, which does so: latents go
in as the diffusion model gives them, normalised per channel, nothing undone. Names and shapes of
the 64 decoder tensors: two ports that quote the header of ``safetensors/taew2_1.safetensors``. The
weights were not at hand, so no picture has been compared with the original's. TAEHV's file for
HunyuanVideo has the same names and shapes: only the file's name distinguishes them.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT_CHANNELS = 16
SPATIAL_STRIDE = 8
TEMPORAL_STRIDE = 4

SKIPPED_FRAMES = TEMPORAL_STRIDE - 1
"""Of a stream's first four frames, for Wan's first latent is one frame."""

_BLOCKS = 3  # memory blocks of a stage
_CLAMP = 3.0


def _conv(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


class SoftClamp(nn.Module):
    """Keep values within 3 of zero, smoothly."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``3 tanh(x / 3)``."""
        return torch.tanh(x / _CLAMP) * _CLAMP


class MemoryBlock(nn.Module):
    """Residual block that also sees its own input of one frame earlier.

    Args:
        channels: width.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * channels, channels),
            nn.ReLU(inplace=True),
            _conv(channels, channels),
            nn.ReLU(inplace=True),
            _conv(channels, channels),
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Map consecutive frames to the same shape.

        Args:
            x: ``[F, c, h, w]``.
            before: ``[1, c, h, w]``, this block's input one frame earlier, zeros at a stream's
                start; replaced by the last frame of ``x``.
        """
        earlier = torch.cat((before, x[:-1]))
        before.copy_(x[-1:])
        return F.relu(self.conv(torch.cat((x, earlier), 1)) + x)


class Growth(nn.Module):
    """Twice the height and width, and ``factor`` frames out of each.

    The file's order is nearest-neighbour enlargement, then the 1x1 convolution. They commute, and
    this way the convolution has a quarter of the pixels.

    Args:
        channels: width.
        factor: frames made of each frame.
    """

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(channels, factor * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[F, c, h, w]`` to ``[factor * F, c, 2 h, 2 w]``; earlier frames come first."""
        frames = self.conv(x).unflatten(1, (self.factor, -1)).flatten(0, 1)
        return F.interpolate(frames, scale_factor=2, mode="nearest")


class TinyDecoder(nn.Module):
    """The network, under the file's parameter names (``decoder.1.weight`` and so on)."""

    WIDTHS: ClassVar = (256, 128, 64, 64)
    GROWTHS: ClassVar = (1, 2, 2)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            SoftClamp(), _conv(LATENT_CHANNELS, self.WIDTHS[0]), nn.ReLU(inplace=True)
        ]  # fmt: skip
        for inputs, outputs, factor in zip(
            self.WIDTHS[:-1], self.WIDTHS[1:], self.GROWTHS, strict=True
        ):
            layers += [MemoryBlock(inputs) for _ in range(_BLOCKS)]
            # The file numbers the enlargement, which is part of Growth here.
            layers += [nn.Identity(), Growth(inputs, factor), _conv(inputs, outputs, bias=False)]
        layers += [nn.ReLU(inplace=True), _conv(self.WIDTHS[-1], 3)]
        self.decoder = nn.Sequential(*layers)

    def empty_memory(self, height: int, width: int) -> list[Tensor]:
        """Return the memory of a stream's start, one tensor per memory block.

        Args:
            height: rows of a latent frame.
            width: columns of a latent frame.
        """
        like = next(self.parameters())
        return [
            torch.zeros(1, channels, height << stage, width << stage, dtype=like.dtype,
                        device=like.device).contiguous(memory_format=layout_of(like.device))
            for stage, channels in enumerate(self.WIDTHS[:-1])
            for _ in range(_BLOCKS)
        ]  # fmt: skip

    def forward(self, latent: Tensor, memory: list[Tensor]) -> Tensor:
        """Decode the next latent of a stream.

        Args:
            latent: ``[1, 16, h, w]`` normalised, in the network's dtype.
            memory: from ``empty_memory``; updated in place.

        Returns:
            ``[4, 3, 8 h, 8 w]``, about [0, 1], not clamped. Of a stream's first latent only the
            last frame is one of the film.
        """
        x, places = latent, iter(memory)
        for layer in self.decoder:
            x = layer(x, next(places)) if isinstance(layer, MemoryBlock) else layer(x)
        return x


def layout_of(device: torch.device) -> torch.memory_format:
    """Return the memory format that the device's convolutions are fastest in."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
