"""The nano codec: a small causal video codec for the embedded model, stride 4 x 8 x 8.

Implements ``LatentCodec``; called by the session, trained by ``shotstream_distill``. The four
frames of a latent are stacked as channels and processed jointly at a quarter and an eighth of the
resolution, so that a still background is coded once and a CPU sees few, wide convolutions. Memory
of the previous latent exists at an eighth only. A clip's first frame is coded alone, as four copies
of itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from shotstream_rt.errors import ConfigError

from ...abandonment import ChunkAbandonedError, never
from ...kernels.cpu.instructions import divides_exactly
from ...kernels.cpu.products import PanelConvolution
from .files import load_float32

LATENT_CHANNELS = 16
_GROUP = 4  # frames of a latent
_MOST_BLOCKS = 64
_STACKED = 3 * _GROUP * 16  # channels of four frames unshuffled by four

_State = tuple[Tensor, ...]
"""Features ``[B, 1, c, h, w]`` of a stream's last latent, of the blocks that look back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecDepths:
    """Residual blocks of each part of the codec; the defaults are those of a new one."""

    encoder_quarter: int = 3
    encoder_eighth: int = 4
    decoder_eighth: int = 5
    decoder_quarter: int = 4

    @classmethod
    def of(cls, names: Iterable[str]) -> CodecDepths:
        """Count the blocks by a file's parameter names.

        Raises:
            ValueError: more than a codec can have.
        """
        blocks = {tuple(name.split(".")[:2]) for name in names}
        counted = {
            field.name: sum(block[0] == field.name for block in blocks) for field in fields(cls)
        }
        for part, count in counted.items():
            if count > _MOST_BLOCKS:
                raise ValueError(f"got {count} blocks in {part}, wanted at most {_MOST_BLOCKS}")
        return cls(**counted)


class CausalBlock(nn.Module):
    """Residual block; with ``memory`` it also sees the previous latent's features.

    Args:
        channels: width.
        memory: whether to look back.
        limited: whether the features that come in are bounded.

    Attributes:
        limit: semi-axes ``[c]`` of the ellipsoid that a pixel's features stay in: the mean of
            ``(x / limit) ** 2`` over the channels is at most 1. Without it, a latent unlike any
            picture's is amplified twentyfold from block to block and decodes to coloured specks;
            limits of single channels do not prevent that, as many channels grow at once.
    """

    limit: Tensor | None

    def __init__(self, channels: int, memory: bool, limited: bool = False) -> None:
        super().__init__()
        self.memory = memory
        self.register_buffer("limit", torch.full((channels,), math.inf) if limited else None)
        self.mix = _convolution(channels * (2 if memory else 1), channels)
        self.out = _convolution(channels, channels)
        nn.init.zeros_(self.out.weight)
        if self.out.bias is not None:
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, frames: int, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Map to the same shape; gives also, with memory, the ``past`` of the next call.

        Args:
            x: features ``[B * F, c, h, w]`` of consecutive latents of each of ``B`` streams.
            frames: ``F``.
            past: features ``[B, 1, c, h, w]`` of the latent before; ``None`` at a stream's start.
        """
        if self.limit is not None:
            radius = (x / self.limit.view(-1, 1, 1)).square_().mean(1, keepdim=True)
            x = x * radius.clamp(min=1).rsqrt()
        hidden, last = F.silu(x), None
        if self.memory:
            stream = hidden.unflatten(0, (-1, frames))
            last = stream[:, -1:]
            start = torch.zeros_like(last) if past is None else past
            earlier = torch.cat((start, stream[:, :-1]), 1).flatten(0, 1)
            hidden = torch.cat((hidden, earlier), 1)
        out: Tensor = self.out(F.silu(self.mix(hidden), inplace=True))
        # Under autocast products are rounded, and what they are added to is not.
        return (out.add_(x) if out.dtype == x.dtype else x + out), last


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution of 3 x 3 pixels, padded by one, in the fastest form on this CPU."""
    kind = PanelConvolution if PanelConvolution.fits(inputs, outputs) else nn.Conv2d
    return kind(inputs, outputs, 3, padding=1)


def _blocks(channels: int, count: int, memories: int, limited: bool = False) -> nn.ModuleList:
    """Blocks of one width, the first of them with memory."""
    return nn.ModuleList(CausalBlock(channels, index < memories, limited) for index in range(count))


