"""Interrupts lose no frame and leave no half-closed session."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="timers that send signals")
def test_interrupts() -> None:
    # A signal meets a whole process. In the suite's own it would also meet pytest's timer, and one
    # that comes late would end all tests that follow.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=0",
         "-o", "faulthandler_timeout=120",
         "-p", "no:xdist", Path(__file__).with_name("interrupts.py")],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout
