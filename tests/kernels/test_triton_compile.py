"""The offline compiler check, as the command that it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="compiles; the plain run does it"
)


def run(folder: Path, *arguments: str, interpret: str = "0") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TRITON_INTERPRET": interpret, "TRITON_CACHE_DIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "shotstream_rt.kernels.compile_check", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_machine_code_is_within_budget(tmp_path: Path) -> None:
    names = ["dual_attention", "qkv_append_rotated", "advance"]
    done = run(tmp_path, "--arch", "80", "90", "--kernel", *names, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["failed"] == 0
    reports = {(r["capability"], r["kernel"]): r for r in summary["kernels"]}
    assert set(reports) == {(arch, name) for arch in (80, 90) for name in names}
    attention = reports[90, "dual_attention"]
    assert attention["spill_bytes"] == 0
    assert attention["registers"] <= 200
    assert attention["instructions"]["HGMMA"] >= 32
    assert attention["instructions"]["UTMALDG"] > 0
    assert reports[80, "dual_attention"]["instructions"]["HMMA"] > 0
    assert reports[90, "qkv_append_rotated"]["instructions"]["STG.128"] == 3


@pytest.mark.parametrize(
    "arguments,interpret,message",
    [
        (["--kernel", "nothing"], "0", "nothing"),
        ([], "1", "TRITON_INTERPRET"),
    ],
    ids=["kernel", "interpreted"],
)
def test_mistakes_are_named(
    tmp_path: Path, arguments: list[str], interpret: str, message: str
) -> None:
    done = run(tmp_path, *arguments, interpret=interpret)
    assert done.returncode == 2
    assert message in done.stderr
