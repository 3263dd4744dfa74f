"""A pipeline, a film, a codec and a text encoder that note how long their stages take.

Put around the real ones by the bench; what they compute is unchanged. A stage whose work grows with
the place in the shot is noted twice: as ``step_ms`` and, in a shot's third chunk, as ``step_ms.3``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shotstream_rt.abandonment import Abandoned, never
from shotstream_rt.backends.base import AccompaniedFilm, FilmState
from shotstream_rt.loading.load_model import Model
from shotstream_rt.pipeline import Pipeline

from .shot_inputs import frames_of
from .stopwatch import Reading, Stopwatch

if TYPE_CHECKING:
    from shotstream_rt.device.companion import Companion
    from shotstream_rt.model.captions import CaptionSet, TextEncoder
    from shotstream_rt.model.codec import LatentCodec, StreamDecoder
    from shotstream_rt.plan.noise import NoiseSource
    from shotstream_rt.plan.policy import PassPlan
    from shotstream_rt.shot_inputs import ShotInputs


class TimedFilm:
    """A film that notes ``caption_kv_ms``, ``context_pass_ms``, ``step_ms``, ``commit_ms``.

    Attributes:
        ahead: gives what encloses captions that are prepared, the first of the next shot's passes.
    """

    def __init__(self, film: FilmState, watch: Stopwatch) -> None:
        self._film, self._watch = film, watch
        self._place = 0
        self.ahead: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def device(self) -> torch.device:
        """See ``FilmState``."""
        return self._film.device

    @property
    def dtype(self) -> torch.dtype:
        """See ``FilmState``."""
        return self._film.dtype

    @property
    def abandoned(self) -> Abandoned:
        """See ``FilmState``."""
        return self._film.abandoned

    @abandoned.setter
    def abandoned(self, abandoned: Abandoned) -> None:
        self._film.abandoned = abandoned

    @property
    def companion(self) -> Companion | None:
        """See ``AccompaniedFilm``; of a film that takes none, ``None``."""
        return self._film.companion if isinstance(self._film, AccompaniedFilm) else None

    @companion.setter
    def companion(self, companion: Companion | None) -> None:
        if isinstance(self._film, AccompaniedFilm):
            self._film.companion = companion

    def prepare_captions(self, captions: CaptionSet) -> None:
        """See ``FilmState``; a part of the next shot's ``caption_kv_ms``."""
        with self.ahead(), self._watch.part_ms("caption_kv_ms"):
            self._film.prepare_captions(captions)

    def begin_shot(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        with self._watch.time_ms("caption_kv_ms"):
            self._film.begin_shot(captions)

    def change_captions(self, captions: CaptionSet) -> None:
        """See ``FilmState``."""
        with self._watch.time_ms("caption_kv_ms"):
            self._film.change_captions(captions)

    def encode_context(self, plan: PassPlan, captions: Sequence[int], latents: Tensor) -> None:
        """See ``FilmState``.

        Args:
            plan: of the context pass.
            captions: caption of each context frame, as a row of the shot's captions.
            latents: the context frames, ``[1, F, C, h, w]``.
        """
        with self._watch.time_ms("context_pass_ms"):
            self._film.encode_context(plan, captions, latents)

    def begin_chunk(self, plan: PassPlan, caption: int, noise: Tensor) -> None:
        """See ``FilmState``; not a stage of its own, but part of the chunk's time.

        Args:
            plan: of the chunk.
            caption: row of the shot's captions.
            noise: ``[S, 1, F, C, h, w]``; entry ``s`` enters the input of step ``s``.
        """
        self._place = 0 if plan.chunk is None else plan.chunk + 1
        self._film.begin_chunk(plan, caption, noise)

    def denoise(self, step: int) -> Tensor:
        """See ``FilmState``."""
        with self._watch.time_ms("step_ms", f"step_ms.{self._place}"):
            return self._film.denoise(step)

    def commit(self) -> None:
        """See ``FilmState``."""
        with self._watch.time_ms("commit_ms", f"commit_ms.{self._place}"):
            self._film.commit()

    def keep(self, slots: Sequence[int] | None = None) -> Callable[[], None]:
        """See ``FilmState``."""
        return self._film.keep(slots)

    def poison(self) -> None:
        """See ``FilmState``."""
        self._film.poison()

    def close(self) -> None:
        """See ``FilmState``."""
        self._film.close()


class TimedPipeline(Pipeline):
    """A pipeline that notes ``context_encode_ms``, ``chunk_ms`` (also by position) and ``shot_s``.

    ``shot_s`` is the sum over a shot of all student passes: captions, context, chunks and clean
    passes; ``denoise_no_commit_fps`` are the shot's frames over that sum without the clean passes,
    as some publish their rate; ``shot_cpu_s`` (on a CPU) is the CPU time of the calling thread
    only: with ``--threads 1`` it does not depend on other load. They are noted when the next shot
    begins or ``finish_shot`` is called.

    Args:
        pipeline: the real one.
        watch: takes the samples.
    """

    def __init__(self, pipeline: Pipeline, watch: Stopwatch) -> None:
        film = TimedFilm(pipeline.film, watch)
        super().__init__(pipeline.config, film)
        film.ahead = self._begin_ahead
        self._watch = watch
        self._spans: list[Reading] = []
        self._commits: list[Reading] = []
        self._shot_cpu_ns = 0
        self._next: tuple[int, int] = (0, 0)
        self._begun = False
        self.applied: list[tuple[int, int]] = []
        """(shot, chunk) from which each change of a running shot's caption held."""

    def begin_shot(self, begins: ShotInputs, abandoned: Abandoned = never) -> None:
        """See ``Pipeline``."""
        if not self._begun:
            self._forget_shot()
        self._begun = False
        with self._account(), self._watch.time_ms("context_encode_ms"):
            super().begin_shot(begins, abandoned)
        self._next = (begins.shot, 0)

    def change_captions(self, captions: CaptionSet, abandoned: Abandoned = never) -> None:
        """See ``Pipeline``."""
        super().change_captions(captions, abandoned)
        self.applied.append(self._next)

    def run_chunk(self, chunk: int, noise: NoiseSource, abandoned: Abandoned = never) -> Tensor:
        """See ``Pipeline.run_chunk``.

        Args:
            chunk: number within the shot, from 0.
            noise: the shot's.
            abandoned: asked in front of each step and layer.
        """
        with self._account(), self._watch.time_ms("chunk_ms", f"chunk_ms.{chunk + 1}"):
            x0 = super().run_chunk(chunk, noise, abandoned)
        self._next = (self._next[0], chunk + 1)
        return x0

    def commit(self, abandoned: Abandoned = never) -> None:
        """See ``Pipeline``."""
        with self._account():
            super().commit(abandoned)
        self._commits.append(self._spans[-1])

    def forget(self) -> None:
        """Drop all samples, as after a warm-up."""
        self._next = (self._next[0], 0)
        self._watch.clear()

    @contextmanager
    def _begin_ahead(self) -> Iterator[None]:
        """Add the enclosed time to the totals of the next shot, which begins with it."""
        self._forget_shot()
        with self._account():
            yield
        self._begun = True

    def _forget_shot(self) -> None:
        self.finish_shot()
        self._spans, self._commits, self._shot_cpu_ns = [], [], 0

    def finish_shot(self) -> None:
        """Note the shot's totals, if its chunks all ran."""
        if self._next[1] == self.config.shot.chunks:
            spans, commits = self._spans, self._commits
            frames = frames_of(self.config.shot.shot_frames)
            self._watch.add("shot_s", lambda: _total_s(spans))
            self._watch.add(
                "denoise_no_commit_fps", lambda: frames / (_total_s(spans) - _total_s(commits))
            )
            if self.film.device.type == "cpu":
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


def _total_s(spans: Sequence[Reading]) -> float:
    return sum(reading() for reading in spans) / 1e3


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

    @property
    def dtype(self) -> torch.dtype:
        """See ``LatentCodec``."""
        return self._codec.dtype

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


class TimedModel(Model):
    """A model for one session whose stages are timed; holds the real one until it is freed.

    Args:
        model: the real one.
        pipeline: what the session gets, made with ``model``.
        watch: takes the samples.
    """

    def __init__(self, model: Model, pipeline: TimedPipeline, watch: Stopwatch) -> None:
        model.acquire(self)
        super().__init__(
            name=model.name,
            config=model.config,
            backend=model.backend,
            codec=TimedCodec(model.codec, watch),
            text=TimedText(model.text, watch),
            device=model.device,
            frame_rate_hz=model.frame_rate_hz,
            info=model.info,
        )
        self._real, self._pipeline = model, pipeline

    def new_pipeline(self) -> Pipeline:
        """Return the timed one."""
        return self._pipeline

    def _free(self, shared: object) -> None:
        """Release the real model, which is freed when nothing else holds it."""
        self._real.release(self)
