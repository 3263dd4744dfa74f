"""The Wan 2.1 causal video VAE and the codec around it.

``WanVAE`` is the network under the released file's parameter names, at any width; ``WanCodec`` adds
normalisation and the ``LatentCodec`` protocol. Made by the session and the trainers. Latents are
decoded one at a time, so any split of a stream into chunks computes the same bits.

Source: Wan2.1 (``Wan2.1_VAE.pth``: 194 tensors, base width 96).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from shotstream_rt.errors import ConfigError, WeightsError

from .vae_blocks import (
    CausalConv,
    ChannelNorm,
    Downsample,
    FrameAttention,
    FrameMemory,
    ResidualBlock,
    Upsample,
    assign_slots,
)

if TYPE_CHECKING:
    from shotstream_rt.kernels.decoder_set import DecoderKernels

    from .chunk_decoder import ChunkShape
    from .vae_program import VaeProgram

LATENT_CHANNELS = 16
SPATIAL_STRIDE = 8
TEMPORAL_STRIDE = 4

# Statistics of the released VAE's latents per channel. Source: Wan2.1 ``wan/modules/vae.py``.
LATENT_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
               0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)  # fmt: skip
LATENT_STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
              3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)  # fmt: skip

_WIDTHS = (1, 2, 4, 4)
_TEMPORAL = (False, True, True)


class _Half(nn.Module):
    """What encoder and decoder share: running a list of layers with one memory."""

    head: nn.Sequential

    @staticmethod
    def _run(layers: nn.Sequential, x: Tensor, memory: FrameMemory | None) -> Tensor:
        for layer in layers:
            remembers = isinstance(layer, CausalConv | ResidualBlock | Downsample | Upsample)
            x = layer(x, memory) if remembers else layer(x)
        return x

    @staticmethod
    def _middle(channels: int) -> nn.Sequential:
        return nn.Sequential(
            ResidualBlock(channels, channels),
            FrameAttention(channels),
            ResidualBlock(channels, channels),
        )

    @staticmethod
    def _head(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(ChannelNorm(inputs), nn.SiLU(), CausalConv(inputs, outputs))


class Encoder(_Half):
    """Frames ``[B, 3, F, H, W]`` to features ``[B, 2 z, F', H/8, W/8]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = CausalConv(3, width)
        widths = [width * m for m in _WIDTHS]
        layers: list[nn.Module] = []
        channels = width
        for level, outputs in enumerate(widths):
            layers += [ResidualBlock(channels, outputs), ResidualBlock(outputs, outputs)]
            channels = outputs
            if level < len(_TEMPORAL):
                layers.append(Downsample(channels, temporal=_TEMPORAL[level]))
        self.downsamples = nn.Sequential(*layers)
        self.middle = self._middle(channels)
        self.head = self._head(channels, 2 * LATENT_CHANNELS)

    def forward(self, x: Tensor, memory: FrameMemory | None = None) -> Tensor:
        """Encode one group of frames: the first alone, then four at a time."""
        h: Tensor = self.conv1(x, memory)
        for layers in (self.downsamples, self.middle, self.head):
            h = self._run(layers, h, memory)
        return h


class Decoder(_Half):
    """Latents ``[B, z, 1, h, w]`` to frames ``[B, 3, 1 or 4, 8 h, 8 w]``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = width * _WIDTHS[-1]
        self.conv1 = CausalConv(LATENT_CHANNELS, channels)
        self.middle = self._middle(channels)
        layers: list[nn.Module] = []
        for level, multiple in enumerate(reversed(_WIDTHS)):
            outputs = width * multiple
            for _ in range(3):
                layers.append(ResidualBlock(channels, outputs))
                channels = outputs
            if level < len(_TEMPORAL):
                layers.append(Upsample(channels, temporal=_TEMPORAL[::-1][level]))
                channels //= 2
        self.upsamples = nn.Sequential(*layers)
        self.head = self._head(channels, 3)

    def forward(self, z: Tensor, memory: FrameMemory) -> Tensor:
        """Decode the next latent of a stream."""
        h: Tensor = self.conv1(z, memory)
        for layers in (self.middle, self.upsamples, self.head):
            h = self._run(layers, h, memory)
        return h


class WanVAE(nn.Module):
    """The network: 194 tensors under the released names; ``width`` is 96 there.

    Args:
        width: channels of the first encoder level, ``>= 1``.
    """

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.width = width
        self.encoder = Encoder(width)
        self.conv1 = nn.Conv3d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)
        self.conv2 = nn.Conv3d(LATENT_CHANNELS, LATENT_CHANNELS, 1)
        self.decoder = Decoder(width)
        self._encoder_slots = assign_slots(self.encoder)
        self._decoder_slots = assign_slots(self.decoder)

    def encoder_memory(self) -> FrameMemory:
        """Return the empty memory of an encoder stream."""
        return FrameMemory(self._encoder_slots)

    def decoder_memory(self) -> FrameMemory:
        """Return the empty memory of a decoder stream."""
        return FrameMemory(self._decoder_slots)

    def encode_group(self, frames: Tensor, memory: FrameMemory | None = None) -> Tensor:
        """Encode one group to the distribution's mean.

        Args:
            frames: ``[B, 3, F, H, W]`` in [-1, 1], in the network's dtype; ``F`` is 1 without a
                memory or for the first group of one, else 4.
            memory: of this stream, or ``None`` for single frames.

        Returns:
            ``[B, 16, 1, h, w]``, not normalised.
        """
        mean: Tensor = self.conv1(self.encoder(frames, memory))[:, :LATENT_CHANNELS]
        if memory is not None:
            memory.first = False
        return mean

    def decode_next(self, latent: Tensor, memory: FrameMemory) -> Tensor:
        """Decode the next latent ``[B, 16, 1, h, w]`` (not normalised) of a stream.

        Returns:
            ``[B, 3, 1, H, W]`` for a stream's first latent, then ``[B, 3, 4, H, W]``; not clamped.
        """
        frames: Tensor = self.decoder(self.conv2(latent), memory)
        memory.first = False
        return frames


class WanCodec:
    """The ``LatentCodec`` of the Wan VAE. Inference only: no gradients.

    Args:
        network: weights in place, on the device and in the dtype to compute with.
        mean: per-channel latent mean, 16 numbers; the released constants by default.
        std: per-channel latent standard deviation, all positive.

    The constants are rounded to the network's dtype before use, as the original does.
    """

    latent_channels = LATENT_CHANNELS
    spatial_stride = SPATIAL_STRIDE
    temporal_stride = TEMPORAL_STRIDE

    def __init__(
        self,
        network: WanVAE,
        mean: Sequence[float] | Tensor = LATENT_MEAN,
        std: Sequence[float] | Tensor = LATENT_STD,
    ) -> None:
        first = network.conv2.weight
        self.dtype, self.device = first.dtype, first.device
        self.network = network.eval().requires_grad_(False)
        self._mean = self._constants(mean)
        self._inverse_std = 1.0 / self._constants(std)

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, Tensor],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        source: str = "VAE weights",
    ) -> WanCodec:
        """Build from a state dict under the released names, at the width found in it.

        Args:
            state: 194 tensors; ``_latent_mean`` and ``_latent_std`` replace the constants.
            device: where to compute.
            dtype: to compute in; weights are cast once.
            source: named in errors, e.g. the file.

        Raises:
            WeightsError: tensors are missing, unexpected or of the wrong shape.
        """
        from .weights import load_into

        rest = {k: v for k, v in state.items() if not k.startswith("_latent_")}
        width = rest["decoder.head.0.gamma"].shape[0] if "decoder.head.0.gamma" in rest else 96
        with torch.device("meta"):
            network = WanVAE(width)
        load_into(network, rest, source=source, device=device, dtype=dtype)
        if _layout(torch.device(device)) is torch.channels_last_3d:
            formats = {4: torch.channels_last, 5: torch.channels_last_3d}
            for weight in network.parameters():
                if weight.dim() in formats:
                    weight.data = weight.data.contiguous(memory_format=formats[weight.dim()])
        return cls(
            network,
            state.get("_latent_mean", torch.tensor(LATENT_MEAN)),
            state.get("_latent_std", torch.tensor(LATENT_STD)),
        )

    def pixel_size(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        """Return frame height and width in pixels of a latent size."""
        return latent_height * SPATIAL_STRIDE, latent_width * SPATIAL_STRIDE

    @torch.no_grad()
    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode frames one by one; see ``LatentCodec``."""
        self._check(frames, "encode_frames", "[N, 3, H, W]", frames.dim() == 4 and len(frames) > 0)
        # One at a time: a frame's latent must not depend on which others were asked for with it.
        means = [
            self.network.encode_group(self._prepare(f[:, :, None])) for f in torch.split(frames, 1)
        ]
        return self._normalise(torch.cat(means)).squeeze(2)

    @torch.no_grad()
    def encode_clip(self, clip: Tensor) -> Tensor:
        """Encode a clip of ``1 + 4 k`` frames; see ``LatentCodec``."""
        good = clip.dim() == 5 and clip.shape[2] % TEMPORAL_STRIDE == 1
        self._check(clip, "encode_clip", "[B, 3, 1 + 4 k, H, W]", good)
        memory = self.network.encoder_memory()
        groups = [clip[:, :, :1], *torch.split(clip[:, :, 1:], TEMPORAL_STRIDE, dim=2)]
        means = [
            self.network.encode_group(self._prepare(group), memory)
            for group in groups
            if group.shape[2]
        ]
        return self._normalise(torch.cat(means, dim=2)).transpose(1, 2)

    def decoder(self) -> WanStreamDecoder:
        """Return a new streaming decoder."""
        return WanStreamDecoder(self)

    def chunk_program(self, shape: ChunkShape, kernels: DecoderKernels) -> VaeProgram:
        """Return a new program that decodes by chunks; see ``ProgrammableCodec``."""
        from .vae_program import VaeProgram

        return VaeProgram(self.network, self._inverse_std, self._mean, shape, kernels)

    def decode_full(self, latents: Tensor) -> Tensor:
        """Decode a whole clip: by definition, one stream from its beginning."""
        return self.decoder().decode(latents)

    def decode_next(self, latent: Tensor, memory: FrameMemory) -> Tensor:
        """Decode one latent ``[B, 16, 1, h, w]`` (normalised) of the stream kept in ``memory``.

        Returns:
            float32 ``[B, P, 3, H, W]`` in [-1, 1].

        Cost: no host synchronisation; buffers of ``memory`` are made by the first latent and keep
        their addresses, so every later latent runs the same kernels on the same memory.
        """
        z = latent.to(self.device, self.dtype) / self._inverse_std + self._mean
        z = z.contiguous(memory_format=_layout(self.device))
        frames = self.network.decode_next(z, memory)
        pixels = frames.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return pixels.clamp(-1, 1)

    def _constants(self, values: Sequence[float] | Tensor) -> Tensor:
        tensor = torch.as_tensor(values, dtype=torch.float32)
        if tensor.shape != (LATENT_CHANNELS,):
            raise WeightsError(
                f"latent statistics: got shape {tuple(tensor.shape)}, wanted ({LATENT_CHANNELS},)"
            )
        return tensor.to(self.device, self.dtype).view(1, -1, 1, 1, 1)

    def _prepare(self, frames: Tensor) -> Tensor:
        x = frames.to(self.device, self.dtype)
        return x.contiguous(memory_format=_layout(self.device))

    def _normalise(self, mean: Tensor) -> Tensor:
        return (mean - self._mean) * self._inverse_std

    @staticmethod
    def _check(frames: Tensor, name: str, wanted: str, shape_ok: bool) -> None:
        sizes_ok = all(size and size % SPATIAL_STRIDE == 0 for size in frames.shape[-2:])
        if not (shape_ok and frames.shape[1] == 3 and sizes_ok and frames.is_floating_point()):
            raise ConfigError(
                f"{name}: got {frames.dtype} {tuple(frames.shape)}, wanted float {wanted} with H "
                f"and W multiples of {SPATIAL_STRIDE}"
            )


class WanStreamDecoder:
    """The ``StreamDecoder`` of a ``WanCodec``: a codec and the memory of one stream."""

    def __init__(self, codec: WanCodec) -> None:
        self._codec = codec
        self._memory = codec.network.decoder_memory()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode the next latents ``[1, F, 16, h, w]``; see ``StreamDecoder``."""
        if latents.dim() != 5 or latents.shape[2] != LATENT_CHANNELS or not latents.shape[1]:
            raise ConfigError(
                f"decode: got latents {tuple(latents.shape)}, wanted [1, F, {LATENT_CHANNELS}, h, "
                "w] with F >= 1"
            )
        parts = [
            self._codec.decode_next(latent.transpose(1, 2), self._memory)
            for latent in torch.split(latents, 1, dim=1)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def reset(self) -> None:
        """Begin a new stream."""
        self._memory.reset()


def _layout(device: torch.device) -> torch.memory_format:
    """Return the memory format that the device's convolutions are fastest in."""
    return torch.channels_last_3d if device.type == "cuda" else torch.contiguous_format
