"""The one-command GPU check: its parts, and what it does with parts that go wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_check
import pytest
import torch
from device_check import build, gpu, process, runner
from device_check.part import Outcome, Part
from device_check.part_list import TEST_LIMIT_S, gpu_tests, parts
from device_check.report import (
    FILES,
    Report,
    ReportError,
    figures_of,
    read_report,
    source_digest,
    unpack,
)
from device_check.runner import hanging_tests, run_part, run_parts, to_run

from shotstream_rt.bench.__main__ import parser
from shotstream_rt.bench.profile_run import profile_parser
from shotstream_rt.bench.workloads import bundled_workloads
from shotstream_rt.profiles import PROFILES

from ..patience import wait_for

ROOT = Path(__file__).resolve().parents[2]
DEVICE = {"name": "Fake GPU", "sm": [9, 0], "torch": "2", "cuda": "13"}

FOREVER = "import time; time.sleep(1000)"
FIGURE = (
    "import json, pathlib, sys; pathlib.Path(sys.argv[1], 'film.json').write_text(json.dumps("
    "{'status': 'ok', 'metrics': [{'name': 'e2e_fps', 'p50': 21.5, 'ratio': 2.0}]}))"
)
UNCHECKED = (
    "import json, os, pathlib, sys; pathlib.Path(sys.argv[1], 'film.unchecked.json').write_text("
    "json.dumps({'status': 'not checked', 'metrics': [], 'unchecked': {'e2e_fps': 30.0}}))\n"
)


def _part(name: str, code: str, *arguments: str, limit_s: float = 100, **changes: Any) -> Part:
    command = [sys.executable, "-S", "-c", code, *arguments]
    return Part(name=name, command=command, limit_s=limit_s, **changes)


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(out=tmp_path / "out", sources="0123", device=DEVICE)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Calls the command line with fake parts on a fake device, into ``tmp_path/out``."""

    def run(
        chosen: Sequence[Part], *arguments: str, device: object = DEVICE, gpu_works: bool = True
    ) -> int:
        monkeypatch.setattr(gpu_check, "parts", lambda: list(chosen))
        monkeypatch.setattr(gpu_check, "discover", lambda: device)
        monkeypatch.setattr(gpu_check, "answers", lambda _: gpu_works)
        monkeypatch.setattr(gpu_check, "source_digest", lambda: "0123")
        return gpu_check.main([str(tmp_path / "out"), *arguments])

    return run


def _verdicts(out: Path) -> dict[str, str]:
    data = json.loads((out / "report.json").read_text())
    return {part["name"]: part["verdict"] for part in data["parts"]}


# ---- the list of parts


def test_figures_come_before_everything_else() -> None:
    names = [part.name for part in parts()]
    assert names[:6] == [
        "build", "first-exact", "first-fp8-tiny", "first-baseline", "first-cudnn", "first-gluon",
    ]  # fmt: skip
    order = ["tests-loop", "tests-kernels", "bench-attention", "bench-products", "bench-gluon",
             "bench-decoders", "counters-attention", "film-exact", "film-fp8-tiny", "film-fast",
             "film-tiny", "layout-0-21", "sanitizer"]  # fmt: skip
    assert sorted(order, key=names.index) == order
    assert names[-1] == "sanitizer"
    assert len(set(names)) == len(names)
    assert [part.name for part in parts() if part.vital] == ["build"]


def test_the_first_figures_fit_a_short_call() -> None:
    """What has to be there after a call of 330 s, at half of each limit."""
    first = {part.name: part.limit_s for part in parts()[:6]}
    assert sum(first.values()) / 2 < 330 - gpu.ANSWER_S
    assert sum(first[name] for name in ("build", "first-exact", "first-fp8-tiny")) / 2 <= 180


def test_every_profile_is_measured_as_a_film() -> None:
    measured = {
        part.command[part.command.index("--profile") + 1]
        for part in parts()
        if "film-480p" in part.command
    }
    assert measured == set(PROFILES)


