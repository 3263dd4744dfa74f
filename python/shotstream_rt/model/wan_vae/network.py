"""The Wan 2.1 causal video VAE's network, under the released file's parameter names.

Source: Wan2.1 (``Wan2.1_VAE.pth``: 194 tensors, base width 96).
"""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import (
    CausalConv,
    ChannelNorm,
    Downsample,
    FrameAttention,
    FrameMemory,
    ResidualBlock,
    Upsample,
    assign_slots,
)

LATENT_CHANNELS = 16
SPATIAL_STRIDE = 8
TEMPORAL_STRIDE = 4

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
