"""The bench on a machine that has torch and little else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WITHOUT = """
import runpy, sys
from importlib.machinery import PathFinder

missing = {"av", "cuda", "diffusers", "fastapi", "ftfy", "hypothesis", "IPython", "matplotlib",
           "nvtx", "onnx", "onnxruntime", "onnxscript", "openvino", "psutil", "pytest", "scipy",
           "sentencepiece", "tensorrt", "tokenizers", "transformers", "triton", "uvicorn",
           "websockets"}
find = PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None:
        None if name.partition(".")[0] in missing else find(name, path, target)
)
for name in missing:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} was imported although it was hidden")
sys.argv = ["shotstream_rt.bench", *sys.argv[1:]]
runpy.run_module("shotstream_rt.bench", run_name="__main__", alter_sys=True)
"""

TINY_RUN = ["--device", "cpu", "--threads", "1", "--warmup", "0", "--repeats", "1", "--json"]


def bench(words: list[str]) -> dict[str, Any]:
    """Run the bench in a process that has none of these packages; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *words],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("what", ["student", pytest.param("film", marks=pytest.mark.slow)])
def test_bench_runs_without_what_it_does_not_need(what: str, student_file: Path) -> None:
    asked = ["--student", str(student_file), "--random-weights", "--baseline"]
    if what == "film":
        asked = ["--workload", "nano-story", "--shots", "1", "--quick"]
    record = bench([*asked, *TINY_RUN])
    assert record["status"] == "ok"
    assert record["denoise_fps" if what == "student" else "e2e_fps"] > 0


@pytest.mark.slow
def test_a_film_is_profiled_without_them() -> None:
    """A real run of nano: modules that are imported late are imported in it."""
    words = ["profile", "--summary", "--memory", "--device", "cpu", "--threads", "1", "--json"]
    told = bench(words)
    assert {row["stage"] for row in told["summary"]["stages"]} >= {"step", "decode"}


def test_a_picture_that_cannot_be_drawn_is_told_before_anything_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "startup", "--plot", "a.png", "--json"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install matplotlib" in json.loads(done.stdout.splitlines()[-1])["error"]
