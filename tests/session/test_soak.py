"""The soak in its short form; ``make soak`` runs it for half an hour."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "soak.py"


@pytest.mark.slow
def test_some_seconds_of_everything() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--minutes", "0.1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "gaps between frames: 0" in done.stdout
