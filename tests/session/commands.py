"""What the tests of commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shotstream_rt.cli import main
from shotstream_rt.loading.layouts import available_models

SHOT_FRAMES = 81
"""Frames of a shot of the fake model."""

needs_nano = pytest.mark.skipif(
    "nano" not in available_models(), reason="this checkout carries no nano weights"
)


def refused(
    words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[str, dict[str, Any]]:
    """Run ``generate`` with words that it refuses, and return its error line and JSON report.

    Nothing in ``folder`` may change by it.
    """
    before = {path: path.lstat().st_mode for path in folder.rglob("*")}
    assert main(["generate", *words, "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert {path: path.lstat().st_mode for path in folder.rglob("*")} == before
    return captured.err, last_object(captured.out)


def last_object(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found


def write_story(path: Path, shots: int) -> Path:
    data = {f"shot{n + 1}": f"text/{n}" for n in range(shots)}
    path.write_text(json.dumps({"global_caption": "two friends.", **data}), "utf-8")
    return path
