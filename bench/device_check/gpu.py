"""The GPU, asked from processes of their own: which one there is, and whether it still works."""

from __future__ import annotations

import json
import tempfile
from typing import Any

from .process import PYTHON, run_bounded

DISCOVER_S = 120.0
ANSWER_S = 40.0

_DISCOVER = """
import json, torch
if not torch.cuda.is_available():
    raise SystemExit("torch sees no CUDA device (torch.cuda.is_available() is false)")
p = torch.cuda.get_device_properties(0)
print(json.dumps({"name": p.name, "sm": [p.major, p.minor], "torch": torch.__version__,
                  "cuda": torch.version.cuda}))
"""

_MULTIPLY = """
import torch
x = torch.ones(1024, 1024, device="cuda")
assert float((x @ x).sum()) == 1024.0**3
"""


def discover() -> dict[str, Any] | str:
    """Describe the first CUDA device, or say why there is none."""
    code, text = _ask(_DISCOVER, DISCOVER_S)
    if code is None:
        return f"torch did not start within {DISCOVER_S:.0f} s"
    last = (text.strip().splitlines() or ["torch did not start"])[-1]
    if code != 0:
        return last
    device: dict[str, Any] = json.loads(last)
    return device


def answers(limit_s: float) -> bool:
    """Return whether the GPU still multiplies matrices."""
    return _ask(_MULTIPLY, limit_s)[0] == 0


def _ask(program: str, limit_s: float) -> tuple[int | None, str]:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        code = run_bounded([PYTHON, "-c", program], log, limit_s)
        log.seek(0)
        return code, log.read()
