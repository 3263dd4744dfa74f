"""The Wan VAE's decoder by chunks: the fast form of ``network.Decoder``.

All latents of a chunk go through a layer together, channels last. Between two convolutions one
kernel runs (``rms_silu``): it adds the bias and the residual of the first, normalises, and writes
the input of the second after that layer's two remembered frames. Those frames are the only memory
that a stream keeps, and no frame is padded, joined or copied. The first latent makes one frame and
is not part of the time convolutions' past, as in ``Decoder``, which decodes latent by latent.

Weights are those of the network it is made from; only the enlarging convolutions have their own,
see ``frame_layout.enlarging_weight``. Recorded and replayed by ``chunk_decoder.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shotstream_rt.kernels.sets.decoder_set import DecoderKernels

from ..chunk_decoder import ChunkShape
from ..frame_layout import conv_over_time, enlarge, enlarging_weight, layers_of, spread, widened
from .blocks import PAST_FRAMES, CausalConv, ChannelNorm, FrameAttention, ResidualBlock, Upsample
from .network import WanVAE


@dataclass(frozen=True, slots=True, eq=False)
class _Unsummed:
    """Frames ``h + bias + residual`` that the next kernel adds up."""

    h: Tensor
    bias: Tensor | None = None
    residual: Tensor | None = None


class VaeProgram:
    """The ``ChunkProgram`` of a Wan VAE.

    Args:
        network: weights in place, on their device and in the type to compute with.
        scale: ``[1, 16, 1, 1, 1]``, the latents' standard deviation is one over it.
        shift: like ``scale``, the latents' mean.
        shape: of a chunk.
        kernels: what runs between the convolutions.
    """

    def __init__(
        self,
        network: WanVAE,
        scale: Tensor,
        shift: Tensor,
        shape: ChunkShape,
        kernels: DecoderKernels,
    ) -> None:
        self._network, self._kernels = network, kernels
        self._scale, self._shift = (t.flatten() for t in (scale, shift))
        like = network.conv2.weight
        self._pasts: dict[nn.Module, Tensor] = {}
        self._enlarging = {
            layer: enlarging_weight(layers_of(layer.resample, nn.Conv2d)[0].weight)
            for layer in layers_of(network.decoder.upsamples, Upsample)
        }
        (head,) = layers_of(network.decoder.head, CausalConv)
        self._head_weight = widened(head.weight)
        size = shape.height, shape.width
        self.latents = like.new_zeros(1, shape.frames, like.shape[0], *size)
        self.first_frames = 1 + 4 * (shape.frames - 1)
        self.pixels = torch.zeros(
            1, 4 * shape.frames, 3, *(8 * n for n in size),
            dtype=torch.float32, device=like.device,
        )  # fmt: skip

    @property
    def memory_bytes(self) -> int:
        """What the stream remembers between chunks, once it has run."""
        return sum(past.nbytes for past in self._pasts.values())

    def run(self, first: bool) -> None:
        """Decode ``latents`` into ``pixels``; see ``ChunkProgram``."""
        network, decoder = self._network, self._network.decoder
        z = self.latents[0].permute(0, 2, 3, 1) / self._scale + self._shift
        z = F.linear(z, network.conv2.weight.flatten(1), network.conv2.bias)
        conv = decoder.conv1
        h = self._convolved(self._lane(conv, z, first), conv.weight)
        value = _Unsummed(h, conv.bias)
        for layer in (*decoder.middle, *decoder.upsamples):
            if isinstance(layer, ResidualBlock):
                value = self._block(layer, value, first)
            elif isinstance(layer, FrameAttention):
                value = self._attention(layer, value)
            else:
                assert isinstance(layer, Upsample)
                value = self._upsample(layer, value, first)
        (norm,), (conv,) = layers_of(decoder.head, ChannelNorm), layers_of(decoder.head, CausalConv)
        h = self._convolved(self._norm(norm, value, conv, first, keep=False), self._head_weight)
        pixels = self.pixels[0, -len(h) :]
        assert conv.bias is not None
        torch.add(h[..., :3].permute(0, 3, 1, 2), conv.bias.float().view(-1, 1, 1), out=pixels)
        pixels.clamp_(-1, 1)

    def _block(self, block: ResidualBlock, value: _Unsummed, first: bool) -> _Unsummed:
        norm1, norm2 = layers_of(block.residual, ChannelNorm)
        conv1, conv2 = layers_of(block.residual, CausalConv)
        lane = self._norm(norm1, value, conv1, first, keep=True)
        x = value.h  # holds the sum by now
        h = self._convolved(lane, conv1.weight)
        lane = self._norm(norm2, _Unsummed(h, conv1.bias), conv2, first, keep=False)
        h = self._convolved(lane, conv2.weight)
        shortcut = block.shortcut
        if isinstance(shortcut, nn.Conv3d):
            x = F.linear(x, shortcut.weight.flatten(1), shortcut.bias)
        return _Unsummed(h, conv2.bias, x)

    def _attention(self, layer: FrameAttention, value: _Unsummed) -> _Unsummed:
        x = value.h
        normed = torch.empty_like(x)
        gamma = layer.norm.gamma.flatten()
        self._kernels.rms_silu(x, gamma, value.bias, value.residual, None, normed, True, False)
        rows = F.linear(normed.flatten(1, 2), layer.to_qkv.weight.flatten(1), layer.to_qkv.bias)
        q, k, v = (part[:, None] for part in rows.chunk(3, dim=-1))  # [F, 1, H W, C]
        out = F.scaled_dot_product_attention(q, k, v).view(x.shape)
        return _Unsummed(F.linear(out, layer.proj.weight.flatten(1)), layer.proj.bias, x)

    def _upsample(self, layer: Upsample, value: _Unsummed, first: bool) -> _Unsummed:
        x = value.h
        self._kernels.add_bias(x, value.bias, value.residual, x, False)
        if layer.time_conv is not None:
            x = self._double(layer.time_conv, x, first)
        (conv,) = layers_of(layer.resample, nn.Conv2d)
        return _Unsummed(enlarge(x, self._enlarging[layer], self._kernels.convolve), conv.bias)

    def _double(self, conv: nn.Conv3d, x: Tensor, first: bool) -> Tensor:
        """Make two frames of each, except of a stream's first one."""
        alone = int(first)
        out = x.new_empty(2 * len(x) - alone, *x.shape[1:])
        out[:alone] = x[:alone]
        lane = self._lane(conv, x[alone:], first)
        if len(lane) > PAST_FRAMES:
            spread(self._convolved(lane, conv.weight, conv.bias), 2, out[alone:])
        return out

    def _convolved(self, lane: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return conv_over_time(lane, weight, bias, self._kernels.convolve)

    def _norm(
        self, norm: ChannelNorm, value: _Unsummed, conv: CausalConv, first: bool, *, keep: bool
    ) -> Tensor:
        """Sum, normalise and activate into the input of ``conv``; ``keep`` the sum in ``h``."""
        h = value.h
        past = self._past(conv, h, first)
        lane = h.new_empty(PAST_FRAMES + len(h), *h.shape[1:])
        gamma = norm.gamma.flatten()
        self._kernels.rms_silu(h, gamma, value.bias, value.residual, past, lane, keep, True)
        return lane

    def _lane(self, conv: nn.Conv3d, x: Tensor, first: bool) -> Tensor:
        """Put ``x`` as it is after the past of ``conv``."""
        past = self._past(conv, x, first)
        lane = x.new_empty(PAST_FRAMES + len(x), *x.shape[1:])
        lane[:PAST_FRAMES] = past
        lane[PAST_FRAMES:] = x
        past.copy_(lane[-PAST_FRAMES:])
        return lane

    def _past(self, conv: nn.Conv3d, x: Tensor, first: bool) -> Tensor:
        """Return the two frames in front of ``conv``'s next input; zeros at a stream's start."""
        past = self._pasts.get(conv)
        if past is None:
            past = self._pasts[conv] = x.new_zeros(PAST_FRAMES, *x.shape[1:])
        return past.zero_() if first else past
