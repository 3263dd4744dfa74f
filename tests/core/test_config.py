"""Configuration objects: JSON both ways, validation that names the field."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from shotstream_rt.config import (
    CacheConfig,
    ModelConfig,
    RolloutConfig,
    ScheduleConfig,
    ShotConfig,
    StreamConfig,
)
from shotstream_rt.errors import ConfigError
from shotstream_rt.plan.students import STUDENTS


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


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (ModelConfig, {"eps": float("nan")}),
        (ModelConfig, {"eps": 0}),
        (ModelConfig, {"eps": "x"}),
        (ModelConfig, {"num_layers": 1 << 20}),
        (ModelConfig, {"dim": 1 << 20}),
        (ModelConfig, {"text_len": 10**30}),
        (ScheduleConfig, {"shift": 1e-300}),
        (ScheduleConfig, {"shift": float("nan")}),
        (ScheduleConfig, {"shift": True}),
        (ScheduleConfig, {"denoising_steps": (1e-300,), "warp": False}),
        (ScheduleConfig, {"denoising_steps": (True,)}),
        (ScheduleConfig, {"warp": "no"}),
        (ScheduleConfig, {"context_noise": float("nan")}),
    ],
)
def test_impossible_numbers_are_refused_with_their_range(kind, change) -> None:
    with pytest.raises(ConfigError, match=r"wanted .*( to |true or false|\[0, 1000\])"):
        kind(**change)


@pytest.mark.parametrize("value", [None, 5, [], "x", [["a", 1]]])
@pytest.mark.parametrize("part", ["model", "cache", "shot", "schedule", "history"])
def test_a_part_that_is_no_object_is_refused(part, value) -> None:
    with pytest.raises(ConfigError, match="wanted a JSON object"):
        StreamConfig.from_dict({part: value})


def test_a_cache_beyond_all_memory_is_refused() -> None:
    huge = ModelConfig(latent_height=2048, latent_width=2048)
    with pytest.raises(ConfigError, match=r"got .a cache of .* values., wanted at most"):
        StreamConfig(model=huge, cache=CacheConfig(context_frames=512))


def test_settings_of_the_family_are_written_only_where_they_differ() -> None:
    plain = StreamConfig().to_dict()
    assert "rollout" not in plain
    assert "numbering" not in plain["cache"] and "first_steps" not in plain["schedule"]
    for student in STUDENTS.values():
        config = student.stream(ModelConfig())
        assert StreamConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"policy": "spiral"}, "policy"),
        ({"prompt": None}, "prompt"),
        ({"renew_sink": 1}, "renew_sink"),
        ({"first_frames": 0}, "first_frames"),
        ({"cut_position": 1024}, "cut_position"),
    ],
)
def test_an_impossible_rollout_names_the_field(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"RolloutConfig.{field}"):
        RolloutConfig(**settings)


def test_settings_that_do_not_go_together_are_refused() -> None:
    rolling = STUDENTS["rolling-forcing"].stream(ModelConfig())
    for part, change, field in (
        ("cache", {"sink_frames": 1}, "sink_frames"),
        ("cache", {"window_frames": 15}, "window_frames"),
        ("cache", {"context_frames": 6}, "context_frames"),
        ("rollout", {"prompt": "captions"}, "prompt"),
        ("schedule", {"first_steps": (1000,)}, "first_steps"),
    ):
        changed = replace(getattr(rolling, part), **change)
        with pytest.raises(ConfigError, match=field):
            replace(rolling, **{part: changed})
    with pytest.raises(ConfigError, match="numbering"):
        CacheConfig(numbering="slot")
    with pytest.raises(ConfigError, match=r"RolloutConfig\.cut"):
        StreamConfig(rollout=RolloutConfig(cut="keep"))
    with pytest.raises(ConfigError, match="first_frames"):
        StreamConfig(rollout=RolloutConfig(first_frames=4))


def test_a_schedule_is_shortened_after_the_first_chunk() -> None:
    schedule = ScheduleConfig().shortened()
    assert schedule.first_steps == (1000, 740, 500, 260)
    assert schedule.denoising_steps == (1000, 500)
    for short in (ScheduleConfig(denoising_steps=(1000, 500)), schedule):
        with pytest.raises(ConfigError, match="three or more"):
            short.shortened()
