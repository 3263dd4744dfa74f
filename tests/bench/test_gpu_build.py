"""What the GPU check builds: the native core, and the kernels' machine code."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from device_check import build, process

from .gpu_parts import ROOT


def test_the_build_tries_pip_when_cmake_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []

    def cmake() -> None:
        tried.append("cmake")
        raise subprocess.CalledProcessError(1, "cmake")

    def pip() -> None:
        tried.append("pip")

    assert build.build_core([cmake, pip]) is None  # the core is there already
    assert tried == ["cmake", "pip"]
    assert "cmake: Command 'cmake' returned non-zero" in capsys.readouterr().out
    monkeypatch.setattr(build, "import_failure", lambda: "no module")
    assert build.build_core([pip]) == "no module"


def test_cmake_is_found_beside_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cmake = tmp_path / "cmake"
    cmake.write_text("#!/bin/sh\n")
    cmake.chmod(0o755)
    monkeypatch.setattr(process, "PYTHON", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert build.find_cmake() == str(cmake)
    cmake.unlink()
    with pytest.raises(FileNotFoundError, match="pip install cmake"):
        build.find_cmake()


def test_compiling_ends_with_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    running = [subprocess.Popen(["sleep", "1000"]), subprocess.Popen(["true"])]
    running[1].wait()
    build.finish_compiling(running, time.monotonic())
    assert running[0].wait() == -signal.SIGKILL
    assert "1 of 2 processes were ended unfinished" in capsys.readouterr().out


def test_kernels_are_compiled_for_an_architecture() -> None:
    pytest.importorskip("triton", reason="kernels are compiled by Triton")
    done = subprocess.run(
        [sys.executable, "bench/device_check/compile_kernels.py", "--arch", "90", "--kernel",
         "frame_pack"],
        cwd=ROOT, env=process.environment(), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kernel frame_pack sm_90" in done.stdout
