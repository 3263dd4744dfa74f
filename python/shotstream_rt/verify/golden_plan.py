"""The plan in a golden case: what every pass of the original reads, held against what was run.

An entry stands for a call of the original's model, or for all calls of a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config import ScheduleConfig


def differing_passes(
    got: Sequence[Mapping[str, Any]], golden: Sequence[Mapping[str, Any]]
) -> float:
    """Return how many passes are not those of the golden plan.

    What is computed for nothing is not expected: clean passes that another one overwrites unread,
    and frames of a recache whose keys nobody reads.

    Args:
        got: the passes that were run.
        golden: the plan in a golden case.
    """
    wanted = [entry for entry in golden if entry.get("needed", True)]
    differing = abs(len(got) - len(wanted))
    for own, other in zip(got, wanted, strict=False):
        anew = {*other["key_frames"]} - _kept_sink(other)
        read = [i for i, frame in enumerate(other["frames"]) if frame in anew]
        same = (
            own["kind"] == other["kind"]
            and own["frames"] == [other["frames"][i] for i in read]
            and own["query_positions"] == [other["query_positions"][i] for i in read]
            and own["key_frames"] == other["key_frames"]
            and own["key_positions"] == other["key_positions"]
        )
        if "times" in other:
            # Plans with other frames have other numbers of times.
            pairs = zip(own["times"], other["times"], strict=False)
            same = same and all(abs(one - two) < 1e-3 for one, two in pairs)
        differing += not same
    return float(differing)


def same_passes(plan: Sequence[Mapping[str, Any]], schedule: ScheduleConfig) -> dict[int, int]:
    """Return by number of the original's model call which pass does the same.

    Calls whose results nobody reads are left out: no pass does the same.

    Args:
        plan: golden; an entry of kind ``chunk`` stands for its denoising calls and its clean one.
        schedule: says how many those are.
    """
    passes: dict[int, int] = {}
    steps, call = len(schedule.first_steps) or schedule.num_steps, 0
    for entry in plan:
        calls = 1
        if entry["kind"] == "chunk":
            calls, steps = steps + 1, schedule.num_steps
        if entry.get("needed", True):
            passes |= {call + i: len(passes) + i for i in range(calls)}
        call += calls
    return passes


def _kept_sink(entry: Mapping[str, Any]) -> set[int]:
    """Return the frames whose keys a recache reads as they were, although it is over them too.

    They are those of a sink that is kept: the film's first frames, and behind them a gap.
    """
    if entry.get("sink_rewritten", True):
        return set()
    keys = entry["key_frames"]
    sink = {frame for place, frame in enumerate(keys) if frame == place}
    return sink if len(sink) < len(keys) else set()
