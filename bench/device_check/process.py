"""Processes that are killed with all they started, and never waited for without an end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from .part import ROOT

PYTHON = sys.executable
DYING_S = 15.0
"""For a killed process to be gone. One that sits in a driver call is gone in seconds or never."""

_LOOK_EVERY_S = 1.0


def environment() -> dict[str, str]:
    """Return the environment of every part: the checkout's package, the interpreter's tools."""
    packages = [str(ROOT / "python"), os.environ.get("PYTHONPATH", "")]
    programs = [str(Path(PYTHON).parent), os.environ.get("PATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, packages)),
        "PATH": os.pathsep.join(filter(None, programs)),
        "PYTHONUNBUFFERED": "1",
    }


def run_bounded(
    command: Sequence[str],
    log: IO[str],
    limit_s: float,
    *,
    env: Mapping[str, str] | None = None,
    look: Callable[[], None] = lambda: None,
) -> int | None:
    """Run a command from the checkout's root.

    Args:
        command: program and arguments.
        log: open file that gets both of its outputs.
        limit_s: seconds after which its whole session is killed.
        env: default: ``environment()``.
        look: called about once a second while it runs.

    Returns:
        The exit code, negative for a signal; None if it was killed for taking too long.
    """
    # A session of its own, so that its helpers are killed together with it.
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment() if env is None else env, stdout=log,
        stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + limit_s
    try:
        while (left_s := until - time.monotonic()) > 0:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(min(left_s, _LOOK_EVERY_S))
            look()
    finally:
        # Also when it ended by itself, or we are told to stop: nothing may stay on the GPU.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(DYING_S)
    return None
