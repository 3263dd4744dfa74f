"""From nothing to the first frames: how long a cold start takes, and what takes it.

``bench startup`` starts fresh processes one after the other and lets each tell when its stages were
over. Nothing else runs meanwhile; the first process also warms the system's file cache, which is
why every one is told, and not only their medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from shotstream_rt.errors import ConfigError, ShotStreamError
from shotstream_rt.terminal import CommandParser

from .hardware import describe_git, describe_hardware, describe_software, load_average
from .metric import Metric
from .options import BenchOptions, add_how

_log = logging.getLogger("shotstream_rt.bench")

_TEXT = "wide shot of a red cat on a beach"
_LIMIT_S = 1800


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupReport:
    """Cold starts of one kind.

    Attributes:
        model: name or folder.
        cold: whether caches of kernels and of Python's bytecode were empty.
        info: what the session resolved to.
        stages: seconds of each stage by name, one per start, in their order.
        steady_chunk_ms: milliseconds between later chunks, to compare the first one with.
        method: command, load of the machine before.
        hardware: see ``hardware``.
        software: versions.
        git: commit.
    """

    model: str
    cold: bool
    info: Mapping[str, Any]
    stages: Mapping[str, Sequence[float]]
    steady_chunk_ms: float
    method: Mapping[str, Any]
    hardware: Mapping[str, Any]
    software: Mapping[str, Any]
    git: Mapping[str, Any]

    @property
    def totals(self) -> list[float]:
        """Seconds from the start of each process to its first chunk."""
        return [sum(times) for times in zip(*self.stages.values(), strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        stages = [Metric.of(name, "s", times) for name, times in self.stages.items()]
        return {
            "kind": "startup",
            "model": self.model,
            "cold": self.cold,
            **self.info,
            "startup_s": round(median(self.totals), 4),
            "total": Metric.of("total", "s", self.totals).to_dict(),
            "stages": [
                {**stage.to_dict(), "samples": [round(time, 4) for time in self.stages[stage.name]]}
                for stage in stages
            ],
            "steady_chunk_ms": round(self.steady_chunk_ms, 3),
            "method": dict(self.method),
            "hardware": dict(self.hardware),
            "software": dict(self.software),
            "git": dict(self.git),
        }

    def lines(self) -> list[str]:
        """Return a table for people."""
        totals = self.totals
        whole = median(totals)
        lines = [
            f"{self.model} on {self.info['device']}, {self.info['backend']} backend, "
            f"{self.info['dtype']}: {len(totals)} start(s), caches "
            f"{'empty' if self.cold else 'as they are'}",
            f"{'stage':24}{'median s':>10}{'share %':>9}{'min s':>9}{'max s':>9}",
        ]
        for name, times in {**self.stages, "to the first chunk": totals}.items():
            share = 100 * median(times) / whole
            numbers = f"{median(times):>10.3f}{share:>9.1f}{min(times):>9.3f}{max(times):>9.3f}"
            lines.append(f"{name:24}{numbers}")
        lines.append(f"a later chunk of the shot takes {self.steady_chunk_ms / 1e3:.3f} s")
        return lines


def startup_parser() -> argparse.ArgumentParser:
    """Return the parser of ``startup``."""
    out = CommandParser(
        prog="python -m shotstream_rt.bench startup",
        description="Start fresh processes that open a session and read its first chunk; tell "
        "what their time went into. See docs/profiling.md.",
    )
    out.add_argument("--model", default="nano", metavar="NAME|DIR", help="default nano")
    out.add_argument("--repeats", type=int, default=3, metavar="N", help="processes (3)")
    add_how(out)
    out.add_argument(
        "--cold", action="store_true",
        help="with empty caches for Triton's kernels and Python's bytecode, in every process",
    )  # fmt: skip
    out.add_argument("--plot", metavar="FILE", help="draw a stacked bar (needs matplotlib)")
    out.add_argument("--json", action="store_true", help="print the report as one JSON line")
    return out


def measure_startup(asked: argparse.Namespace, command: Sequence[str]) -> StartupReport:
    """Run what ``startup_parser`` parsed.

    Args:
        asked: the parsed words.
        command: the words, for the report.

    Raises:
        ConfigError: an option is not usable, here or in the process that was started.
        ShotStreamError: a process failed otherwise.
    """
    options = BenchOptions(
        device=asked.device, backend=asked.backend, kernels=asked.kernels, profile=asked.profile,
        dtype=asked.dtype, threads=asked.threads, repeats=asked.repeats,
    )  # fmt: skip
    wanted = {
        "model": asked.model, "device": options.device, "backend": options.backend,
        "kernels": options.kernels, "profile": options.profile, "dtype": options.dtype,
        "threads": options.threads, "text": _TEXT,
    }  # fmt: skip
    load = load_average()
    stages: dict[str, list[float]] = {}
    steady: list[float] = []
    info: dict[str, Any] = {}
    for repeat in range(options.repeats):
        begun_ns, told = _start(wanted, cold=asked.cold)
        for stage, ended_ns in told["moments"]:
            stages.setdefault(stage, []).append((ended_ns - begun_ns) / 1e9)
            begun_ns = ended_ns
        # The second chunk begins while the first one is decoded, so its interval is no chunk's.
        chunks = told["chunks"][1:]
        steady += [(b - a) / 1e6 for a, b in itertools.pairwise(chunks)]
        info = {key: told["info"][key] for key in ("device", "backend", "kernel_set", "dtype",
                                                   "profile", "threads")}  # fmt: skip
        _log.info("start %d of %d", repeat + 1, options.repeats)
    return StartupReport(
        model=asked.model,
        cold=asked.cold,
        info=info,
        stages=stages,
        steady_chunk_ms=median(steady) if steady else 0.0,
        method={
            "command": " ".join(["python", "-m", "shotstream_rt.bench", "startup", *command]),
            "repeats": options.repeats,
            "load_before": load,
        },
        hardware=describe_hardware(options.torch_device()),
        software=describe_software(),
        git=describe_git(),
    )


def _start(wanted: Mapping[str, Any], *, cold: bool) -> tuple[int, dict[str, Any]]:
    """Start one process and wait for its end.

    Args:
        wanted: what it is to open.
        cold: give it empty caches.

    Returns:
        When it was started, on its own clock, and what it told.
    """
    with ExitStack() as kept:
        environment = dict(os.environ)
        if cold:
            folder = Path(kept.enter_context(tempfile.TemporaryDirectory()))
            environment["TRITON_CACHE_DIR"] = str(folder / "triton")
            environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
        words = [sys.executable, "-m", "shotstream_rt.bench.startup_child", json.dumps(wanted)]
        begun_ns = time.monotonic_ns()
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=_LIMIT_S, check=False,
                env=environment,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ShotStreamError(f"startup: no first chunk within {_LIMIT_S} s") from error
    try:
        told = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        told = {}
    if done.returncode == 0 and "moments" in told:
        return begun_ns, told
    reason = told.get("error") or (done.stderr.strip().splitlines() or ["no output"])[-1]
    kind = ConfigError if done.returncode == 2 else ShotStreamError
    raise kind(f"startup: the process that was started ended with {done.returncode}: {reason}")
