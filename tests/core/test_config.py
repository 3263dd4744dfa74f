"""Configuration objects: JSON both ways, validation that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from shotstream_rt.config import (
    CacheConfig,
    ModelConfig,
    ScheduleConfig,
    ShotConfig,
    StreamConfig,
)
from shotstream_rt.errors import ConfigError


def test_json_round_trip() -> None:
    config = StreamConfig(
        cache=CacheConfig(window_frames=9, sink_frames=3, key_rotation="on_read"),
        schedule=ScheduleConfig(denoising_steps=(1000, 500), shift=3.0),
    )
    assert StreamConfig.from_dict(config.to_dict()) == config


def test_defaults_are_the_released_student() -> None:
    config = StreamConfig()
    assert config.model.tokens_per_frame == 1560
    assert config.arena_frames == 27
    assert config.shot.chunks == 7


@pytest.mark.parametrize(
    ("kind", "values", "names"),
    [
        (ModelConfig, {"num_heads": 7}, "num_heads"),
        (ModelConfig, {"latent_height": 61}, "latent_height"),
        (ModelConfig, {"dim": "1536"}, "dim"),
        (ModelConfig, {"dimension": 3}, "dimension"),
        (CacheConfig, {"context_frames": -1}, "context_frames"),
        (CacheConfig, {"key_rotation": "never"}, "key_rotation"),
        (ShotConfig, {"chunk_frames": 4}, "shot_frames"),
        (CacheConfig, {"context_choice": "last"}, "context_choice"),
        (ScheduleConfig, {"denoising_steps": [500, 1000]}, "denoising_steps"),
        (ScheduleConfig, {"denoising_steps": [999.5]}, "denoising_steps"),
        (ScheduleConfig, {"shift": float("nan")}, "shift"),
        (ScheduleConfig, {"context_noise": -1}, "context_noise"),
    ],
    ids=str,
)
def test_bad_values_are_refused_by_name(kind: Any, values: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        kind.from_dict(values)


def test_a_window_must_hold_sink_and_chunk() -> None:
    with pytest.raises(ConfigError, match="window_frames"):
        StreamConfig(cache=CacheConfig(window_frames=5, sink_frames=3))
