"""The codec that encodes with another codec and decodes with the tiny decoder.

Lossy, so only profile ``tiny`` takes it; made by the loader. Latents are decoded one at a time, so
any split of a stream into chunks computes the same bits. Encoding is left to the Wan VAE: what the
student is given as context are latents of the kind that it was trained on, only of frames that this
decoder made.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from shotstream_rt.errors import ConfigError
from shotstream_rt.kernels.sets.decoder_set import DecoderKernels

from ..checkpoint import load_checkpoint, load_into
from ..chunk_decoder import ChunkShape
from ..codec import LatentCodec
from ..lazy_tensors import LazyTensors
from .chunk_program import TinyProgram
from .network import (
    LATENT_CHANNELS,
    SKIPPED_FRAMES,
    SPATIAL_STRIDE,
    TEMPORAL_STRIDE,
    TinyDecoder,
    layout_of,
)


class TinyStreamDecoder:
    """The ``ResumableDecoder`` of a ``TinyCodec``: a network and the memory of one stream.

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

    @torch.inference_mode()
    def state(self) -> tuple[Tensor, ...]:
        """Return a copy of the memory; see ``ResumableDecoder``."""
        return tuple(before.clone() for before in self._memory)

    @torch.inference_mode()
    def resume(self, state: tuple[Tensor, ...]) -> None:
        """Go on from a state; see ``ResumableDecoder``."""
        for before, kept in zip(self._memory, state, strict=True):
            before.copy_(kept)
        self._first = False

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
        self.exact, self.dtype = exact, exact.dtype
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
        entries = load_checkpoint(path).entries
        state = LazyTensors({k: v for k, v in entries.items() if not k.startswith("encoder.")})
        with torch.device("meta"):
            network = TinyDecoder()
        load_into(network, state, source=str(path), device=device, dtype=dtype)
        for weight in network.parameters():
            if weight.dim() == 4:
                layout = layout_of(weight.device)
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
        return TinyProgram(self.network, shape, kernels)

    def decode_full(self, latents: Tensor) -> Tensor:
        """Decode a whole clip: by definition, one stream from its beginning."""
        return self.decoder().decode(latents)
