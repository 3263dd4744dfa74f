"""The plain baseline of a measurement, with the best attention that torch has on the device.

What torch takes by default is not always its fastest: on sm_90 it prefers FlashAttention-2,
although cuDNN is clearly faster. So on a GPU the plain student is run with each library attention
that works there, one after the other in every round, and the faster one is the baseline.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from shotstream_rt.config import ShotConfig, StreamConfig
from shotstream_rt.kernels.sets.library_attention import library_unavailable_reason
from shotstream_rt.model.student import Student
from shotstream_rt.pipeline import Pipeline

from .measurement import add_rates
from .plain_student import PlainStudent, attend_by
from .stopwatch import Stopwatch
from .timed import TimedPipeline

NOT_COMPARABLE = ("caption_kv_ms", "context_pass_ms")
"""Stages without a counterpart: the baseline makes caption keys in its context pass."""

_LIBRARIES = ("cudnn", "flash")

_log = logging.getLogger("shotstream_rt.bench")


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What the baseline measured with its fastest attention.

    Attributes:
        attention: ``cudnn``, ``flash``, or ``torch`` for what torch takes by itself.
        samples: by the names of stages that the measured student has too.
        times_slower: of each other attention that was tried, its median ``shot_s`` over the
            fastest one's.
    """

    attention: str
    samples: Mapping[str, Sequence[float]]
    times_slower: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what a record says of the baseline, apart from ratios."""
        return {"attention": self.attention, "times_slower": dict(self.times_slower)}


def baseline_attentions(device: torch.device, dtype: torch.dtype, head_dim: int) -> list[str]:
    """Return the attentions that the baseline is to be tried with.

    Args:
        device: where it runs.
        dtype: of queries, keys and values.
        head_dim: features per head.

    Returns:
        The libraries that work there; ``torch`` alone on a CPU and where none does.
    """
    found = []
    for name in _LIBRARIES:
        reason = library_unavailable_reason(name, device, dtype, head_dim)
        if reason is None:
            reason = _failure(name, device, dtype, head_dim)
        if reason is None:
            found.append(name)
        elif device.type == "cuda":
            _log.info("baseline without %s attention: %s", name, reason)
    return found or ["torch"]


def _failure(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Attend to a few tokens; return why that failed, or None."""
    q = torch.zeros(1, 1, 64, head_dim, device=device, dtype=dtype)
    try:
        with attend_by(name):
            F.scaled_dot_product_attention(q, q, q)
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None


class BaselineRuns:
    """One plain student, timed apart under each attention.

    Args:
        student: weights.
        config: of the film; see ``PlainStudent`` for what it may be.
    """

    def __init__(self, student: Student, config: StreamConfig) -> None:
        self._plain = PlainStudent(student, config)
        device, shape = self._plain.device, config.model
        names = baseline_attentions(device, self._plain.dtype, shape.head_dim)
        self._shot = config.shot
        self._watches = {name: Stopwatch(device) for name in names}
        # All of them use the same student: nothing of a shot is kept for the next one.
        self._pipelines = {
            name: TimedPipeline(Pipeline(config, self._plain), watch)
            for name, watch in self._watches.items()
        }

    def turns(self) -> Iterator[tuple[TimedPipeline, Stopwatch]]:
        """Yield the student and its stopwatch once per attention, with that attention set."""
        for name, watch in self._watches.items():
            self._plain.attention = name
            yield self._pipelines[name], watch

    def clear(self) -> None:
        """Forget all samples, as after a warm-up."""
        for watch in self._watches.values():
            watch.clear()

    def result(self) -> Baseline:
        """Return the samples of the attention with the least median ``shot_s``."""
        samples = {name: watch.samples() for name, watch in self._watches.items()}
        return fastest_baseline(samples, self._shot)

    def close(self) -> None:
        """Free the baseline's caches."""
        self._plain.close()


def fastest_baseline(samples: Mapping[str, dict[str, list[float]]], shot: ShotConfig) -> Baseline:
    """Choose among what was measured under each attention; see ``BaselineRuns.result``."""
    shot_s = {name: median(found["shot_s"]) for name, found in samples.items()}
    best = min(shot_s, key=lambda name: shot_s[name])
    chosen = samples[best]
    add_rates(chosen, shot)
    return Baseline(
        attention=best,
        samples={name: values for name, values in chosen.items() if name not in NOT_COMPARABLE},
        times_slower={
            name: round(seconds / shot_s[best], 3)
            for name, seconds in shot_s.items()
            if name != best
        },
    )
