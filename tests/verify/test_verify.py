"""Parity with ShotStream on the golden subset that travels with the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from shotstream_rt import verify
from shotstream_rt.cli import main
from shotstream_rt.errors import ConfigError
from shotstream_rt.verify.check import Check, relative_error

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("case", verify.find(GOLDEN), ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_golden_case_passes(case: verify.GoldenCase, dtype: torch.dtype) -> None:
    report = verify.run(case, dtype)
    failed = [check for check in report.checks if not check.passed]
    assert report.checks
    assert not failed


def test_a_wrong_number_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = [c for c in verify.find(GOLDEN) if c.name == "g_teacher"]
    case.tensors["x"] = case["x"] * 1.001
    assert not verify.run(case, torch.float32).passed


def test_nan_never_passes() -> None:
    assert not Check("x", float("nan"), 1.0).passed
    assert relative_error(torch.zeros(2), torch.zeros(3)) == float("inf")


def test_command_reports_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(GOLDEN), "--case", "a_", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["passed"] and report["cases"][0]["case"] == "a_scheduler"


def test_missing_folder_is_a_user_error(tmp_path: Path) -> None:
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    with pytest.raises(ConfigError, match="no golden case"):
        verify.find(tmp_path)
