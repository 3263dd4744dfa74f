"""What the generator works with, put together from a loaded model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .caption_book import CaptionBook
from .context import ContextSelector
from .frames import DecodeWorker
from .host_ring import HostRing
from .kernels.decoder_set import decoder_kernels
from .reader import FrameReader
from .stats import SessionStats
from .streams import Streams, streams_of

if TYPE_CHECKING:
    from .model.loading import ModelBundle
    from .pipeline import Pipeline

_HOST_BUFFERS = 6
"""Chunks that consumers may hold in page-locked memory; more are copied once more."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crew:
    """The generator's helpers.

    Attributes:
        pipeline: the student's hot path.
        selector: context frames.
        book: captions.
        decoder: the decode thread.
        stats: clock.
        reader: takes finished chunks.
        on_error: told what stopped the generator.
        streams: of the model's device; None on a CPU.
    """

    pipeline: Pipeline
    selector: ContextSelector
    book: CaptionBook
    decoder: DecodeWorker
    stats: SessionStats
    reader: FrameReader
    on_error: Callable[[BaseException], None]
    streams: Streams | None = None

    @classmethod
    def assemble(
        cls,
        model: ModelBundle,
        reader: FrameReader,
        *,
        threads: int,
        keep_on_device: bool,
        on_error: Callable[[BaseException], None],
        streams: Streams | None = None,
    ) -> Crew:
        """Start the text and decode threads for a model.

        Everything that a GPU records or compiles for decoding is recorded and compiled here.

        Args:
            model: the loaded model.
            reader: takes finished chunks.
            threads: CPU threads of the student; the decoder gets half as many.
            keep_on_device: leave pixels where they are decoded.
            on_error: told, from a thread, what stopped it.
            streams: default: those of the model's device.
        """
        codec, config, device = model.codec, model.config, model.device
        latent = config.model
        streams = streams or streams_of(device)
        size = codec.pixel_size(latent.latent_height, latent.latent_width)
        ring, pack = None, decoder_kernels(device).frame_pack
        if streams is not None:
            pack(torch.zeros(1, 3, *size, device=device))  # compiles it
            if not keep_on_device:
                frames = codec.temporal_stride * config.shot.chunk_frames
                ring = HostRing(streams, (frames, *size, 3), slots=_HOST_BUFFERS)
        selector = ContextSelector(
            codec,
            budget=config.cache.context_frames,
            latent_shape=(codec.latent_channels, latent.latent_height, latent.latent_width),
            shot_limit=1 + codec.temporal_stride * (config.shot.shot_frames - 1),
            device=device,
            choice=config.cache.context_choice,
        )
        return cls(
            pipeline=model.pipeline,
            selector=selector,
            book=CaptionBook(model.text, device=device),
            decoder=DecodeWorker(
                codec.decoder(),
                selector,
                on_error=on_error,
                threads=max(1, threads // 2),
                streams=streams,
                ring=ring,
                keep_on_device=keep_on_device,
                pack=pack,
            ),
            stats=SessionStats(),
            reader=reader,
            on_error=on_error,
            streams=streams,
        )

    def close(self) -> None:
        """Stop the text and decode threads and wait for them."""
        self.decoder.close()
        self.book.close()
