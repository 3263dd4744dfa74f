"""What the tests of commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shotstream_rt.loading.layouts import available_models

SHOT_FRAMES = 81
"""Frames of a shot of the fake model."""

needs_nano = pytest.mark.skipif(
    "nano" not in available_models(), reason="this checkout carries no nano weights"
)


def last_object(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found


def write_story(path: Path, shots: int) -> Path:
    data = {f"shot{n + 1}": f"text/{n}" for n in range(shots)}
    path.write_text(json.dumps({"global_caption": "two friends.", **data}), "utf-8")
    return path
