"""Random calls of the native core, as it is installed; ``make fuzz`` uses one with sanitizers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_native_calls():
    script = Path(__file__).with_name("native_calls.py")
    done = subprocess.run(
        [sys.executable, script, "--calls", "30000"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert " 30000 calls" in done.stdout