def test_every_bench_file_is_run_once() -> None:
    run = [word for part in parts() for word in part.command if word.startswith("bench/bench_")]
    assert sorted(run) == sorted(f"bench/{path.name}" for path in ROOT.glob("bench/bench_*.py"))


def test_gpu_tests_are_found_by_their_marks() -> None:
    found = gpu_tests()
    assert "tests/backends/test_cuda_graph.py" in found
    assert not [name for name in found if name.startswith("tests/kernels")]
    assert all((ROOT / name).is_file() for name in found)


def test_commands_are_called_as_they_can_be() -> None:
    for part in parts():
        command = list(part.command)
        if "profile" in command:
            asked = profile_parser().parse_args(command[command.index("profile") + 1 :])
            assert asked.workload in bundled_workloads()
            assert "--kernel-name" in command
        elif "shotstream_rt.bench" in command:
            asked = parser().parse_args(command[command.index("shotstream_rt.bench") + 1 :])
            assert asked.workload in bundled_workloads()
            assert asked.profile in PROFILES
            assert asked.out == "{records}"
        elif "--timeout" in command:
            assert "-v" in command
            assert command[command.index("--timeout-method") + 1] == "thread"
            assert part.limit_s > TEST_LIMIT_S


# ---- one part


@pytest.mark.parametrize(
    ("code", "verdict", "exit_code", "told"),
    [
        ("print('fine')", "passed", 0, "fine"),
        ("raise SystemExit(5)", "failed", 5, "SystemExit"),
        ("import os; os.abort()", "failed", -signal.SIGABRT, "ended by SIGABRT"),
        (FOREVER, "timed out", None, "killed after 1 s"),
    ],
    ids=["passes", "fails", "crashes", "hangs"],
)
def test_a_part_costs_only_itself(
    work: Path, code: str, verdict: str, exit_code: int | None, told: str
) -> None:
    outcome = run_part(_part("part", code, limit_s=1 if code == FOREVER else 100), work, 1.0
                       if code == FOREVER else 100.0)  # fmt: skip
    assert (outcome.verdict, outcome.exit_code) == (verdict, exit_code)
    assert told in outcome.detail
    assert (work / "part.log").is_file()


def test_less_than_its_own_limit_is_cut_short(work: Path) -> None:
    assert run_part(_part("part", FOREVER), work, 0.5).verdict == "cut short"


def test_a_missing_tool_is_a_skip_with_its_reason(work: Path) -> None:
    outcome = run_part(Part(name="x", command=["x"], limit_s=1, needs="no-such-tool"), work, 1.0)
    assert (outcome.verdict, outcome.detail) == ("skipped", "no-such-tool is not installed")


