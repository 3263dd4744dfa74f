"""Random calls of the native core with ordinary, extreme and wrong arguments.

Each call ends in a result that keeps its promises, or in a ``ConfigError`` or ``TypeError``. Meant
for a core built with the sanitizers, which end the process at the first wrong access:
``make test-sanitize`` for seconds, ``make fuzz`` for longer. Needs neither torch nor a model.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import shotstream_rt
from shotstream_rt.errors import ConfigError

ORDINARY = (0, 1, 2, 3, 5, 6, 7, 18, 21, 63, 81, 340)
EXTREME = (
    -1, 4, 255, 511, 512, 513, 1000, 1017, 1018, 1023, 1024, 65535, 65536, 2**19, 2**19 + 1, 2**20,
    2**20 + 1, 2**30, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**50 - 5, 2**50, 2**50 + 1,
    2**53, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, 10**30,
)  # fmt: skip
WRONG = (None, 1.5, float("nan"), "6", b"6", True, [], [1], {}, object())
GUARD = 16
"""Elements before and behind an array that no call may write."""


class Calls:
    """Makes random calls; the same seed makes the same ones.

    Args:
        core: the native module.
        seed: of the random numbers.
    """

    def __init__(self, core: Any, seed: int) -> None:
        self.core, self.random, self.seed = core, random.Random(seed), seed
        self.counts: Counter[str] = Counter()
        self.planner = core.Planner(6, 3, 21)
        self.makers: tuple[Callable[[], None], ...] = (
            self.new_planner, self.context, self.chunk, self.chunk, self.chunk,
            self.sample_context, self.context_candidates, self.normal, self.words,
        )  # fmt: skip

    def run(self, calls: int, seconds: float) -> None:
        """Make at least so many calls, for at least so many seconds."""
        end, made = time.monotonic() + seconds, 0
        while made < calls or time.monotonic() < end:
            for _ in range(100):
                make = self.random.choice(self.makers)
                try:
                    make()
                except (ConfigError, TypeError) as error:
                    self.counts["refused"] += 1
                    assert len(str(error)) < 2000
                self.counts[make.__name__] += 1
            made += 100

    def number(self) -> Any:
        """Return an argument: mostly an ordinary number."""
        kind = self.random.random()
        if kind < 0.75:
            return self.random.choice(ORDINARY)
        return self.random.choice(EXTREME if kind < 0.96 else WRONG)

    def new_planner(self) -> None:
        """Make a planner, and keep it if it can be made."""
        numbers = [self.number() for _ in range(self.random.choice((3, 4, 5, 5, 5)))]
        self.planner = self.core.Planner(*numbers, rotate_on_read=self.random.random() < 0.5)
        repr(self.planner)

    def context(self) -> None:
        """Plan a context pass."""
        count = self.planner.context_frames if self.random.random() < 0.8 else self.number()
        length = count if isinstance(count, int) and 0 <= count <= 1024 else 3
        flags = [self.number() for _ in range(2)] * (length // 2) + [1] * (length % 2)
        plan = self.planner.context(flags if self.random.random() < 0.95 else self.number())
        assert plan.slots == list(range(self.planner.context_frames))
        assert len(plan.positions) == len(plan.flags) == plan.valid_frames

    def chunk(self) -> None:
        """Plan a chunk, and check that every slot lies in the arena."""
        planner = self.planner
        plan = planner.chunk(self.number(), self.number(), self.number())
        assert len(set(plan.write_slots)) == len(plan.positions) == planner.chunk_frames
        assert planner.context_frames <= min(plan.write_slots)
        assert max(plan.write_slots) < plan.valid_frames <= planner.arena_frames
        assert len(plan.key_positions) == plan.valid_frames
        assert len(plan.slot_frames) == plan.valid_frames - planner.context_frames

    def sample_context(self) -> None:
        """Pick context frames, and check that they exist."""
        counts = [self.number() for _ in range(self.random.choice((0, 1, 1, 2, 3, 6, 9)))]
        budget = self.number()
        picks = self.core.sample_context(counts, budget)
        assert len(picks) == (budget if counts else 0)
        assert all(0 <= frame < counts[shot] for shot, frame in picks)

    def context_candidates(self) -> None:
        """Ask for the frames that may be picked."""
        count, budget = self.number(), self.random.choice((1, 2, 6, self.number()))
        found = self.core.context_candidates(count, budget)
        assert found == sorted(set(found))
        assert found[0] >= 0
        assert found[-1] < count

    def normal(self) -> None:
        """Draw normals."""
        self.fill(self.core.philox_normal, np.float32)

    def words(self) -> None:
        """Draw raw words."""
        self.fill(self.core.philox_uint32, np.uint32)

    def fill(self, draw: Callable[..., None], dtype: Any) -> None:
        """Fill a part of an array, and check that nothing else of it was written."""
        size = self.random.choice((0, 1, 2, 3, 4, 5, 31, 64, 257))
        begin = GUARD + self.random.randrange(4)
        whole = np.full(begin + size + GUARD, 77, dtype)
        part = whole[begin : begin + size]
        kind = self.random.random()
        out: Any = part
        if kind < 0.05:
            out = self.random.choice(
                (whole[::2], whole.astype(np.float64), whole.reshape(1, 1, -1)[..., :2], *WRONG)
            )
        elif kind < 0.1:
            part.setflags(write=False)
        address = [self.number() for _ in range(self.random.choice((4, 4, 4, 5)))]
        draw(out, *address)
        if out is part:
            assert (whole[:begin] == 77).all()
            assert (whole[begin + size :] == 77).all()
            assert np.isfinite(part).all()


def load(folder: Path) -> Any:
    """Load the native core of a build folder in place of the installed one."""
    [path] = folder.glob("_native*.so")
    name = f"{shotstream_rt.__name__}._native"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    core = importlib.util.module_from_spec(spec)
    sys.modules[name] = core
    spec.loader.exec_module(core)
    return core


def main() -> None:
    """Make calls and print how many of each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="at least so many")
    parser.add_argument("--seconds", type=float, default=0, help="for at least so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--native", type=Path, help="folder with another build of the core")
    options = parser.parse_args()
    if options.native is None:
        from shotstream_rt import _native as core
    else:
        core = load(options.native)
    calls = Calls(core, options.seed)
    calls.run(options.calls, options.seconds)
    refused = calls.counts.pop("refused")
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(calls.counts.items()))
    print(f"fuzz: native: {calls.counts.total()} calls, {refused} refused ({kinds})")  # noqa: T201


if __name__ == "__main__":
    main()
