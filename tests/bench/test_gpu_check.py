"""The one-command GPU check: up to device discovery, and its handling of parts that go wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "bench/gpu_check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_gpu_it_says_so_and_runs_nothing(
    gpu_check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_check.main([str(tmp_path)]) == gpu_check.NO_DEVICE
    assert "no GPU" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["parts"] == [] and "CUDA" in report["device"]


def test_limits_leave_room_in_ten_minutes(gpu_check: ModuleType) -> None:
    assert sum(part.limit_s for part in gpu_check.parts()) <= 540


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("print('fine')", "passed"),
        ("raise SystemExit(5)", "failed"),
        ("import os; os.abort()", "failed"),
        ("import time; time.sleep(60)", "timed out"),
    ],
    ids=["passes", "fails", "crashes", "hangs"],
)
def test_a_part_costs_only_itself(
    gpu_check: ModuleType, tmp_path: Path, code: str, verdict: str
) -> None:
    part = gpu_check.Part(name="part", command=[sys.executable, "-c", code], limit_s=1.5)
    outcome = gpu_check.run(part, tmp_path)
    assert outcome.verdict == verdict
    assert (tmp_path / "part.log").is_file()


def test_a_missing_tool_is_a_skip_with_its_reason(gpu_check: ModuleType, tmp_path: Path) -> None:
    part = gpu_check.Part(name="x", command=["x"], limit_s=1, needs="no-such-tool")
    outcome = gpu_check.run(part, tmp_path)
    assert (outcome.verdict, outcome.detail) == ("skipped", "no-such-tool is not installed")