def _run(
    blocks: nn.ModuleList, x: Tensor, frames: int, state: _State, abandoned: Callable[[], bool]
) -> tuple[Tensor, _State]:
    """Run blocks, of which the first ones look back; see ``CausalBlock`` and ``decode``."""
    after: list[Tensor] = []
    for block, past in zip_longest(blocks, state):
        if abandoned():
            raise ChunkAbandonedError
        x, last = block(x, frames, past)
        after += () if last is None else (last,)
    return x, tuple(after)


class NanoCodecNet(nn.Module):
    """Both networks and the latents' statistics (3.0 million parameters).

    Args:
        depths: blocks of each part; ``None`` for those of a new codec.

    Attributes:
        latent_mean: of each channel before normalisation, ``[C]``.
        latent_std: alike.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, depths: CodecDepths | None = None) -> None:
        super().__init__()
        self.depths = depths or CodecDepths()
        quarter, eighth, decoded = 64, 96, 96
        self.encoder_in = _convolution(_STACKED, quarter)
        self.encoder_quarter = _blocks(quarter, self.depths.encoder_quarter, 0)
        self.encoder_down = nn.Conv2d(quarter, eighth, 3, stride=2, padding=1)
        self.encoder_eighth = _blocks(eighth, self.depths.encoder_eighth, 1)
        self.encoder_out = nn.Conv2d(eighth, LATENT_CHANNELS, 1)
        self.decoder_in = _convolution(LATENT_CHANNELS, eighth)
        self.decoder_eighth = _blocks(eighth, self.depths.decoder_eighth, 2, limited=True)
        self.decoder_up = nn.Conv2d(eighth, 4 * decoded, 1)
        self.decoder_quarter = _blocks(decoded, self.depths.decoder_quarter, 0, limited=True)
        self.decoder_out = _convolution(decoded, _STACKED)
        self.register_buffer("latent_mean", torch.zeros(LATENT_CHANNELS))
        self.register_buffer("latent_std", torch.ones(LATENT_CHANNELS))

    @classmethod
    def load(cls, path: Path) -> NanoCodecNet:
        """Read ``codec.safetensors`` of any depth, as float32; errors as of ``NanoCodec.load``."""
        # A block's limit is infinite until it was measured.
        return load_float32(
            lambda state: cls(CodecDepths.of(state)), path, "nano codec",
            lambda name: name.endswith(".limit"),
        )  # fmt: skip

    def encode(self, clips: Tensor) -> Tensor:
        """Encode ``[B, 1 + 4k, 3, H, W]`` in [-1, 1] to normalised ``[B, 1 + k, C, h, w]``."""
        clips = torch.cat((clips[:, :1].expand(-1, _GROUP - 1, -1, -1, -1), clips), 1)
        batch, frames = clips.shape[0], clips.shape[1] // _GROUP
        x = F.pixel_unshuffle(clips.flatten(0, 1), 4)
        x = x.reshape(batch * frames, _STACKED, *x.shape[-2:])
        x, _ = _run(self.encoder_quarter, self.encoder_in(x), frames, (), never)
        x, _ = _run(self.encoder_eighth, self.encoder_down(F.silu(x)), frames, (), never)
        x = self.encoder_out(x)
        x = (x - self.latent_mean.view(-1, 1, 1)) / self.latent_std.view(-1, 1, 1)
        grouped: Tensor = x.unflatten(0, (batch, frames))
        return grouped

    def decode(
        self, latents: Tensor, state: _State | None, abandoned: Callable[[], bool] = never
    ) -> tuple[Tensor, _State]:
        """Decode ``[B, F, C, h, w]`` to ``[B, P, 3, H, W]`` and the state of the next call.

        Args:
            latents: normalised.
            state: of the call before; ``None`` at a stream's start: its first latent is one frame.
            abandoned: asked before each block; ``ChunkAbandonedError`` if it says yes.
        """
        frames = latents.shape[1]
        x = latents * self.latent_std.view(-1, 1, 1) + self.latent_mean.view(-1, 1, 1)
        x = self.decoder_in(x.flatten(0, 1))
        x, after = _run(self.decoder_eighth, x, frames, state or (), abandoned)
        up = self.decoder_up if torch.get_num_threads() == 1 else self._up_on_threads
        x = F.pixel_shuffle(up(F.silu(x)), 2)
        x, _ = _run(self.decoder_quarter, x, frames, (), abandoned)
        x = self.decoder_out(F.silu(x)).unflatten(1, (_GROUP, -1)).flatten(0, 1)
        pixels = F.pixel_shuffle(x, 4).unflatten(0, (-1, frames * _GROUP))
        return (pixels[:, _GROUP - 1 :] if state is None else pixels), after

    def _up_on_threads(self, x: Tensor) -> Tensor:
        """Run ``decoder_up`` on several threads, with the bits that it has on one.

        In float32 oneDNN's form for this layout begins its sums with the bias then; the other
        layout's adds the bias last, as one thread does.
        """
        if x.device.type == "cpu" and x.dtype == torch.float32:
            x = x.contiguous(memory_format=torch.channels_last)
            return torch.as_tensor(self.decoder_up(x)).contiguous()
        return torch.as_tensor(self.decoder_up(x))


class NanoStreamDecoder:
    """Decodes one stream; see ``ResumableDecoder`` and ``AbandonableDecoder``."""

    def __init__(self, net: NanoCodecNet) -> None:
        self._net = net
        self.abandoned: Callable[[], bool] = never
        self._state: _State | None = None

    @property
    def same_on_any_threads(self) -> bool:
        """See ``ThreadFreeDecoder``."""
        return divides_exactly(self._net.latent_mean.dtype)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode the next latents ``[1, F, C, h, w]`` to float32 ``[1, P, 3, H, W]``."""
        latents = latents.to(self._net.latent_mean)
        pixels, self._state = self._net.decode(latents, self._state, self.abandoned)
        return pixels.float().clamp_(-1, 1)

    def reset(self) -> None:
        """Begin a new stream."""
        self._state = None

    def state(self) -> tuple[Tensor, ...]:
        """Return the features that the next call looks back at; see ``ResumableDecoder``."""
        return tuple(past.clone() for past in self._state or ())

    def resume(self, state: tuple[Tensor, ...]) -> None:
        """Go on from a state; see ``ResumableDecoder``."""
        self._state = state


