"""A run for profilers to look at: ``python -m shotstream_rt.bench profile``.

Opens and warms up a workload, then marks the shots to look at by the CUDA profiler's start and
stop calls, so that ``nsys --capture-range=cudaProfilerApi`` and ``ncu --profile-from-start off``
see these alone. Without Nsight Systems, ``--trace FILE`` writes a timeline with
torch's own profiler, ``--summary`` adds up the stages, ``--memory`` tells what holds memory, and
``--onednn`` which products and convolutions oneDNN ran on a CPU. A profiled run is slower than a
measured one: for records, measure.
"""

from __future__ import annotations

import argparse
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from shotstream_rt.device.profiler import profiled
from shotstream_rt.errors import ConfigError
from shotstream_rt.outputs import check_file_target
from shotstream_rt.terminal import CommandParser, tell, tell_json

from .onednn_log import onednn_calls, onednn_lines
from .options import BenchOptions, add_how
from .profile_subject import open_subject
from .workloads import find_workload

_log = logging.getLogger("shotstream_rt.bench")


def profile_parser() -> argparse.ArgumentParser:
    """Return the parser of ``profile``."""
    out = CommandParser(
        prog="python -m shotstream_rt.bench profile",
        description="Warm up a workload and run shots between the CUDA profiler's start and stop "
        "calls; see docs/profiling.md.",
    )
    out.add_argument("--workload", default="nano-story", metavar="ID", help="default nano-story")
    out.add_argument("--shots", type=int, default=1, metavar="N", help="shots to look at (1)")
    add_how(out)
    out.add_argument("--trace", metavar="FILE.json", help="write a Chrome or Perfetto timeline")
    out.add_argument(
        "--summary", action="store_true",
        help="measure the device's ceilings; tell time, share and percent of floor of every stage",
    )  # fmt: skip
    out.add_argument(
        "--memory", action="store_true", help="tell what weights, arenas, graphs and rings hold"
    )
    out.add_argument(
        "--onednn", action="store_true",
        help="on a CPU: add up the calls that oneDNN reports of itself, by kind",
    )  # fmt: skip
    out.add_argument("--json", action="store_true", help="print what was asked for as a JSON line")
    return out


def profile(asked: argparse.Namespace) -> None:
    """Run what ``profile_parser`` parsed.

    Raises:
        ConfigError: the workload or an option is not usable.
        OutputError: the trace cannot be written.
    """
    if not 1 <= asked.shots <= 100:
        raise ConfigError(f"shots: got {asked.shots}, wanted 1 to 100")
    options = BenchOptions(
        device=asked.device, backend=asked.backend, kernels=asked.kernels, profile=asked.profile,
        dtype=asked.dtype, threads=asked.threads,
    )  # fmt: skip
    device = options.torch_device()
    if asked.onednn and device.type != "cpu":
        raise ConfigError("onednn: oneDNN computes on CPUs only; add --device cpu")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    workload = find_workload(asked.workload)
    if workload.kind == "kernels":
        raise ConfigError(
            f"workload {workload.id}: kernels are profiled by: ncu ... pytest bench --workload ID"
        )
    if workload.kind == "interactive":
        raise ConfigError(
            f"workload {workload.id}: got an interactive one, wanted a film, such as nano-story"
        )
    trace = None if asked.trace is None else Path(asked.trace)
    if trace is not None:
        check_file_target(trace)
    found: dict[str, Any] = {"workload": workload.id, "device": str(device), "shots": asked.shots}
    lines: list[str] = []
    with open_subject(workload, options) as subject:
        subject.play(1)
        _log.info("warm; looking at %d shot(s)", asked.shots)
        subject.watch.clear()
        with ExitStack() as looks:
            calls = looks.enter_context(onednn_calls()) if asked.onednn else []
            looks.enter_context(profiled(device, trace))
            begun_ns = subject.watch.now_ns()
            subject.play(asked.shots)
            wall_s = (subject.watch.now_ns() - begun_ns) / 1e9
        if asked.summary:
            summary = subject.summary(workload.id, asked.shots, wall_s)
            found["summary"] = summary.to_dict()
            lines += summary.lines()
        if asked.memory:
            table = subject.memory()
            found["memory"] = table.to_dict()
            lines += ["", *table.lines()] if lines else table.lines()
        if asked.onednn:
            found["onednn"] = [total.to_dict() for total in calls]
            lines += ["", *onednn_lines(calls)] if lines else onednn_lines(calls)
    if asked.json:
        tell_json(found)
    elif lines:
        tell(*lines)
