from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from shotstream_rt.bench.oracle import compare_latents, reference_pipeline
from shotstream_rt.bench.plain_student import PlainStudent
from shotstream_rt.bench.shot_inputs import random_inputs, run_shot
from shotstream_rt.bench.student_run import random_student
from shotstream_rt.config import CacheConfig, StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.pipeline import Pipeline
from shotstream_rt.plan.noise import PhiloxNoise

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("shot", "context_frames", "indicator"),
    [(0, 6, False), (2, 6, False), (2, 6, True), (0, 0, False)],
    ids=["first", "third", "cache-indicator", "no-context"],
)
def test_baseline_computes_what_the_runtime_computes(
    tiny_config: StreamConfig, shot: int, context_frames: int, indicator: bool
) -> None:
    model = replace(tiny_config.model, cache_indicator=indicator)
    config = replace(tiny_config, model=model, cache=CacheConfig(context_frames=context_frames))
    student, noise = random_student(config, seed=1), PhiloxNoise(5)
    inputs = random_inputs(config, shots=shot + 1, text_tokens=4, seed=2)[shot]
    oracle = reference_pipeline(student.state_dict, config, device=CPU, dtype=torch.float32)
    wanted = run_shot(oracle, inputs, noise)
    plain = Pipeline(config, PlainStudent(student, config))
    got = run_shot(plain, inputs, noise, commit_last=True)
    assert compare_latents(got, wanted, torch.float32).rel_l2 < 2e-6
    again = run_shot(plain, inputs, noise)  # nothing of a shot is left for the next one
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


@pytest.mark.parametrize(
    "cache",
    [{"window_frames": 3}, {"sink_frames": 1}, {"key_rotation": "on_read"}],
    ids=["window", "sink", "on-read"],
)
def test_baseline_knows_the_shipped_cache_only(
    tiny_config: StreamConfig, cache: dict[str, object]
) -> None:
    config = replace(tiny_config, cache=CacheConfig(**cache))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="leave out --baseline"):
        PlainStudent(random_student(config, seed=0), config)
