"""Fixtures of the whole suite."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest

# Two tests on two cores must not fight over every core; set before torch starts its threads.
os.environ.setdefault("OMP_NUM_THREADS", "2")


@pytest.fixture
def seeded() -> Iterator[int]:
    """Seed every generator a test may draw from; gives the seed."""
    import torch

    seed = 20260325
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    yield seed
