"""What the timed film and pipeline note of work that is done ahead of a shot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from shotstream_rt.backends.base import FilmState
from shotstream_rt.bench import stopwatch
from shotstream_rt.bench.stopwatch import Stopwatch
from shotstream_rt.bench.timed import TimedFilm, TimedPipeline
from shotstream_rt.config import CacheConfig, ModelConfig, StreamConfig
from shotstream_rt.model.captions import CaptionSet
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise
from shotstream_rt.shot_inputs import ShotInputs

CAPTIONS = CaptionSet(embeddings=torch.zeros(1, 4, 2), lengths=(4,), keys=("a",))


class SlowFilm:
    """Takes 20 ms, by a clock of its own, for captions ahead, and 1 ms for a step."""

    device, dtype, abandoned = torch.device("cpu"), torch.float32, None

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        clock = SimpleNamespace(perf_counter_ns=lambda: self.now_ns)
        monkeypatch.setattr(stopwatch, "time", clock)

    def prepare_captions(self, captions: CaptionSet) -> None:
        self.now_ns += 20_000_000

    def begin_chunk(self, plan: Any, caption: int, noise: torch.Tensor) -> None:
        self.x0 = noise[0]

    def denoise(self, step: int) -> torch.Tensor:
        self.now_ns += 1_000_000
        return self.x0

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_captions_made_ahead_are_part_of_the_next_shots_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Stopwatch(torch.device("cpu"))
    film = TimedFilm(cast(FilmState, SlowFilm(monkeypatch)), watch)
    film.prepare_captions(CAPTIONS)
    for _ in range(2):
        film.begin_shot(CAPTIONS)
    assert watch.samples()["caption_kv_ms"] == [20, 0]


@pytest.mark.parametrize("prepared", [True, False])
def test_a_shots_sum_begins_with_its_captions(
    monkeypatch: pytest.MonkeyPatch, prepared: bool
) -> None:
    model = ModelConfig(latent_height=2, latent_width=2)
    config = StreamConfig(model=model, cache=CacheConfig(context_frames=0))
    watch = Stopwatch(torch.device("cpu"))
    pipeline = TimedPipeline(Pipeline(config, cast(FilmState, SlowFilm(monkeypatch))), watch)
    context = torch.zeros(1, 0, 16, 2, 2)
    for shot in range(2):
        if prepared:
            pipeline.film.prepare_captions(CAPTIONS)
        pipeline.begin_shot(ShotInputs(shot, context, [], CAPTIONS, 1))
        for chunk in range(config.shot.chunks):
            pipeline.run_chunk(chunk, PhiloxNoise(0))
            pipeline.commit()
    pipeline.finish_shot()
    steps_s = 0.001 * config.shot.chunks * config.schedule.num_steps
    wanted = pytest.approx(steps_s + (0.02 if prepared else 0))
    assert watch.samples()["shot_s"] == [wanted] * 2
