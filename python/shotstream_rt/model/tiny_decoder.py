"""A tiny decoder of Wan 2.1 latents: TAEHV's ``taew2_1``, and the codec that uses it.

Lossy, so only profile ``tiny`` takes it; made by the loader. The Wan VAE decodes a latent's four
frames with 25 times the work. Latents are decoded one at a time, so any split of a stream into
chunks computes the same bits. Encoding is left to the Wan VAE: what the student is given as context
are latents of the kind that it was trained on, only of frames that this decoder made.

Source: madebyollin/taehv. From its ``taehv.py``: layers and their numbers, the order of channels in
memory blocks and frame growth, zeros before the first frame, pixels in [0, 1], and the first three
frames of a stream dropped. From its README, and from Self-Forcing's demo, which does so: latents go
in as the diffusion model gives them, normalised per channel, nothing undone. Names and shapes of
the 64 decoder tensors: two ports that quote the header of ``safetensors/taew2_1.safetensors``. The
weights were not at hand, so no picture has been compared with the original's. TAEHV's file for
HunyuanVideo has the same names and shapes: only the file's name tells them apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shotstream_rt.errors import ConfigError

from .codec import LatentCodec
from .weights import load_checkpoint, load_into

if TYPE_CHECKING:
    from shotstream_rt.kernels.decoder_set import DecoderKernels

    from .chunk_decoder import ChunkShape
    from .tiny_program import TinyProgram

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
                        device=like.device).contiguous(memory_format=_layout(like.device))
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


class TinyStreamDecoder:
    """The ``StreamDecoder`` of a ``TinyCodec``: a network and the memory of one stream.

    Cost: no host synchronisation; the memory keeps its addresses for streams of one size.
    """

    def __init__(self, network: TinyDecoder) -> None:
        self._network = network
        self._memory: list[Tensor] = []
        self._size: tuple[int, int] | None = None
        self._first = True

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode the next latents ``[1, F, 16, h, w]``; see ``StreamDecoder``.

        Raises:
            ConfigError: another shape, or another size than the stream's latents before.
        """
        good = latents.dim() == 5 and latents.shape[0] == 1 and latents.shape[1] > 0
        if not good or latents.shape[2] != LATENT_CHANNELS:
            raise ConfigError(
                f"decode: got latents {tuple(latents.shape)}, wanted [1, F, {LATENT_CHANNELS}, h, "
                "w] with F >= 1"
            )
        height, width = latents.shape[-2:]
        if not self._first and (height, width) != self._size:
            raise ConfigError(
                f"decode: got latents of {height}x{width} in a stream of {self._size}; reset first"
            )
        like = next(self._network.parameters())
        parts = []
        for latent in latents[0].to(like).split(1):
            if self._first:
                self._start(height, width)
            frames = self._network(latent, self._memory)
            parts.append(frames[SKIPPED_FRAMES:] if self._first else frames)
            self._first = False
        pixels = torch.cat(parts).to(torch.float32, memory_format=torch.contiguous_format)
        return pixels.clamp(0, 1).mul(2).sub(1)[None]

    def reset(self) -> None:
        """Begin a new stream."""
        self._first = True

    def _start(self, height: int, width: int) -> None:
        if self._size != (height, width):
            self._memory = self._network.empty_memory(height, width)
            self._size = height, width
        for before in self._memory:
            before.zero_()


class TinyCodec:
    """A ``LatentCodec`` that encodes with one codec and decodes with the tiny decoder.

    Args:
        exact: the Wan codec whose latents are decoded; does all encoding.
        network: weights in place, on the device and in the dtype to compute with.
    """

    latent_channels = LATENT_CHANNELS
    spatial_stride = SPATIAL_STRIDE
    temporal_stride = TEMPORAL_STRIDE

    def __init__(self, exact: LatentCodec, network: TinyDecoder) -> None:
        self.exact = exact
        self.network = network.eval().requires_grad_(False)
        self.device = next(network.parameters()).device

    @classmethod
    def load(
        cls,
        path: Path,
        exact: LatentCodec,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> TinyCodec:
        """Read ``taew2_1.safetensors`` or ``taew2_1.pth``; its encoder is not used.

        Args:
            path: the file.
            exact: see ``TinyCodec``.
            device: where to decode.
            dtype: to decode in; weights (float16 in the file) are cast once.

        Raises:
            WeightsError: not a checkpoint, or tensors of another decoder.
        """
        state = {k: v for k, v in load_checkpoint(path).items() if not k.startswith("encoder.")}
        with torch.device("meta"):
            network = TinyDecoder()
        load_into(network, state, source=str(path), device=device, dtype=dtype)
        for weight in network.parameters():
            if weight.dim() == 4:
                layout = _layout(weight.device)
                weight.data = weight.data.contiguous(memory_format=layout)
        return cls(exact, network)

    def pixel_size(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        """Return frame height and width in pixels of a latent size."""
        return latent_height * SPATIAL_STRIDE, latent_width * SPATIAL_STRIDE

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode frames one by one with the exact codec; see ``LatentCodec``."""
        return self.exact.encode_frames(frames)

    def encode_clip(self, clip: Tensor) -> Tensor:
        """Encode a clip with the exact codec; see ``LatentCodec``."""
        return self.exact.encode_clip(clip)

    def decoder(self) -> TinyStreamDecoder:
        """Return a new streaming decoder."""
        return TinyStreamDecoder(self.network)

    def chunk_program(self, shape: ChunkShape, kernels: DecoderKernels) -> TinyProgram:
        """Return a new program that decodes by chunks; see ``ProgrammableCodec``."""
        from .tiny_program import TinyProgram

        return TinyProgram(self.network, shape, kernels)

    def decode_full(self, latents: Tensor) -> Tensor:
        """Decode a whole clip: by definition, one stream from its beginning."""
        return self.decoder().decode(latents)


def _layout(device: torch.device) -> torch.memory_format:
    """Return the memory format that the device's convolutions are fastest in."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
