"""What the timed film and pipeline note of work that is done ahead of a shot."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest
import torch

from shotstream_rt.backends.base import FilmState
from shotstream_rt.bench.stopwatch import Stopwatch
from shotstream_rt.bench.timed import TimedFilm, TimedPipeline
from shotstream_rt.config import CacheConfig, ModelConfig, StreamConfig
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise

CAPTIONS = CaptionSet(embeddings=torch.zeros(1, 4, 2), lengths=(4,), keys=("a",))


class SlowFilm:
    """Takes 20 ms for captions ahead and nothing for all else."""

    device, dtype, abandoned = torch.device("cpu"), torch.float32, None

    def prepare_captions(self, captions: CaptionSet) -> None:
        time.sleep(0.02)

    def begin_chunk(self, plan: Any, caption: int, noise: torch.Tensor) -> None:
        self.x0 = noise[0]

    def denoise(self, step: int) -> torch.Tensor:
        return self.x0

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_captions_made_ahead_are_part_of_the_next_shots_time() -> None:
    watch = Stopwatch(torch.device("cpu"))
    film = TimedFilm(cast(FilmState, SlowFilm()), watch)
    film.prepare_captions(CAPTIONS)
    for _ in range(2):
        film.begin_shot(CAPTIONS)
    ahead, alone = watch.samples()["caption_kv_ms"]
    assert ahead >= 20 > alone


@pytest.mark.parametrize("prepared", [True, False])
def test_a_shots_sum_begins_with_its_captions(prepared: bool) -> None:
    model = ModelConfig(latent_height=2, latent_width=2)
    config = StreamConfig(model=model, cache=CacheConfig(context_frames=0))
    watch = Stopwatch(torch.device("cpu"))
    pipeline = TimedPipeline(Pipeline(config, cast(FilmState, SlowFilm())), watch)
    context = torch.zeros(1, 0, 16, 2, 2)
    for shot in range(2):
        if prepared:
            pipeline.prepare_captions(CAPTIONS)
        pipeline.begin_shot(shot, context, [], CAPTIONS, 1)
        for chunk in range(config.shot.chunks):
            pipeline.run_chunk(chunk, PhiloxNoise(0))
            pipeline.commit()
    pipeline.finish_shot()
    sums = watch.samples()["shot_s"]
    assert len(sums) == 2
    assert all((shot_s >= 0.02) == prepared for shot_s in sums)