class NanoCodec:
    """The codec as a ``LatentCodec``.

    Attributes:
        dtype: what it computes in.
    """

    latent_channels = LATENT_CHANNELS
    spatial_stride = 8
    temporal_stride = _GROUP

    def __init__(self, net: NanoCodecNet) -> None:
        self._net = net.eval().requires_grad_(False)
        self.dtype = net.latent_mean.dtype

    @classmethod
    def load(
        cls,
        path: Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> NanoCodec:
        """Read ``codec.safetensors`` of any depth.

        Args:
            path: the file.
            device: where it computes.
            dtype: what it computes in. The shipped file's weights are bfloat16 numbers, so only
                features are rounded in bfloat16: its pictures are 57 dB from those of float32.

        Raises:
            WeightsError: the file is missing, or its tensors do not fit this codec.
        """
        net = NanoCodecNet.load(path).to(device, dtype)
        if dtype != torch.float32:
            # What oneDNN's bfloat16 convolutions read and write: otherwise each reorders pictures.
            # Float32 keeps the layout in which films were made before; its bits depend on it.
            convert_conv2d_weight_memory_format(net, torch.channels_last)
        return cls(net)

    @property
    def net(self) -> NanoCodecNet:
        """Both networks; read only."""
        return self._net

    def pixel_size(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        """Return frame height and width in pixels of a latent size."""
        return latent_height * self.spatial_stride, latent_width * self.spatial_stride

    @torch.inference_mode()
    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode ``[N, 3, H, W]`` in [-1, 1] one by one to ``[N, C, h, w]``."""
        return self._net.encode(frames.to(self._net.latent_mean)[:, None])[:, 0]

    @torch.inference_mode()
    def encode_clip(self, clip: Tensor) -> Tensor:
        """Encode ``[1, 3, 1 + 4k, H, W]`` in [-1, 1] to ``[1, 1 + k, C, h, w]``.

        Raises:
            ConfigError: the number of frames is not ``1 + 4k``.
        """
        if clip.shape[2] % _GROUP != 1:
            raise ConfigError(f"encode_clip: got {clip.shape[2]} frames, wanted 1 + 4k")
        return self._net.encode(clip.transpose(1, 2).to(self._net.latent_mean))

    def decoder(self) -> NanoStreamDecoder:
        """Return a new streaming decoder."""
        return NanoStreamDecoder(self._net)

    def decode_full(self, latents: Tensor) -> Tensor:
        """Decode ``[1, F, C, h, w]`` to float32 ``[1, P, 3, H, W]``."""
        return self.decoder().decode(latents)
