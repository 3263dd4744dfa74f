"""Micro-benchmarks of the native core (``make bench-native``).

What they bound: a plan is made once per chunk and one noise draw once per denoising step, so each
must vanish beside a chunk's milliseconds of compute.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shotstream_rt._native import Planner, philox_normal, sample_context


def bench_chunk_plan(benchmark: Any) -> None:
    planner = Planner(6, 3, 21)
    plan = benchmark(planner.chunk, 3, 6, 3)
    assert plan.valid_frames == 27


def bench_context_sampling(benchmark: Any) -> None:
    picks = benchmark(sample_context, [81] * 5, 6)
    assert len(picks) == 6


@pytest.mark.parametrize("shape", [(1, 3, 16, 60, 104), (1, 3, 16, 8, 8)], ids=["480p", "nano"])
def bench_noise_of_a_chunk(benchmark: Any, shape: tuple[int, ...]) -> None:
    out = np.empty(shape, dtype=np.float32)
    benchmark(philox_normal, out, 7, 1, 2, 3)
    benchmark.extra_info["elements"] = out.size
    assert abs(float(out.mean())) < 0.2
