"""Cache policies: what a plan says a pass does, against a model of the cache kept by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shotstream_rt.config import CacheConfig, ModelConfig, ShotConfig, StreamConfig
from shotstream_rt.errors import ConfigError
from shotstream_rt.history import HistoryPolicy
from shotstream_rt.plan.policy import PassPlan, RotaryPosition, policy_of, ranges_of

CONFIG = StreamConfig(
    model=ModelConfig(
        dim=48, ffn_dim=64, num_heads=4, num_layers=2, text_dim=8, text_len=4, latent_height=2,
        latent_width=2,
    ),
    cache=CacheConfig(context_frames=3, sink_frames=1, window_frames=7),
    shot=ShotConfig(chunk_frames=2, shot_frames=8),
)  # fmt: skip
ON_READ = replace(CONFIG, cache=replace(CONFIG.cache, key_rotation="on_read"))
HISTORY = HistoryPolicy(recent_frames=2, pruned_heads=((), (0, 3)))
PRUNED = replace(CONFIG, history=HISTORY)


def slots_of(plan: PassPlan, group: int = 0) -> list[int]:
    return [slot for begin, end in plan.reads[group] for slot in range(begin, end)]


def test_the_context_is_written_rotated_and_reads_itself() -> None:
    plan = policy_of(CONFIG).context([0, 0, 4])
    assert plan.chunk is None
    assert plan.writes == (0, 1, 2)
    assert plan.positions == (RotaryPosition(0, 0), RotaryPosition(1, 0), RotaryPosition(2, 4))
    assert plan.rotate_keys
    assert slots_of(plan) == [0, 1, 2]
    assert (plan.groups, plan.read_positions) == (None, None)
    assert policy_of(ON_READ).context([0, 0, 4]) == plan
    with pytest.raises(ConfigError, match="flags"):
        policy_of(CONFIG).context([0])


def test_a_chunk_rotates_its_keys_as_it_writes_them() -> None:
    policy = policy_of(CONFIG)
    for chunk in range(9):
        plan = policy.chunk(1, chunk, 5)
        frames = [2 * chunk, 2 * chunk + 1]
        assert plan.chunk == chunk
        assert plan.positions == tuple(RotaryPosition(3 + frame, 5) for frame in frames)
        assert plan.rotate_keys and plan.read_positions is None and plan.groups is None
        # The sink's frame stays in its slot; the other six take turns.
        assert plan.writes == tuple(3 if f == 0 else 4 + (f - 1) % 6 for f in frames)
        assert slots_of(plan) == list(range(3 + min(7, frames[-1] + 1)))
        assert set(plan.writes) <= set(slots_of(plan))
        assert max(slots_of(plan)) < policy.arena_frames == 10


def test_keys_of_a_rolling_shot_are_numbered_anew_as_they_are_read() -> None:
    policy, held = policy_of(ON_READ), dict[int, int]()
    for chunk in range(9):
        plan = policy.chunk(0, chunk, 2)
        held.update(zip(plan.writes, (2 * chunk, 2 * chunk + 1), strict=True))
        assert not plan.rotate_keys
        assert plan.read_positions is not None
        assert plan.read_positions[:3] == (None, None, None)  # the context is stored rotated
        local = plan.read_positions[3:]
        assert len(local) + 3 == len(slots_of(plan))
        ranks = {frame: rank for rank, frame in enumerate(sorted(held.values()))}
        assert local == tuple(RotaryPosition(3 + ranks[held[slot]], 2) for slot in sorted(held))


def test_pruned_heads_read_the_near_part_and_the_others_everything() -> None:
    policy, whole, held = policy_of(PRUNED), policy_of(CONFIG), dict[int, int]()
    for chunk in range(9):
        plan, base = policy.chunk(0, chunk, 1), whole.chunk(0, chunk, 1)
        held.update(zip(plan.writes, (2 * chunk, 2 * chunk + 1), strict=True))
        near = [s for s, frame in held.items() if frame == 0 or frame >= 2 * chunk - 2]
        if len(near) == len(held):
            assert plan == base
            continue
        assert plan.groups == ((0, 0, 0, 0), (1, 0, 0, 1))
        assert plan.reads[0] == base.reads[0]
        assert slots_of(plan, 1) == sorted([0, 1, 2, *near])
        assert replace(plan, reads=base.reads, groups=None) == base


def test_equal_configurations_plan_alike() -> None:
    for config in (CONFIG, ON_READ, PRUNED):
        one, other = policy_of(config), policy_of(replace(config))
        one.chunk(0, 7, 1)
        assert one.chunk(3, 5, 2) == other.chunk(3, 5, 2)


def test_neighbouring_slots_are_one_range() -> None:
    assert ranges_of([0, 1, 4, 6, 7]) == ((0, 2), (4, 5), (6, 8))
    assert ranges_of([2]) == ((2, 3),)
    assert ranges_of([]) == ()
