"""A pipeline, a backend, a codec and a text encoder that note how long their stages take.

Put around the real ones by the bench; what they compute is unchanged. A stage whose work grows with
the place in the shot is noted twice: as ``step_ms`` and, in a shot's third chunk, as ``step_ms.3``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shotstream_rt.backends.base import BackendInfo, StudentBackend
from shotstream_rt.pipeline import Pipeline

from .stopwatch import Reading, Stopwatch

if TYPE_CHECKING:
    from shotstream_rt._native import ChunkPlan, ContextPlan
    from shotstream_rt.model.captions import CaptionSet, TextEncoder
    from shotstream_rt.model.codec import LatentCodec, StreamDecoder
    from shotstream_rt.noise import NoiseSource


class TimedBackend:
    """A backend that notes ``caption_kv_ms``, ``context_pass_ms``, ``step_ms``, ``commit_ms``."""

    def __init__(self, backend: StudentBackend, watch: Stopwatch) -> None:
        self._backend, self._watch = backend, watch

    @property
    def device(self) -> torch.device:
        """See ``StudentBackend``."""
        return self._backend.device

    @property
    def dtype(self) -> torch.dtype:
        """See ``StudentBackend``."""
        return self._backend.dtype

    @property
    def info(self) -> BackendInfo:
        """See ``StudentBackend``."""
        return self._backend.info

    @property
    def noise(self) -> Tensor:
        """See ``StudentBackend``."""
        return self._backend.noise

    def set_captions(self, captions: CaptionSet) -> None:
        """See ``StudentBackend``."""
        with self._watch.time_ms("caption_kv_ms"):
            self._backend.set_captions(captions)

    def encode_context(self, plan: ContextPlan, rows: Sequence[int], latents: Tensor) -> None:
        """See ``StudentBackend``."""
        with self._watch.time_ms("context_pass_ms"):
            self._backend.encode_context(plan, rows, latents)

    def denoise(self, step: int, plan: ChunkPlan, row: int) -> Tensor:
        """See ``StudentBackend``."""
        with self._watch.time_ms("step_ms", f"step_ms.{plan.chunk + 1}"):
            return self._backend.denoise(step, plan, row)

    def commit(self, plan: ChunkPlan, row: int, x0: Tensor) -> None:
        """See ``StudentBackend``."""
        with self._watch.time_ms("commit_ms", f"commit_ms.{plan.chunk + 1}"):
            self._backend.commit(plan, row, x0)

    def close(self) -> None:
        """See ``StudentBackend``."""
        self._backend.close()


class TimedPipeline(Pipeline):
    """A pipeline that notes ``context_encode_ms``, ``chunk_ms`` (also by position) and ``shot_s``.

    ``shot_s`` is the sum over a shot of all student passes: captions, context, chunks and clean
    passes; ``shot_cpu_s`` (on a CPU) is what this thread worked meanwhile, torch's helpers not
    counted: on a busy machine and with one thread it tells what an idle one would take. Both are
    noted when the next shot begins or ``finish_shot`` is called.

    Args:
        pipeline: the real one.
        watch: takes the samples.
    """

    def __init__(self, pipeline: Pipeline, watch: Stopwatch) -> None:
        super().__init__(pipeline.config, TimedBackend(pipeline.backend, watch))
        self._watch = watch
        self._spans: list[Reading] = []
        self._shot_cpu_ns = 0
        self._next: tuple[int, int] = (0, 0)
        self.applied: list[tuple[int, int]] = []
        """(shot, chunk) from which each change of a running shot's caption held."""

    def begin_shot(
        self,
        shot: int,
        context: Tensor,
        flags: Sequence[int],
        captions: CaptionSet,
        target_flag: int,
    ) -> None:
        """See ``Pipeline``."""
        self.finish_shot()
        self._spans, self._shot_cpu_ns = [], 0
        with self._account(), self._watch.time_ms("context_encode_ms"):
            super().begin_shot(shot, context, flags, captions, target_flag)
        self.applied.pop()  # the captions a shot begins with are no change
        self._next = (shot, 0)

    def set_captions(self, captions: CaptionSet) -> None:
        """See ``Pipeline``."""
        super().set_captions(captions)
        self.applied.append(self._next)

    def run_chunk(self, chunk: int, noise: NoiseSource) -> Tensor:
        """See ``Pipeline``."""
        with self._account(), self._watch.time_ms("chunk_ms", f"chunk_ms.{chunk + 1}"):
            x0 = super().run_chunk(chunk, noise)
        self._next = (self._next[0], chunk + 1)
        return x0

    def commit(self) -> None:
        """See ``Pipeline``."""
        with self._account():
            super().commit()

    def forget(self) -> None:
        """Drop all samples, as after a warm-up."""
        self._next = (self._next[0], 0)
        self._watch.clear()

    def finish_shot(self) -> None:
        """Note the shot's totals, if its chunks all ran."""
        if self._next[1] == self.config.shot.chunks:
            spans = self._spans
            self._watch.add("shot_s", lambda: sum(reading() for reading in spans) / 1e3)
            if self.backend.device.type == "cpu":
                self._watch.add("shot_cpu_s", self._shot_cpu_ns / 1e9)
        self._next = (self._next[0], 0)

    @contextmanager
    def _account(self) -> Iterator[None]:
        """Add the enclosed time to the shot's totals."""
        begun = time.thread_time_ns()
        with self._watch.span() as reading:
            yield
        self._spans += reading
        self._shot_cpu_ns += time.thread_time_ns() - begun


