"""Decoding whole chunks on a device: the fast form of a codec's ``StreamDecoder``.

A ``ChunkProgram`` decodes a fixed number of latents of a fixed size, from one static buffer into
another, without an allocation that outlives it, a host synchronisation or a branch on a value. So
it can be recorded once, as a shot's first chunk and as any later one, and replayed. ``ChunkCodec``
replaces a codec's own decoders by such ones. Made by ``loading/recorded_codec.py``, used by the
decode thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from shotstream_rt.errors import ConfigError
from shotstream_rt.kernels.sets.decoder_set import DecoderKernels, decoder_kernels

from .codec import LatentCodec
from .convolution_choices import ConvolutionChoices
from .measured_convolution import MeasuredConvolution

Replay = Callable[[], None]
Capture = Callable[[Callable[[], None]], Replay]
"""Records a function that reads and writes static buffers only, and returns what replays it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkShape:
    """What a program decodes at a time.

    Attributes:
        frames: latents of a chunk, at least 1.
        height: rows of a latent.
        width: columns of a latent.
    """

    frames: int
    height: int
    width: int


class ChunkProgram(Protocol):
    """One codec's decode of a chunk, between static buffers.

    Attributes:
        latents: ``[1, F, C, h, w]``, read by ``run``.
        pixels: float32 ``[1, P, 3, H, W]`` in [-1, 1], written by ``run``; a first chunk's frames
            are the last ones.
        first_frames: how many a first chunk has.
    """

    latents: Tensor
    pixels: Tensor
    first_frames: int

    def run(self, first: bool) -> None:
        """Decode ``latents``, as a stream's first chunk or as the next one."""
        ...


@runtime_checkable
class ProgrammableCodec(LatentCodec, Protocol):
    """A codec that can decode by chunks."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def chunk_program(self, shape: ChunkShape, kernels: DecoderKernels) -> ChunkProgram:
        """Return a new program, with a stream of its own."""
        ...


class ChunkDecoder:
    """The ``StreamDecoder`` of a recorded program; its frames last until the next call.

    Args:
        program: decodes; run here once, before it is recorded.
        capture: records the program's two forms, here and never again.

    Cost: no host synchronisation, no allocation; two launches.
    """

    def __init__(self, program: ChunkProgram, capture: Capture) -> None:
        self._program = program
        with torch.inference_mode():
            # Libraries choose and load kernels in a first run, which a capture does not allow.
            program.run(True)
            program.run(False)
            if program.pixels.is_cuda:
                torch.cuda.synchronize(program.pixels.device)
            self._first = capture(lambda: program.run(True))
            self._next = capture(lambda: program.run(False))
        self._begun = False

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode the next chunk ``[1, F, C, h, w]``; see ``StreamDecoder``.

        Raises:
            ConfigError: not the shape that was recorded.
        """
        program = self._program
        if latents.shape != program.latents.shape:
            raise ConfigError(
                f"decode: got latents {tuple(latents.shape)}, wanted the recorded "
                f"{tuple(program.latents.shape)}; open the session with another size or chunk"
            )
        program.latents.copy_(latents)
        if self._begun:
            self._next()
            return program.pixels
        self._first()
        self._begun = True
        return program.pixels[:, -program.first_frames :]

    def reset(self) -> None:
        """Begin a new stream."""
        self._begun = False


class ChunkCodec:
    """A codec whose streaming decoders are recorded; everything else is done by the codec it wraps.

    Args:
        codec: encodes, and decodes whole clips.
        shape: what every ``decode`` of a stream is given.
        capture: makes what records one decoder's program; decoders may run side by side, so each
            has a recorder of its own.
        choices: how each convolution is to be chosen; ``None``: as the library guesses.
    """

    def __init__(
        self, codec: ProgrammableCodec, shape: ChunkShape, capture: Callable[[], Capture],
        choices: ConvolutionChoices | None = None,
    ) -> None:  # fmt: skip
        self.codec, self.shape = codec, shape
        kernels = decoder_kernels(codec.device)
        if choices is not None:
            kernels = replace(kernels, name=f"{kernels.name}+measured")
        self._kernels, self._choices = kernels, choices
        self._capture = capture
        self.dtype, self.latent_channels = codec.dtype, codec.latent_channels
        self.spatial_stride = codec.spatial_stride
        self.temporal_stride = codec.temporal_stride

    @property
    def kernel_set(self) -> str:
        """Name of the kernels between the convolutions."""
        return self._kernels.name

    def pixel_size(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        """Return frame height and width in pixels of a latent size."""
        return self.codec.pixel_size(latent_height, latent_width)

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode frames one by one; see ``LatentCodec``."""
        return self.codec.encode_frames(frames)

    def encode_clip(self, clip: Tensor) -> Tensor:
        """Encode a clip; see ``LatentCodec``."""
        return self.codec.encode_clip(clip)

    def decoder(self) -> ChunkDecoder:
        """Record a new streaming decoder.

        Cost: a few decodes, and memory for the frames between its layers.
        """
        kernels = self._kernels
        if self._choices is not None:
            # One for each decoder: what is chosen holds for the thread that records it.
            kernels = replace(kernels, convolve=MeasuredConvolution(self._choices))
        decoder = ChunkDecoder(self.codec.chunk_program(self.shape, kernels), self._capture())
        if self.codec.device.type == "cuda":
            torch.cuda.empty_cache()  # warming up took memory that the recording does not use
        return decoder

    def decode_full(self, latents: Tensor) -> Tensor:
        """Decode a whole clip, latent by latent."""
        return self.codec.decode_full(latents)
