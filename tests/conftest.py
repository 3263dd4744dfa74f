"""Fixtures of the whole suite, and the reasons to skip what a machine cannot run."""

from __future__ import annotations

import importlib.util
import os
import random
from typing import Any

# Tests are many small calls: more threads only wait for each other. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# A loaded machine is slow, not wrong; in CI a failure must come back the same on the next run.
settings.register_profile(
    "house", deadline=None, suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)  # fmt: skip
settings.load_profile("house")


_LEFT_OUT = pytest.StashKey[dict[str, int]]()


def _missing(marker: str) -> str | None:
    """Return what this run lacks for a marker's tests, or ``None``."""
    if marker == "gpu":
        import torch

        return None if torch.cuda.is_available() else "no NVIDIA GPU that torch can use"
    if importlib.util.find_spec({"tensorrt": "tensorrt", "interpret": "triton"}[marker]) is None:
        return f"{marker} tests need a package that is not installed"
    if marker == "interpret" and os.environ.get("TRITON_INTERPRET") != "1":
        return "they run with TRITON_INTERPRET=1: make test-interpret"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the machine, or this run, cannot execute; the summary says how many and why.

    They are not skips: a skip is a test of this run that could not do its work, and worth a look.
    """
    left_out: dict[str, int] = {}
    for marker in ("gpu", "tensorrt", "interpret"):
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = _missing(marker) if marked else None
        if reason is not None:
            left_out[f"{marker}: {reason}"] = len(marked)
            config.hook.pytest_deselected(items=marked)
            items[:] = [item for item in items if item not in set(marked)]
    config.stash[_LEFT_OUT] = left_out
    if hasattr(config, "workeroutput"):  # one of several processes, see below
        config.workeroutput["left_out"] = left_out


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep what the processes of a parallel run left out; they all collect the same tests."""
    node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests were left out."""
    for reason, count in terminalreporter.config.stash.get(_LEFT_OUT, {}).items():
        terminalreporter.write_line(f"left out {count} tests marked {reason}")


@pytest.fixture
def seeded() -> int:
    """Seed every generator a test may draw from; gives the seed."""
    import torch

    seed = 20260325
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed
