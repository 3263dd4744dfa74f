"""The command ``run``: a preset's whole pipeline, resumable, checked at the end.

Called by the package's command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from shotstream_rt.errors import ShotStreamError

from .shared import AddCommand, Command

if TYPE_CHECKING:
    from ..paper.run_config import RunConfig
    from ..paper.stage_gate import Gate


class RunFailedError(ShotStreamError):
    """A run ended, and what it made is not what was asked for."""


def add_commands(add: AddCommand) -> dict[str, Command]:
    """Declare the command; returns what runs it."""
    parser = add("run", "the paper's whole pipeline by preset: teacher to streaming student")
    parser.add_argument("--preset", required=True, help="nano-smoke, nano, wan-1.3b or a JSON file")
    parser.add_argument("--folder", type=Path, help="where everything goes (default: runs/NAME)")
    parser.add_argument("--start", help="random, nano, or weights that replace the preset's")
    parser.add_argument("--data", help="bank folder or films' CSV that replaces the preset's")
    parser.add_argument("--minutes", type=float, help="stop, saved, after this wall time")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process")
    parser.add_argument(
        "--dry-run", action="store_true", help="estimate memory without weights or data"
    )
    return {"run": run_command}


def run_command(options: argparse.Namespace) -> dict[str, Any]:
    """Run or resume a preset; returns the report.

    Raises:
        RunFailedError: a loss that had to fall did not.
    """
    from ..common.processes import join
    from ..paper.finish import save_released, ship_run, stream_chunk
    from ..paper.run import Run
    from ..paper.run_config import RunConfig

    torch.set_num_threads(options.threads)
    config = RunConfig.read(options.preset)
    if options.start:
        config = dataclasses.replace(config, start=options.start)
    if options.data:
        films = options.data.endswith(".csv")
        data = dataclasses.replace(
            config.data, kind="films" if films else "bank", path=options.data
        )
        config = dataclasses.replace(config, data=data)
    if options.dry_run:
        from ..paper.dry_run import dry_run

        return dry_run(config)
    folder = options.folder or Path("runs") / config.name
    deadline = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    with join(options.device) as processes:
        run = Run(config, folder, processes, _gate(config, folder))
        stages = run.go(deadline)
        report: dict[str, Any] = {"folder": str(folder), "finished": stages is not None}
        if stages is None or not processes.leads:
            return report
        report["stages"] = stages
        if config.text.kind == "nano":
            student = folder / "student"
            ship_run(run, student)
            report["student"] = str(student)
            report["streamed_frames"] = stream_chunk(student)
        else:
            save_released(run, folder / "shotstream_merged.pt")
            report["student"] = str(folder / "shotstream_merged.pt")
    failed = [n for n, s in stages.items() if "loss" in s and not s["loss"]["fell"]]
    if config.must_fall and failed:
        raise RunFailedError(f"{folder}: the loss did not fall in {', '.join(failed)}")
    _print_report(report)
    return report


def _gate(config: RunConfig, folder: Path) -> Gate | None:
    """Return the exam of context use; films have no scenes with a known answer."""
    if config.gate == "off" or config.text.kind != "nano":
        return None
    from ..evaluation.context_gate import run_gate

    return run_gate(config, folder / "gate")


def _print_report(report: dict[str, Any]) -> None:
    for name, stage in report["stages"].items():
        loss = stage.get("loss")
        text = f"{stage['pairs']} trajectories" if loss is None else (
            f"loss {loss['first']:.4f} -> {loss['last']:.4f} in {stage['steps']} steps, "
            f"{stage['train_s']:.0f} s"
        )  # fmt: skip
        print(f"  {name:14} {text}")  # noqa: T201 - a command's output
    if "streamed_frames" in report:
        print(f"  {report['student']}: loads, streamed {report['streamed_frames']} frames")  # noqa: T201
