"""Policies of pruned history: which slots a pruned head reads, and JSON both ways."""

from __future__ import annotations

from typing import Any

import pytest

from shotstream_rt._native import Planner
from shotstream_rt.config import ModelConfig, StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.history import HistoryPolicy


def visible(planner: Planner, chunk: int, recent: int) -> list[int]:
    plan = planner.chunk(0, chunk, 0)
    policy = HistoryPolicy(recent_frames=recent, pruned_heads=())
    return policy.visible_slots(
        plan.slot_frames, plan.first_frame, planner.context_frames, planner.sink_frames
    )


def test_a_whole_shot_keeps_context_recent_and_own_frames() -> None:
    planner = Planner(context_frames=6, chunk_frames=3, shot_frames=21)
    assert visible(planner, 1, 3) == [*range(12)]
    assert visible(planner, 4, 3) == [0, 1, 2, 3, 4, 5, 15, 16, 17, 18, 19, 20]
    assert visible(planner, 4, 0) == [0, 1, 2, 3, 4, 5, 18, 19, 20]


def test_a_ring_is_read_by_age_and_its_sink_is_kept() -> None:
    planner = Planner(
        context_frames=1, chunk_frames=1, shot_frames=12, sink_frames=1, window_frames=5
    )
    # Frames 1 to 8 went round four slots: the ring holds 5 6 7 8, frame 5 first.
    assert planner.chunk(0, 8, 0).slot_frames == [0, 5, 6, 7, 8]
    assert visible(planner, 8, 2) == [0, 1, 3, 4, 5]
    assert planner.chunk(0, 9, 0).slot_frames == [0, 9, 6, 7, 8]
    assert visible(planner, 9, 2) == [0, 1, 2, 4, 5]


def test_json_round_trip_inside_the_configuration() -> None:
    policy = HistoryPolicy(recent_frames=6, pruned_heads=((0, 2), ()))
    config = StreamConfig(model=ModelConfig(num_layers=2), history=policy)
    assert StreamConfig.from_dict(config.to_dict()) == config
    assert "history" not in StreamConfig().to_dict()
    assert policy.share(12) == 2 / 24


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({"recent_frames": -1, "pruned_heads": []}, "recent_frames"),
        ({"recent_frames": 3}, "pruned_heads"),
        ({"recent_frames": 3, "pruned_heads": [], "mode": 1}, "mode"),
        ({"recent_frames": 3, "pruned_heads": [1]}, "list of lists"),
        ({"recent_frames": 3, "pruned_heads": [[2, 1]]}, "rising"),
        ({"recent_frames": 3, "pruned_heads": [["a"]]}, "rising"),
    ],
)
def test_bad_values_are_refused_by_name(data: dict[str, Any], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        HistoryPolicy.from_dict(data)


@pytest.mark.parametrize("heads", [((0,),), ((0,), (12,))])
def test_a_policy_must_fit_the_model(heads: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ConfigError, match="calibrate again"):
        StreamConfig(
            model=ModelConfig(num_layers=2),
            history=HistoryPolicy(recent_frames=3, pruned_heads=heads),
        )
