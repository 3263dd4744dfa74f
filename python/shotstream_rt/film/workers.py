"""The parts that the generator drives, put together from a loaded model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..device.host_ring import HostRing
from ..device.streams import streams_of
from ..kernels.sets.decoder_set import decoder_kernels
from ..model.codec import ResumableDecoder, ThreadFreeDecoder
from .caption_encoder import CaptionEncoder
from .context import ContextSelector
from .decode_thread import DecodeThread
from .stats import SessionStats

if TYPE_CHECKING:
    from ..loading.load_model import Model
    from ..pipeline import Pipeline

HOST_BUFFERS = 6
"""Page-locked host buffers, one chunk each. A consumer that keeps more chunks than this gets
further ones in ordinary memory, at the cost of one copy."""

_STATES_MORE = 4
"""States of the decoder that are kept beyond those of the queued chunks: of the chunk that is read,
of the one being made, and of two that were read, to which an undo goes back."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Workers:
    """The parts that the generator drives.

    Attributes:
        pipeline: computes latents; this film's alone.
        selector: remembers past shots and picks context frames from them.
        captions: encodes captions; may be shared with other sessions of the model.
        decoder: the thread that turns latents into frames.
        stats: times and counts.
        device: where latents are computed.
    """

    pipeline: Pipeline
    selector: ContextSelector
    captions: CaptionEncoder
    decoder: DecodeThread
    stats: SessionStats
    device: torch.device

    @classmethod
    def assemble(
        cls,
        model: Model,
        stats: SessionStats,
        *,
        threads: int,
        queue_chunks: int,
        keep_on_device: bool,
    ) -> Workers:
        """Make the parts of one film; no thread is started.

        What a GPU needs for decoding (captured graphs, compiled kernels, page-locked memory) is
        made here.

        Args:
            model: the loaded model.
            stats: collects times.
            threads: CPU threads of the student; the decoder gets half as many, and all of them
                for a chunk that it decodes alone, where that makes the same frames.
            queue_chunks: chunks that may wait for the reader.
            keep_on_device: leave pixels where they are decoded.
        """
        codec, config, device = model.codec, model.config, model.device
        latent = config.model
        streams, ring, pack = streams_of(device), None, decoder_kernels(device).frame_pack
        if streams is not None:
            size = codec.pixel_size(latent.latent_height, latent.latent_width)
            pack(torch.zeros(1, 3, *size, dtype=torch.float32, device=device))  # compiles it
            if not keep_on_device:
                frames = codec.temporal_stride * config.shot.chunk_frames
                ring = HostRing(streams, (frames, *size, 3), slots=HOST_BUFFERS)
        kept_states = queue_chunks + _STATES_MORE
        selector = ContextSelector(
            codec,
            budget=config.cache.context_frames,
            latent_shape=(codec.latent_channels, latent.latent_height, latent.latent_width),
            shot_limit=1 + codec.temporal_stride * (config.shot.shot_frames - 1),
            spare_frames=kept_states * codec.temporal_stride * config.shot.chunk_frames,
            device=device,
            choice=config.cache.context_choice,
        )
        decoder, pipeline = model.new_decoder(), model.new_pipeline()
        decoding = max(1, threads // 2)
        same = isinstance(decoder, ThreadFreeDecoder) and decoder.same_on_any_threads
        if isinstance(decoder, ResumableDecoder):  # else a shot cannot go back by chunks anyhow
            pipeline.overwritten.kept_chunks = kept_states
        return cls(
            pipeline=pipeline,
            selector=selector,
            captions=model.captions,
            decoder=DecodeThread(
                decoder,
                selector,
                stats,
                frame_rate_hz=model.frame_rate_hz,
                threads=decoding,
                alone_threads=threads if same else decoding,
                streams=streams,
                ring=ring,
                keep_on_device=keep_on_device,
                pack=pack,
                kept_chunks=config.shot.chunks,
                kept_states=kept_states,
            ),
            stats=stats,
            device=device,
        )
