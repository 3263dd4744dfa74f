"""Parity with ShotStream on the golden subset that travels with the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from shotstream_rt import verify
from shotstream_rt.backends import registry
from shotstream_rt.cli import main
from shotstream_rt.errors import ConfigError
from shotstream_rt.verify.check import Check, relative_error

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("case", verify.find(GOLDEN), ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_golden_case_passes(case: verify.GoldenCase, dtype: torch.dtype) -> None:
    report = verify.run(case, verify.VerifyOptions(dtype=dtype))
    failed = [check for check in report.checks if not check.passed]
    assert report.checks
    assert not failed


def test_a_wrong_number_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = [c for c in verify.find(GOLDEN) if c.name == "g_teacher"]
    case.tensors["x"] = case["x"] * 1.001
    assert not verify.run(case, verify.VerifyOptions()).passed


@pytest.mark.parametrize("kernels", ["reference", "torch"])
def test_passes_are_run_with_the_kernels_asked_for(kernels: str) -> None:
    (case,) = [c for c in verify.find(GOLDEN) if c.name.startswith("c_")]
    assert verify.run(case, verify.VerifyOptions(kernels=kernels)).passed


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps what one backend exports for the next: they read the same."""
    return tmp_path_factory.mktemp("engines")


@pytest.mark.parametrize("entry", registry.ENTRIES, ids=lambda entry: entry.name)
def test_every_backend_is_verified_or_says_why_not(
    entry: registry.BackendEntry, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    why = entry.unavailable_reason(torch.device("cpu"))
    words = ["verify", str(GOLDEN), "--backend", entry.name, "--json", "--case"]
    # The options of the other case are a configuration each, which takes engines half a minute.
    if entry.name in registry.ENGINE_LIBRARIES:
        words += ["d_", "--engines", str(engines)]
    else:
        words += ["e_"]
    code = main(words)
    output = capsys.readouterr()
    if why is None:
        assert code == 0
        assert json.loads(output.out.splitlines()[-1])["passed"]
    else:
        assert code == 2
        assert why in output.err


def test_a_backend_or_kernel_set_that_is_not_there_is_a_user_error() -> None:
    for choice in ("--backend", "--kernels"):
        assert main(["verify", str(GOLDEN), "--case", "e_", choice, "warp"]) == 2


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
