"""The tiny decoder by chunks: the fast form of ``network.TinyDecoder``.

All latents of a chunk go through a layer together, channels last. A memory block sees its own input
and that of one frame earlier side by side; that is a convolution over two frames of time, so the
block reads one run of frames whose first is the remembered one, and nothing is joined. Enlargement
is folded into the convolution after it. Recorded and replayed by ``chunk_decoder.py``.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from shotstream_rt.kernels.sets.decoder_set import DecoderKernels

from ..chunk_decoder import ChunkShape
from ..frame_layout import (
    conv_frames,
    conv_over_time,
    enlarge,
    enlarging_weight,
    layers_of,
    spread,
    widened,
)
from .network import SKIPPED_FRAMES, TEMPORAL_STRIDE, Growth, MemoryBlock, TinyDecoder


class TinyProgram:
    """The ``ChunkProgram`` of a tiny decoder.

    Args:
        network: weights in place, on their device and in the type to compute with.
        shape: of a chunk.
        kernels: what runs between the convolutions.
    """

    def __init__(self, network: TinyDecoder, shape: ChunkShape, kernels: DecoderKernels) -> None:
        self._kernels = kernels
        layers = list(network.decoder)
        self._clamp = layers[0]
        self._entry, *_, self._exit = layers_of(network.decoder, nn.Conv2d)
        self._exit_weight = widened(self._exit.weight)
        self._body = [
            (layer, after)
            for layer, after in pairwise(layers)
            if isinstance(layer, MemoryBlock | Growth)
        ]
        self._over_time: dict[nn.Module, Tensor] = {}
        self._enlarging: dict[nn.Module, Tensor] = {}
        self._lanes: dict[nn.Module, Tensor] = {}
        like, frames, scale = self._entry.weight, shape.frames, 1
        for layer, after in self._body:
            if isinstance(layer, MemoryBlock):
                conv = layers_of(layer.conv, nn.Conv2d)[0]
                self._over_time[layer] = _over_time(conv.weight)
                size = shape.height * scale, shape.width * scale
                self._lanes[layer] = like.new_zeros(1 + frames, *size, conv.out_channels)
            else:
                assert isinstance(after, nn.Conv2d)
                self._enlarging[layer] = enlarging_weight(after.weight)
                frames, scale = frames * layer.factor, 2 * scale
        size = shape.height, shape.width
        self.latents = like.new_zeros(1, shape.frames, like.shape[1], *size)
        self.first_frames = frames - SKIPPED_FRAMES
        self.pixels = torch.zeros(
            1, frames, 3, *(scale * n for n in size), dtype=torch.float32, device=like.device
        )
        assert frames == TEMPORAL_STRIDE * shape.frames

    def run(self, first: bool) -> None:
        """Decode ``latents`` into ``pixels``; see ``ChunkProgram``.

        A first chunk's frames that are not part of the film are decoded too, in front of the rest.
        """
        if first:
            for lane in self._lanes.values():
                lane[:1].zero_()
        entry, last = self._entry, self._exit
        x = self._clamp(self.latents[0].permute(0, 2, 3, 1).contiguous())
        run = self._kernels.convolve
        h = conv_frames(x, entry.weight, run=run)
        targets = [self._input_of(layer) for layer, _ in self._body[1:]]
        h = self._add(h, entry.bias, None, self._lanes[self._body[0][0]][1:])
        for (layer, _), target in zip(self._body, [*targets, None], strict=True):
            if isinstance(layer, MemoryBlock):
                h = self._remember(layer, h, target)
            else:
                h = self._grow(layer, h, target)
        h = conv_frames(h, self._exit_weight, run=run)
        assert last.bias is not None
        pixels = self.pixels[0]
        bias = last.bias.float().view(-1, 1, 1)
        torch.add(h[..., :3].permute(0, 3, 1, 2), bias, out=pixels)
        pixels.clamp_(0, 1).mul_(2).sub_(1)

    def _remember(self, block: MemoryBlock, x: Tensor, target: Tensor | None) -> Tensor:
        conv1, conv2, conv3 = layers_of(block.conv, nn.Conv2d)
        lane, run = self._lanes[block], self._kernels.convolve
        h = conv_over_time(lane, self._over_time[block], run=run)
        h = self._add(h, conv1.bias, None, h)
        h = self._add(conv_frames(h, conv2.weight, run=run), conv2.bias, None, h)
        h = conv_frames(h, conv3.weight, run=run)
        out = self._add(h, conv3.bias, x, h if target is None else target)
        lane[:1] = lane[-1:]
        return out

    def _grow(self, layer: Growth, x: Tensor, target: Tensor | None) -> Tensor:
        run = self._kernels.convolve
        grown = conv_frames(x, layer.conv.weight, run=run)
        if layer.factor > 1:
            apart = grown
            grown = x.new_empty(layer.factor * len(x), *x.shape[1:])
            spread(apart, layer.factor, grown)
        h = enlarge(grown, self._enlarging[layer], run)
        if target is not None:
            return target.copy_(h)
        return self._add(h, None, None, h)  # the ReLU in front of the last convolution

    def _add(self, h: Tensor, bias: Tensor | None, x: Tensor | None, out: Tensor) -> Tensor:
        self._kernels.add_bias(h, bias, x, out, True)
        return out

    def _input_of(self, layer: nn.Module) -> Tensor | None:
        """Return where a memory block reads its input, after the frame it remembers."""
        lane = self._lanes.get(layer)
        return None if lane is None else lane[1:]


def _over_time(weight: Tensor) -> Tensor:
    """Turn ``[O, 2 C, 3, 3]`` over (frame, earlier frame) into ``[O, C, 2, 3, 3]`` over time."""
    now, earlier = weight.chunk(2, dim=1)
    stacked = torch.stack((earlier, now), dim=2)
    return stacked.contiguous(memory_format=torch.channels_last_3d)
