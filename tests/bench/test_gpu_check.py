"""The one-command GPU check: up to device discovery, and its handling of parts that go wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from shotstream_rt.bench.__main__ import parser
from shotstream_rt.bench.profile_run import profile_parser
from shotstream_rt.bench.workloads import bundled_workloads
from shotstream_rt.profiles import PROFILES

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
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "log.txt", "records.json", "report.json",
    ]  # fmt: skip


def test_every_profile_and_no_name_twice(gpu_check: ModuleType) -> None:
    parts = gpu_check.parts()
    assert len({part.name for part in parts}) == len(parts)
    measured = {
        part.command[part.command.index("--profile") + 1]
        for part in parts
        if "film-480p" in part.command
    }
    assert measured == set(PROFILES)


def test_gpu_tests_are_found_by_their_marks(gpu_check: ModuleType) -> None:
    found = gpu_check.gpu_tests()
    assert "tests/backends/test_cuda_graph.py" in found
    assert not [name for name in found if name.startswith("tests/kernels")]
    assert all((ROOT / name).is_file() for name in found)


def test_benches_are_called_as_they_can_be(gpu_check: ModuleType) -> None:
    for part in gpu_check.parts():
        command = list(part.command)
        if "shotstream_rt.bench" in command and "profile" not in command:
            asked = parser().parse_args(command[command.index("shotstream_rt.bench") + 1 :])
            assert asked.workload in bundled_workloads()
            assert asked.profile in PROFILES
        if "profile" in command:
            asked = profile_parser().parse_args(command[command.index("profile") + 1 :])
            assert asked.workload in bundled_workloads()


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
    outcome = gpu_check.run(_part(gpu_check, "part", code, limit_s=1.5), tmp_path)
    assert outcome.verdict == verdict
    assert (tmp_path / "part.log").is_file()


def test_what_is_done_is_written_before_the_next_part(
    gpu_check: ModuleType, tmp_path: Path
) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    out.mkdir()
    save = "import pathlib, sys; pathlib.Path(sys.argv[1], 'one.json').write_text('{\"a\": 1}')"
    chosen = [
        _part(gpu_check, "good", save, "{records}"),
        _part(gpu_check, "bad", "import os; print('last words', flush=True); os.abort()"),
        _part(gpu_check, "next", "print('still here')"),
    ]
    seen = []
    for outcomes in gpu_check.run_all(chosen, work):
        gpu_check.write_results(out, work, {"name": "fake"}, outcomes)
        seen.append(json.loads((out / "report.json").read_text())["parts"][-1]["verdict"])
    assert seen == ["passed", "failed", "passed"]
    assert json.loads((out / "records.json").read_text()) == {"one": {"a": 1}}
    log = (out / "log.txt").read_text()
    assert "last words" in log and "still here" in log
    (path,) = gpu_check.unpack(out / "records.json", tmp_path / "results")
    assert (path.name, json.loads(path.read_text())) == ("one.json", {"a": 1})


def test_what_no_time_is_left_for_is_skipped(gpu_check: ModuleType, tmp_path: Path) -> None:
    chosen = [
        _part(gpu_check, "hangs", "import time; time.sleep(60)", limit_s=1.5),
        _part(gpu_check, "late", "print()", limit_s=30),
    ]
    *_, outcomes = gpu_check.run_all(chosen, tmp_path, total_s=2)
    assert [outcome.verdict for outcome in outcomes] == ["timed out", "skipped"]
    assert "--only" in outcomes[1].detail


def test_a_missing_tool_is_a_skip_with_its_reason(gpu_check: ModuleType, tmp_path: Path) -> None:
    part = gpu_check.Part(name="x", command=["x"], limit_s=1, needs="no-such-tool")
    outcome = gpu_check.run(part, tmp_path)
    assert (outcome.verdict, outcome.detail) == ("skipped", "no-such-tool is not installed")


def test_an_unknown_part_is_a_mistake(
    gpu_check: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        gpu_check.main([str(tmp_path), "--only", "build,nope"])
    assert stop.value.code == 2
    assert "no part nope" in capsys.readouterr().err


def _part(
    gpu_check: ModuleType, name: str, code: str, *arguments: str, limit_s: float = 20
) -> object:
    command = [sys.executable, "-c", code, *arguments]
    return gpu_check.Part(name=name, command=command, limit_s=limit_s)
