"""Fixtures of the whole suite, and the reasons to skip what a machine cannot run."""

from __future__ import annotations

import importlib.util
import os
import random

# Tests are many small calls: more threads only wait for each other. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

# A loaded machine is slow, not wrong; in CI a failure must come back the same on the next run.
settings.register_profile("house", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("house")


def _missing(marker: str) -> str | None:
    if marker == "gpu":
        import torch

        return None if torch.cuda.is_available() else "no NVIDIA GPU that torch can use"
    package = {"tensorrt": "tensorrt", "interpret": "triton"}[marker]
    return None if importlib.util.find_spec(package) else f"{package} is not installed"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what the machine cannot run."""
    for marker in ("gpu", "tensorrt", "interpret"):
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = _missing(marker) if marked else None
        for item in marked if reason else ():
            item.add_marker(pytest.mark.skip(reason=f"{marker}: {reason}"))


@pytest.fixture
def seeded() -> int:
    """Seed every generator a test may draw from; gives the seed."""
    import torch

    seed = 20260325
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed
