"""A session for minutes: cuts, prompts, retakes, snapshots and a slow reader at random.

``python tests/soak.py --minutes 30`` (``make soak``) prints how memory went, whether a frame was
lost, and what became of every request. Exit code 1 if anything is not as it should be.

On Linux it lets the allocator use one arena, as ``docs/live.md`` advises for programs that run
for weeks. With one per thread, what is free in each of them grows and shrinks by tens of megabytes.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import time
from pathlib import Path

import numpy as np

from shotstream_rt import Session

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
from monkey import Monkey

CALLS = (
    "cut", "cut", "cut", "cut_now", "prompt", "prompt", "retake", "cancel", "clear", "snapshot",
    "damaged_restore", "look", "pause",
)  # fmt: skip
M_ARENA_MAX = -8  # malloc.h
LIMIT_MB_PER_MINUTE = 0.1
JUDGED_FROM_MINUTES = 20.0
"""Shorter runs print the slope of memory and do not judge it: it is mostly the warming up."""


def resident_mb() -> float:
    """Return the memory that this process holds, in megabytes."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def use_one_arena() -> None:
    """Let threads share one arena, as ``MALLOC_ARENA_MAX=1`` does; before the first thread."""
    if sys.platform == "linux":
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def slope(samples: list[tuple[float, float]]) -> float:
    """Return megabytes per minute: a line through the least of every minute after the first third.

    Chunks and shots in the making come and go, and a leak stays: the least of a minute shows it.
    """
    least: dict[int, float] = {}
    for seconds, size in samples[len(samples) // 3 :]:
        minute = int(seconds // 60)
        least[minute] = min(size, least.get(minute, size))
    if len(least) < 2:
        return 0.0
    return float(np.polyfit([*least], [*least.values()], 1)[0])


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    use_one_arena()
    session = Session.open("nano", threads=1, seed=options.seed)
    monkey = Monkey(session, options.seed, CALLS)
    monkey.start(2, pause_s=1.0)
    begun, samples = time.monotonic(), [(0.0, resident_mb())]
    # A busy machine gets the time that a first frame takes.
    while (elapsed := time.monotonic() - begun) < 60 * options.minutes or not monkey.frames:
        time.sleep(min(1.0, 60 * options.minutes / 20))
        samples.append((elapsed, resident_mb()))
        monkey.undecided()
    shots = len(session.stats["shots"])
    hung = monkey.stop(60)
    session.close()
    undecided = monkey.undecided()
    growth, judged = slope(samples), options.minutes >= JUDGED_FROM_MINUTES
    states = ", ".join(f"{count} {state}" for state, count in sorted(monkey.states.items()))
    for line in (
        f"{options.minutes:g} minutes, {sum(monkey.counts.values())} calls, "
        f"{monkey.frames} frames, the last {shots} shots in the statistics",
        f"memory: {samples[len(samples) // 3][1]:.1f} MB after a third, {samples[-1][1]:.1f} MB at "
        f"the end, {growth:+.3f} MB a minute"
        + ("" if judged else f" (judged from {JUDGED_FROM_MINUTES:g} on)"),
        f"gaps between frames: {monkey.lost}",
        f"requests: {states}; undecided: {len(undecided)}",
        f"raw errors: {monkey.raw or 'none'}; threads that hang: {hung or 'none'}",
    ):
        print(f"soak: {line}")  # noqa: T201
    leaks = judged and growth > LIMIT_MB_PER_MINUTE
    return int(bool(monkey.lost or undecided or monkey.raw or hung or leaks or not monkey.frames))


if __name__ == "__main__":
    sys.exit(main())
