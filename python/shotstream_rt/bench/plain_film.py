"""The baseline of a whole film: the original's order of work, one thing after the other.

A shot encodes the captions of all shots so far, picks and encodes its context, runs the plain
student to the end of the shot, decodes the shot as a whole and copies its frames to the host: the
first frame comes when the last one does.
"""

from __future__ import annotations

import torch

from shotstream_rt.film.context import ContextSelector
from shotstream_rt.kernels.reference.frame_pack import frame_pack
from shotstream_rt.loading.load_model import Model
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.model.codec import LatentCodec
from shotstream_rt.model.student import Student
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.shot_inputs import ShotInputs
from shotstream_rt.story import Story

from .baseline import Baseline, BaselineRuns
from .shot_inputs import run_shot
from .stopwatch import Stopwatch
from .timed import TimedPipeline
from .work import exact_codec


class PlainFilm:
    """Plays stories with the plain baseline.

    Args:
        bundle: gives configuration, text encoder and codec.
        student: weights.
        seed: of the noise.
    """

    def __init__(self, bundle: Model, student: Student, *, seed: int) -> None:
        self._bundle, self._noise = bundle, PhiloxNoise(seed)
        self._codec: LatentCodec = exact_codec(bundle.codec)
        self._runs = BaselineRuns(student, bundle.config)

    def warm_up(self, story: Story) -> None:
        """Play a story without noting anything."""
        self.play(story)
        self._runs.clear()

    def play(self, story: Story) -> None:
        """Play a story once with each attention, and note rates and latencies."""
        for pipeline, watch in self._runs.turns():
            self._play(story, pipeline, watch)

    def result(self) -> Baseline:
        """Return what was measured, by the names that a session's samples have."""
        return self._runs.result()

    @torch.inference_mode()
    def _play(self, story: Story, pipeline: TimedPipeline, watch: Stopwatch) -> None:
        config, device = self._bundle.config, self._bundle.device
        model = config.model
        selector = ContextSelector(
            self._codec,
            budget=config.cache.context_frames,
            latent_shape=(model.in_dim, model.latent_height, model.latent_width),
            shot_limit=1 + self._codec.temporal_stride * (config.shot.shot_frames - 1),
            device=device,
        )
        begun, frames = watch.now_ns(), 0
        for shot, caption in enumerate(story.captions):
            asked = watch.now_ns()
            embeddings, lengths = self._bundle.text.encode(story.captions[: shot + 1])
            context = selector.select()
            seen = sorted(set(context.flags)) if shot and config.shot.multi_caption else []
            rows = [*seen, shot]
            inputs = ShotInputs(
                shot=shot,
                context=context.latents,
                flags=context.flags,
                captions=CaptionSet(
                    embeddings=embeddings[rows], lengths=tuple(lengths[row] for row in rows)
                ).checked(),
                target_flag=context.target_flag,
            )
            chunks = run_shot(pipeline, inputs, self._noise, commit_last=True)
            pipeline.finish_shot()
            pictures = self._codec.decode_full(torch.cat(chunks, 1))[0]
            frames += len(frame_pack(pictures).cpu())
            took_ms = (watch.now_ns() - asked) / 1e6
            watch.add("first_frame_ms", took_ms)
            watch.add("cut_ms", took_ms)
            selector.begin_shot(shot, caption)
            selector.add_frames(pictures)
            selector.end_shot()
        watch.add("e2e_fps", frames * 1e9 / (watch.now_ns() - begun))

    def close(self) -> None:
        """Free the baseline's caches."""
        self._runs.close()
