"""What docs/operate.md says of scheduling holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from shotstream_rt.loading.project_layout import NANO_FOLDER
from shotstream_rt.serve.limits import Limits

TEXT = (Path(__file__).resolve().parents[2] / "docs/operate.md").read_text("utf-8")


def test_the_example_runs() -> None:
    if not (NANO_FOLDER / "student.json").is_file():
        pytest.skip("this checkout has no nano weights")
    (found,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
        if "Scheduler" in block
    ]
    names: dict[str, Any] = {}
    exec(found, names)
    shown: list[Any] = []
    names["play"](shown.append)
    assert len(shown) == 18
    assert {pixels.shape for pixels in shown} == {(96, 160, 3)}


def test_the_document_names_the_limits() -> None:
    limits = Limits()
    assert f"`--sessions` ({limits.sessions})" in TEXT
    assert f"`token_messages_per_second` ({limits.token_messages_per_second})" in TEXT
    assert f"pauses after {limits.idle_pause_s} seconds" in TEXT
    assert limits.idle_sleep_s == 60, "after a minute"
