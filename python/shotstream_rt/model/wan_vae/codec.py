"""The codec around the Wan 2.1 VAE: normalised latents, one frame's pixels or a stream of them.

Made by the loader and the trainers. Latents are decoded one at a time, so any split of a stream
into chunks computes the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from shotstream_rt.errors import ConfigError, WeightsError
from shotstream_rt.kernels.sets.decoder_set import DecoderKernels

from ..checkpoint import load_into
from ..chunk_decoder import ChunkShape
from ..diffusers_names import VAE_ANCHOR, vae_under_wan_names
from ..lazy_tensors import LazyTensors
from ..wrappers import without_wrappers
from .blocks import FrameMemory
from .chunk_program import VaeProgram
from .network import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE, WanVAE

_ANCHORS = ("decoder.head.0.gamma", VAE_ANCHOR)
_MAX_WIDTH = 1024

# Statistics of the released VAE's latents per channel. Source: Wan2.1 ``wan/modules/vae.py``.
LATENT_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
               0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)  # fmt: skip
LATENT_STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
              3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)  # fmt: skip


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
        """Build from a state dict under the released names or Diffusers', at the width found in it.

        Args:
            state: 194 tensors; ``_latent_mean`` and ``_latent_std`` replace the constants.
            device: where to compute.
            dtype: to compute in; weights are cast once.
            source: named in errors, e.g. the file.

        Raises:
            WeightsError: tensors are missing, unexpected or of the wrong shape.
        """
        bare = without_wrappers(state, source, _ANCHORS)
        state = vae_under_wan_names(bare, source).checked(source)
        entries = state.entries
        rest = LazyTensors({k: v for k, v in entries.items() if not k.startswith("_latent_")})
        gamma = rest.entries.get("decoder.head.0.gamma")
        width = 96 if gamma is None or not gamma.shape else gamma.shape[0]
        if not 1 <= width <= _MAX_WIDTH:
            raise WeightsError(f"{source}: got a width of {width}, wanted 1 to {_MAX_WIDTH}")
        with torch.device("meta"):
            network = WanVAE(width)
        load_into(network, rest, source=source, device=device, dtype=dtype)
        if _layout(torch.device(device)) is torch.channels_last_3d:
            formats = {4: torch.channels_last, 5: torch.channels_last_3d}
            for weight in network.parameters():
                if weight.dim() in formats:
                    weight.data = weight.data.contiguous(memory_format=formats[weight.dim()])
        mean, std = state.get("_latent_mean", LATENT_MEAN), state.get("_latent_std", LATENT_STD)
        if isinstance(std, Tensor) and not (std > 0).all():
            raise WeightsError(f"{source}: _latent_std: got {std.min():.3g}, wanted all positive")
        return cls(network, mean, std)

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
        tensor = torch.as_tensor(values, dtype=torch.float32, device=self.device)
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
