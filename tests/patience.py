"""Waiting for what must come, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 120
"""After so many seconds a wait is taken for one without an end; no test expects to get there."""


def wait_for(holds: Callable[[], bool]) -> None:
    """Return as soon as something holds; what other threads bring about takes its time.

    Args:
        holds: tells whether it does.
    """
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"waited for {PATIENCE_S} s"
        time.sleep(0.002)