def test_what_a_killed_part_started_is_killed_with_it(work: Path) -> None:
    code = (
        "import subprocess, sys; child = subprocess.Popen(['sleep', '1000'])\n"
        "print(child.pid, flush=True); child.wait()"
    )

    def look() -> None:
        if (work / "part.log").read_text():
            raise KeyboardInterrupt

    assert run_part(_part("part", code), work, 100.0, look=look).verdict == "cut short"
    pid = int((work / "part.log").read_text())
    wait_for(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_process_that_does_not_die_is_left_behind(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(process, "DYING_S", 0.1)
    monkeypatch.setattr(process.os, "killpg", lambda pid, _: asked.append(pid))
    with (work / "log").open("w") as log:
        code = process.run_bounded(["sleep", "1000"], log, 0.2)
    monkeypatch.undo()
    assert code is None
    (pid,) = asked
    assert _runs(pid)  # nobody waited for its end
    os.killpg(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def test_figures_that_no_oracle_saw_are_marked(work: Path, report: Report) -> None:
    report.add(run_part(_part("cut", UNCHECKED + "os.abort()", "{records}"), work, 100.0), work)
    report.add(run_part(_part("whole", FIGURE, "{records}"), work, 100.0), work)
    figures = {name: outcome.figures for name, outcome in report.outcomes.items()}
    assert figures == {
        "cut": {"status": "not checked", "e2e_fps": 30.0},
        "whole": {"e2e_fps": 21.5, "e2e_fps.ratio": 2.0},
    }
    assert set(report.records) == {"cut/film.unchecked", "whole/film"}


def test_a_record_is_kept_while_its_part_still_runs(work: Path, report: Report) -> None:
    """What the caller of this command kills is lost, but not what its parts had measured."""
    seen: list[set[str]] = []

    def look() -> None:
        report.look(work)
        if report.records:
            seen.append(set(json.loads((report.out / "records.json").read_text())))
            raise KeyboardInterrupt

    part = _part("part", UNCHECKED + FOREVER, "{records}")
    assert run_part(part, work, 100.0, look=look).verdict == "cut short"
    assert seen == [{"part/film.unchecked"}]


def test_a_verdict_takes_the_place_of_what_was_not_checked(report: Report, work: Path) -> None:
    folder = work / "records" / "film"
    folder.mkdir(parents=True)
    (folder / "a.unchecked.json").write_text('{"status": "not checked"}')
    report.look(work)
    (folder / "a.json").write_text('{"status": "ok"}')
    report.look(work)
    assert report.records == {"film/a": {"status": "ok"}}


def test_figures_name_the_kernel_and_the_baseline() -> None:
    metric = {"name": "kernel_ms", "p50": 1.5}
    records = {
        "bench/a": {"status": "ok", "metrics": [metric]},
        "bench/b": {"status": "ok", "metrics": [{**metric, "p50": 2.5}]},
        "film/x": {"status": "ok", "metrics": [], "method": {"baseline": {"attention": "cudnn"}}},
    }
    assert figures_of(records, "bench") == {"a kernel_ms": 1.5, "b kernel_ms": 2.5}
    assert figures_of(records, "film") == {"baseline": "cudnn"}


# ---- tests that hang


@pytest.mark.parametrize("ends", ["by its own limit", "from outside"])
def test_the_hanging_test_is_named(work: Path, tmp_path: Path, ends: str) -> None:
    file = tmp_path / "test_three.py"
    file.write_text(
        "import time\n\ndef test_good(): pass\n\ndef test_bad(): assert False\n\n"
        "def test_hangs(): time.sleep(1000)\n"
    )
    own = ends == "by its own limit"
    limit = ["--timeout", "3", "--timeout-method", "thread"] if own else []
    command = [
        sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", str(tmp_path), "-v",
        "-p", "no:cacheprovider", *limit, str(file),
    ]  # fmt: skip

    def look() -> None:
        if not own and "test_hangs" in (work / "tests.log").read_text():
            raise KeyboardInterrupt

    outcome = run_part(Part(name="tests", command=command, limit_s=300), work, 300.0, look=look)
    assert outcome.verdict == ("failed" if own else "cut short")
    (name,) = outcome.hanging
    assert name.endswith("test_three.py::test_hangs")


def test_the_hanging_test_of_a_worker_is_named() -> None:
    log = """\
tests/a.py::test_one[cpu 1]
tests/a.py::test_two
tests/b.py::test_three
tests/b.py::test_four
[gw0] [ 25%] PASSED tests/a.py::test_one[cpu 1]
[gw1] [ 50%] FAILED tests/a.py::test_two
worker 'gw2' crashed while running 'tests/b.py::test_three'
E   assert tests.py == 3
FAILED tests/a.py::test_two - AssertionError: x.py::y
"""
    assert hanging_tests(log) == ["tests/b.py::test_three", "tests/b.py::test_four"]


# ---- a run of parts


def _run(
    chosen: Sequence[Part], report: Report, work: Path, *, seconds: float = 300,
    works: Sequence[bool] = (),
) -> tuple[str | None, int]:  # fmt: skip
    """Run parts; returns why it stopped, and how often the GPU was asked."""
    answers = iter(works)
    asked = 0

    def answer(limit_s: float) -> bool:
        nonlocal asked
        asked += 1
        assert 0 < limit_s <= gpu.ANSWER_S
        return next(answers, True)

    reason = run_parts(
        chosen, report, work, until=time.monotonic() + seconds, done=lambda _: None,
        gpu_answers=answer,
    )  # fmt: skip
    return reason, asked


def test_what_is_done_is_written_before_the_next_part(report: Report, work: Path) -> None:
    peek = "import sys, pathlib; print(pathlib.Path(sys.argv[1], 'report.json').read_text())"
    chosen = [
        _part("good", FIGURE, "{records}"),
        _part("bad", "import os; print('last words', flush=True); os.abort()"),
        _part("peek", peek, str(report.out)),
    ]
    assert _run(chosen, report, work) == (None, 1)
    assert _verdicts(report.out) == {"good": "passed", "bad": "failed", "peek": "passed"}
    seen = json.loads((work / "peek.log").read_text())
    assert [part["verdict"] for part in seen["parts"]] == ["passed", "failed"]
    log = (report.out / "log.txt").read_text()
    assert "last words" in log and "===== peek: passed" in log
    assert sorted(path.name for path in report.out.iterdir()) == sorted(FILES)
    (path,) = unpack(report.out / "records.json", work / "results")
    assert path == work / "results" / "good" / "film.json"
    assert json.loads(path.read_text())["metrics"][0]["p50"] == 21.5


def test_the_gpu_is_asked_after_a_part_that_went_wrong(report: Report, work: Path) -> None:
    chosen = [
        _part("good", ""), _part("hangs", FOREVER, limit_s=0.5),
        _part("fails", "raise SystemExit(1)"), _part("next", ""),
    ]  # fmt: skip
    assert _run(chosen, report, work) == (None, 2)
    assert _verdicts(report.out)["next"] == "passed"


def test_a_lost_gpu_ends_the_run(report: Report, work: Path) -> None:
    chosen = [_part("hangs", FOREVER, limit_s=0.5), _part("next", "")]
    reason, _ = _run(chosen, report, work, works=[False])
    assert reason == "the GPU did not answer after hangs"
    assert _verdicts(report.out) == {"hangs": "timed out"}


def test_nothing_is_run_without_what_is_vital(report: Report, work: Path) -> None:
    chosen = [_part("build", "raise SystemExit(1)", vital=True), _part("next", "")]
    reason, asked = _run(chosen, report, work)
    assert (reason, asked) == ("build did not pass, and nothing works without it", 0)
    assert _verdicts(report.out) == {"build": "failed"}


def test_what_does_not_fit_is_left_and_what_does_is_run(
    report: Report, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_LEAST_SHARE", 0.1)  # so that there is time to begin the first
    chosen = [
        _part("cut", FOREVER, limit_s=3), _part("large", "", limit_s=300),
        _part("small", "", limit_s=0.5),
    ]  # fmt: skip
    begun = time.monotonic()
    _run(chosen, report, work, seconds=2)
    assert _verdicts(report.out)["cut"] == "cut short"
    assert _verdicts(report.out)["large"] == "left"
    assert "its limit is 300 s" in report.outcomes["large"].detail
    assert time.monotonic() - begun < 500  # or it waited for what it should have killed


# ---- going on


def test_a_resumed_run_does_what_is_open_first(report: Report) -> None:
    verdicts = {"build": "passed", "done": "passed", "slow": "timed out", "bad": "failed",
                "cut": "cut short", "late": "left", "tool": "skipped"}  # fmt: skip
    for name, verdict in verdicts.items():
        report.outcomes[name] = Outcome(name=name, verdict=verdict, limit_s=10)  # type: ignore[arg-type]
    chosen = [_part(name, "", limit_s=10) for name in (*verdicts, "new")]
    chosen[0] = replace(chosen[0], vital=True)
    again = to_run(chosen, report)
    assert [part.name for part in again] == [
        "build", "slow", "cut", "late", "tool", "new", "bad",
    ]  # fmt: skip
    assert [part.limit_s for part in again] == [10, 17, 10, 10, 10, 10, 10]


def test_two_calls_do_everything_once(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = "import sys; open(sys.argv[1], 'a').write(sys.argv[2])"
    ran = tmp_path / "ran"
    chosen = [
        _part("build", count, str(ran), "b", vital=True),
        _part("film", count + "\n" + FIGURE.replace("argv[1]", "argv[3]"), str(ran), "f",
              "{records}"),
        _part("large", count, str(ran), "l", limit_s=400),
    ]  # fmt: skip
    assert call(chosen, "--seconds", "190") == gpu_check.LEFT
    assert _verdicts(tmp_path / "out") == {"build": "passed", "film": "passed", "large": "left"}
    text = capsys.readouterr().out
    assert text.count("e2e_fps=21.5 e2e_fps.ratio=2") == 2  # when it came, and at the end
    assert "---- left: large" in text and "--resume" in text
    assert ran.read_text() == "bf"

    # The folder is carried to a fresh machine, and the results go elsewhere.
    carried = tmp_path / "carried"
    (tmp_path / "out").rename(carried)
    assert call(chosen, "--resume", str(carried), "--seconds", "500") == gpu_check.PASSED
    assert ran.read_text() == "bfbl"
    assert set(_verdicts(tmp_path / "out").values()) == {"passed"}
    assert set(json.loads((tmp_path / "out" / "records.json").read_text())) == {"film/film"}
    assert "===== film: passed" in (tmp_path / "out" / "log.txt").read_text()
    assert "e2e_fps=21.5" in capsys.readouterr().out
    # In place, and nothing is open.
    assert call(chosen, "--resume", "--seconds", "500") == gpu_check.PASSED
    assert ran.read_text() == "bfblb"


def test_a_report_of_another_tree_is_refused(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [_part("one", "")]
    assert call(chosen) == gpu_check.PASSED
    path = tmp_path / "out" / "report.json"
    path.write_text(path.read_text().replace('"0123"', '"beef"'))
    with pytest.raises(SystemExit) as stop:
        call(chosen, "--resume")
    assert stop.value.code == gpu_check.MISTAKE
    assert "got beef, wanted 0123" in capsys.readouterr().err


def test_a_report_of_another_gpu_is_refused(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [_part("one", "")]
    assert call(chosen) == gpu_check.PASSED
    with pytest.raises(SystemExit) as stop:
        call(chosen, "--resume", device={**DEVICE, "name": "Other GPU"})
    assert stop.value.code == gpu_check.MISTAKE
    assert "Other GPU" in capsys.readouterr().err


def test_an_earlier_report_is_not_overwritten(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call([_part("one", "")]) == gpu_check.PASSED
    before = (tmp_path / "out" / "report.json").read_text()
    with pytest.raises(SystemExit) as stop:
        call([_part("one", "")])
    assert stop.value.code == gpu_check.MISTAKE
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / "out" / "report.json").read_text() == before


@pytest.mark.parametrize("content", [None, "{", '{"parts": []}'], ids=["none", "broken", "other"])
def test_what_is_no_report_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        for name in FILES:
            (tmp_path / name).write_text(content)
    with pytest.raises(ReportError, match=r"report\.json"):
        read_report(tmp_path, tmp_path, "0123")


def test_the_digest_tells_sources_apart(tmp_path: Path) -> None:
    for name in ("CMakeLists.txt", "pyproject.toml", "setup.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "kernels").mkdir()
    kernel = tmp_path / "kernels" / "adaln.py"
    kernel.write_text("x = 1\n")
    first = source_digest(tmp_path)
    (tmp_path / "README.md").write_text("no source")
    (tmp_path / "kernels" / "adaln.pyc").write_text("made from one")
    assert source_digest(tmp_path) == first
    kernel.write_text("x = 2\n")
    assert source_digest(tmp_path) != first
    assert source_digest() == source_digest()


# ---- exit codes


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("", "PASSED"),
        ("raise SystemExit(1)", "NOT_PASSED"),
        ("import os; os.abort()", "NOT_PASSED"),
    ],
    ids=["passes", "fails", "crashes"],
)
def test_the_exit_code_tells_what_became_of_it(
    call: Callable[..., int], code: str, wanted: str
) -> None:
    assert call([_part("one", code)]) == getattr(gpu_check, wanted)


def test_a_failed_build_has_an_exit_code_of_its_own(
    call: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [_part("build", "print('g++: no'); raise SystemExit(1)", vital=True), _part("a", "")]
    assert call(chosen) == gpu_check.STOPPED
    text = capsys.readouterr().out
    assert "g++: no" in text and "---- left: a" in text
    assert "build" in json.loads((tmp_path / "out" / "report.json").read_text())["stopped"]


def test_a_lost_gpu_has_that_exit_code_too(call: Callable[..., int]) -> None:
    chosen = [_part("a", "import os; os.abort()"), _part("b", "")]
    assert call(chosen, gpu_works=False) == gpu_check.STOPPED


def test_told_to_stop_it_keeps_what_there_is() -> None:
    # The signal meets a whole process, so it must not be that of all tests.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         "-o", "timeout=0", "-o", "python_functions=told_to_stop", __file__],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def told_to_stop(call: Callable[..., int], tmp_path: Path) -> None:
    stop = "import os, signal, sys; os.kill(int(sys.argv[2]), signal.SIGTERM)\n" + FOREVER
    chosen = [
        _part("good", ""),
        _part("stops", UNCHECKED + stop, "{records}", str(os.getpid()), limit_s=300),
        _part("next", ""),
    ]
    assert call(chosen) == gpu_check.LEFT
    out = tmp_path / "out"
    assert _verdicts(out) == {"good": "passed", "stops": "cut short"}
    assert set(json.loads((out / "records.json").read_text())) == {"stops/film.unchecked"}
    assert json.loads((out / "report.json").read_text())["stopped"] == "told to stop"


@pytest.mark.parametrize("option", ["--only", "--skip"])
def test_an_unknown_part_is_a_mistake(
    call: Callable[..., int], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        call([_part("one", "")], option, "one,nope")
    assert stop.value.code == gpu_check.MISTAKE
    assert "no part nope; there are one" in capsys.readouterr().err


def test_some_parts_alone(call: Callable[..., int], tmp_path: Path) -> None:
    chosen = [_part(name, "") for name in "abc"]
    assert call(chosen, "--only", "a,b", "--skip", "b") == gpu_check.PASSED
    assert _verdicts(tmp_path / "out") == {"a": "passed"}


# ---- the real commands


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_make_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "gpu-check", f"GPU_PYTHON={sys.executable}", f"OUT={tmp_path}", "SECONDS=330"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "no GPU: torch sees no CUDA device" in done.stdout
    assert f"Error {gpu_check.NO_DEVICE}" in done.stderr
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["parts"] == [] and "CUDA" in data["device"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_a_torch_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "DISCOVER_S", 0.3)
    monkeypatch.setattr(gpu, "_DISCOVER", FOREVER)
    assert gpu.discover() == "torch did not start within 0 s"
    monkeypatch.setattr(gpu, "_MULTIPLY", FOREVER)
    assert not gpu.answers(0.3)


def test_a_bench_that_dies_in_its_check_leaves_its_medians(
    work: Path, report: Report, student_file: Path
) -> None:
    code = (
        "import os, sys\n"
        "from shotstream_rt.bench import student_run\n"
        "from shotstream_rt.bench.__main__ import main\n"
        "student_run.reference_pipeline = lambda *_, **__: os.abort()\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable, "-c", code, "--student", str(student_file), "--random-weights", "--device",
        "cpu", "--threads", "1", "--quick", "--repeats", "1", "--warmup", "0", "--baseline",
        "--out", "{records}",
    ]  # fmt: skip
    report.add(run_part(Part(name="bench", command=command, limit_s=300), work, 300.0), work)
    outcome = report.outcomes["bench"]
    assert "ended by SIGABRT" in outcome.detail
    assert outcome.figures["status"] == "not checked"
    assert outcome.figures["baseline"] == "torch"
    assert float(outcome.figures["denoise_fps"]) > 0
    assert float(outcome.figures["denoise_no_commit_fps.ratio"]) > 0


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