class TimedDecoder:
    """A streaming decoder that notes ``vae_decode_ms`` per chunk of its stream."""

    def __init__(self, decoder: StreamDecoder, watch: Stopwatch) -> None:
        self._decoder, self._watch = decoder, watch
        self._chunk = 0

    def decode(self, latents: Tensor) -> Tensor:
        """See ``StreamDecoder``."""
        self._chunk += 1
        with self._watch.time_ms("vae_decode_ms", f"vae_decode_ms.{self._chunk}"):
            return self._decoder.decode(latents)

    def reset(self) -> None:
        """See ``StreamDecoder``."""
        self._chunk = 0
        self._decoder.reset()


class TimedCodec:
    """A codec whose decoders and context encodes (``vae_encode_ms``) are timed."""

    def __init__(self, codec: LatentCodec, watch: Stopwatch) -> None:
        self._codec, self._watch = codec, watch

    @property
    def latent_channels(self) -> int:
        """See ``LatentCodec``."""
        return self._codec.latent_channels

    @property
    def spatial_stride(self) -> int:
        """See ``LatentCodec``."""
        return self._codec.spatial_stride

    @property
    def temporal_stride(self) -> int:
        """See ``LatentCodec``."""
        return self._codec.temporal_stride

    def pixel_size(self, latent_height: int, latent_width: int) -> tuple[int, int]:
        """See ``LatentCodec``."""
        return self._codec.pixel_size(latent_height, latent_width)

    def encode_frames(self, frames: Tensor) -> Tensor:
        """See ``LatentCodec``."""
        with self._watch.time_ms("vae_encode_ms"):
            return self._codec.encode_frames(frames)

    def encode_clip(self, clip: Tensor) -> Tensor:
        """See ``LatentCodec``."""
        return self._codec.encode_clip(clip)

    def decoder(self) -> StreamDecoder:
        """See ``LatentCodec``."""
        return TimedDecoder(self._codec.decoder(), self._watch)

    def decode_full(self, latents: Tensor) -> Tensor:
        """See ``LatentCodec``."""
        return self._codec.decode_full(latents)


class TimedText:
    """A text encoder that notes ``text_encode_ms`` per call."""

    def __init__(self, text: TextEncoder, watch: Stopwatch) -> None:
        self._text, self._watch = text, watch

    @property
    def text_dim(self) -> int:
        """See ``TextEncoder``."""
        return self._text.text_dim

    @property
    def text_len(self) -> int:
        """See ``TextEncoder``."""
        return self._text.text_len

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, list[int]]:
        """See ``TextEncoder``."""
        with self._watch.time_ms("text_encode_ms"):
            return self._text.encode(prompts)

    def check(self, prompt: str) -> list[str]:
        """See ``TextEncoder``."""
        return self._text.check(prompt)
